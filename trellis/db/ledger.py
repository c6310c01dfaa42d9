"""The ledger. One method for each thing that happens to an order; each is one round trip and one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString, TypeVar

from psycopg.rows import BaseRowFactory, class_row, kwargs_row, scalar_row, tuple_row
from psycopg.types.json import Jsonb

from trellis.db.pool import Pool, borrowed
from trellis.db.rows import EventRow, OrderLine, OrderRow, read_order
from trellis.db.tries import FailedTry, Tried
from trellis.db.written import log_written
from trellis.faults import FaultPlan, PlanInForce
from trellis.messages import FenceAnswer
from trellis.model import ENDINGS, Address, EventType, Order, State, event_id
from trellis.policies import Policy

T = TypeVar("T")

_EVENT: LiteralString = (
    "id, event_id, order_id, type, step, attempt, round, execution, try AS try_, started_at, duration_ms, worker, "
    "payload_json, ts"
)
_ORDER: LiteralString = """
    SELECT o.id, o.state, o.total, o.items_json, o.address_json, o.policy_json, o.fingerprint, o.last_error,
           o.claimed_at, o.closing_at, o.reconciled, o.ending, o.ending_reason, o.ending_request, o.created_at,
           o.updated_at,
           (SELECT jsonb_build_object('payment_id', p.payment_id, 'order_id', p.order_id, 'status', p.status,
                'amount', p.amount, 'created_at', p.created_at, 'updated_at', p.updated_at)
            FROM payments p WHERE p.order_id = o.id) AS payment,
           coalesce((SELECT jsonb_agg(jsonb_build_object('id', s.id, 'order_id', s.order_id, 'round', s.round,
                'status', s.status, 'tracking', s.tracking, 'payload_json', s.payload_json,
                'created_at', s.created_at, 'updated_at', s.updated_at) ORDER BY s.round)
            FROM shipments s WHERE s.order_id = o.id), '[]') AS shipments
    FROM orders o WHERE o.id = %s
"""


_TRY: LiteralString = "ROW(%s, %s, %s, %s, %s, %s, %s)::try_info"


class Ledger:
    """`worker` names this process in the log lines of what it writes."""

    def __init__(self, pool: Pool, worker: str | None = None) -> None:
        self._pool = pool
        self._worker = worker

    async def _write(
        self, call: LiteralString, order_id: str, tried: Tried | None, *args: object, reason: str = ""
    ) -> tuple[Any, ...]:
        """Call a function of sql/003 and log the events that it added, with the numbers that it gave them."""
        # Postgres runs the function before it computes the select list, so the setting is read after the events were
        # added.
        row = await self._row(f"SELECT current_setting('trellis.written', true), called.* FROM {call} AS called", *args)
        log_written(order_id, row[0], tried, self._worker, reason)
        return row[1:]

    async def _row(self, sql: LiteralString, *args: object) -> tuple[Any, ...]:
        async with borrowed(self._pool) as connection:
            row = await (await connection.execute(sql, args)).fetchone()
        return tuple(row) if row else ()

    async def _rows(self, kind: BaseRowFactory[T], sql: LiteralString, *args: object) -> list[T]:
        async with borrowed(self._pool) as connection:
            cursor = connection.cursor(row_factory=kind)
            return await (await cursor.execute(sql, args)).fetchall()

    # --- tries ---------------------------------------------------------------------------------------------

    async def add_failed_try(self, failed: FailedTry) -> None:
        tried = failed.tried
        await self._write(
            f"add_event(%s, %s, %s, {_TRY}, %s)",
            tried.id.order_id, tried,
            tried.id.event_id, tried.id.order_id, failed.type, *tried.row(),
            Jsonb(tried.payload() | {"error": failed.error}), reason=failed.error,
        )  # fmt: skip

    # --- steps ---------------------------------------------------------------------------------------------

    async def receive(self, order: Order, policy: Policy, tried: Tried | None) -> str | None:
        """Insert the order. Returns the order that owns the payment id, if that is another one."""
        (owner,) = await self._write(
            f"receive_order(%s, %s, %s, %s, %s, %s, %s, %s, {_TRY}, %s)",
            order.order_id, tried,
            event_id(order.order_id, EventType.ORDER_RECEIVED), order.order_id,
            Jsonb([asdict(item) for item in order.items]),
            Jsonb(asdict(order.address)) if order.address else None,
            Decimal(order.total_cents) / 100, Jsonb(asdict(policy)), order.fingerprint(), order.payment_id,
            *_row_of(tried), Jsonb(_payload_of(tried)),
        )  # fmt: skip
        return None if owner is None else str(owner)

    async def validate(self, order_id: str, tried: Tried) -> None:
        await self._write(
            f"validate_order(%s, %s, %s, {_TRY}, %s)",
            order_id, tried,
            event_id(order_id, EventType.ORDER_VALIDATED), event_id(order_id, EventType.AWAITING_APPROVAL),
            order_id, *tried.row(), Jsonb(tried.payload()),
        )  # fmt: skip

    async def claim_charge(self, order_id: str) -> tuple[str, bool]:
        """(payment status, is the order being undone)."""
        row = await self._row("SELECT status, closing FROM claim_charge(%s)", order_id)
        return (str(row[0]), bool(row[1])) if row and row[0] else ("MISSING", True)

    async def record_charge(self, order: Order, tried: Tried) -> bool:
        (recorded,) = await self._write(
            f"record_charge(%s, %s, {_TRY}, %s)",
            order.order_id, tried,
            event_id(order.order_id, EventType.PAYMENT_CHARGED), order.order_id, *tried.row(),
            Jsonb(tried.payload() | {"payment_id": order.payment_id, "amount": f"{order.total_cents / 100:.2f}"}),
        )  # fmt: skip
        return bool(recorded)

    async def prepare(self, order_id: str, round_: int, tried: Tried) -> bool:
        (open_,) = await self._write(
            f"prepare_package(%s, %s, %s, %s, {_TRY}, %s)",
            order_id, tried,
            event_id(order_id, EventType.SHIPPING_STARTED), event_id(order_id, EventType.PACKAGE_PREPARED, round_),
            order_id, round_, *tried.row(), Jsonb(tried.payload()),
        )  # fmt: skip
        return bool(open_)

    async def claim_dispatch(self, order_id: str) -> tuple[bool, object]:
        """(claimed, the address fixed by the claim)."""
        row = await self._row("SELECT * FROM claim_dispatch(%s)", order_id)
        return (True, row[0]) if row else (False, None)

    async def record_dispatch(self, order_id: str, round_: int, tracking: str, tried: Tried | None) -> None:
        await self._write(
            f"record_dispatch(%s, %s, %s, %s, {_TRY}, %s)",
            order_id, tried,
            event_id(order_id, EventType.CARRIER_DISPATCHED), order_id, round_, tracking, *_row_of(tried),
            Jsonb(_payload_of(tried)),
        )  # fmt: skip

    async def ship(self, order_id: str, tried: Tried | None) -> None:
        await self._write(
            f"move_order(%s, %s, '{{SHIPPING}}', 'SHIPPED', 'ORDER_SHIPPED', {_TRY}, %s)",
            order_id, tried,
            event_id(order_id, EventType.ORDER_SHIPPED), order_id, *_row_of(tried), Jsonb(_payload_of(tried)),
        )  # fmt: skip

    async def record_refund(self, order: Order, refunded: bool, reason: str, tried: Tried | None) -> None:
        await self._write(
            f"record_refund(%s, %s, %s, %s, {_TRY}, %s)",
            order.order_id, tried,
            event_id(order.order_id, EventType.PAYMENT_REFUNDED), event_id(order.order_id, EventType.PAYMENT_FAILED),
            order.order_id, refunded, *_row_of(tried),
            Jsonb(
                _payload_of(tried)
                | {"payment_id": order.payment_id, "amount": f"{order.total_cents / 100:.2f}", "reason": reason}
            ),
        )  # fmt: skip

    # --- ledger-only steps ---------------------------------------------------------------------------------

    async def approve(self, order_id: str, request_id: str, by: str) -> None:
        await self._write(
            "add_event(%s, %s, 'ORDER_APPROVED', "
            "ROW('approve', NULL, NULL, NULL, NULL, NULL, NULL)::try_info, %s)",
            order_id, None,
            event_id(order_id, EventType.ORDER_APPROVED), order_id, Jsonb({"request_id": request_id, "by": by}),
        )  # fmt: skip

    async def change_address(self, order_id: str, request_id: str, address: Address) -> str | None:
        """None, or the reason for a refusal, which is then written too."""
        (why,) = await self._write(
            "change_address(%s, %s, %s, %s, %s)",
            order_id, None,
            event_id(order_id, EventType.ADDRESS_UPDATED, request_id),
            event_id(order_id, EventType.REQUEST_REFUSED, request_id),
            order_id, request_id, Jsonb(asdict(address)),
        )  # fmt: skip
        return None if why is None else str(why)

    async def close(
        self, order_id: str, ending: State, reason: str, request_id: str = "", *, released: bool = False
    ) -> FenceAnswer:
        """Raise the fence; see sql/004."""
        closed, claimed, ends, why = await self._row(
            "SELECT closed, claimed, ending, reason FROM close_order(%s, %s, %s, %s, %s)",
            order_id, released, ending, reason, request_id,
        )  # fmt: skip
        return FenceAnswer(bool(closed), bool(claimed), ends or "", why or "")

    async def refuse(self, order_id: str, request_id: str, request: str, reason: str) -> None:
        await self._write(
            "refuse_request(%s, %s, %s, %s, %s)",
            order_id, None,
            event_id(order_id, EventType.REQUEST_REFUSED, request_id), order_id, request_id, request, reason,
            reason=reason,
        )  # fmt: skip

    async def fail_dispatch(self, order_id: str, round_: int, reason: str) -> None:
        await self._write(
            "fail_dispatch(%s, %s, %s, %s)",
            order_id, None,
            event_id(order_id, EventType.DISPATCH_FAILED, round_), order_id, round_, reason,
            reason=reason,
        )  # fmt: skip

    async def finish(self, order_id: str, state: State, reason: str) -> None:
        await self._end("finish_order", order_id, state, reason)

    async def reconcile(self, order_id: str, state: State, reason: str) -> None:
        """`finish` for an order whose workflow no longer runs. The row and the event are marked as reconciled."""
        await self._end("reconcile_order", order_id, state, reason)

    async def _end(self, function: LiteralString, order_id: str, state: State, reason: str) -> None:
        type_, step = ENDINGS[state]
        await self._write(
            f"{function}(%s, %s, %s, %s, %s, %s, %s)",
            order_id, None,
            event_id(order_id, type_), event_id(order_id, EventType.PAYMENT_FAILED), order_id, state, type_, step,
            Jsonb({"reason": reason} if reason else {}), reason=reason,
        )  # fmt: skip

    # --- reading -------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """One round trip. Raises DatabaseUnavailable."""
        await self._row("SELECT 1")

    async def order(self, order_id: str) -> OrderRow | None:
        """The order's row with its payment and shipments, in one round trip; None where there is none."""
        rows = await self._rows(kwargs_row(read_order), _ORDER, order_id)
        return rows[0] if rows else None

    async def longest_run(self, order_id: str, margin: timedelta) -> tuple[datetime, bool]:
        """The latest end of the run timeout of a known order, and whether that time has passed."""
        until, over = await self._row(
            "SELECT until, until < clock_timestamp() FROM (SELECT created_at + %s + make_interval(secs => coalesce("
            "(policy_json ->> 'run_timeout')::float8, (policy_json ->> 'review_window')::float8 + "
            "(policy_json ->> 'budget')::float8 + 60)) AS until FROM orders WHERE id = %s) AS run",
            margin,
            order_id,
        )
        return until, bool(over)

    async def known(self, order_id: str, payment_id: str) -> tuple[str | None, str | None]:
        """(the order that owns this payment id, the fingerprint of the order with this id); None where there is none.

        One round trip: every start asks this.
        """
        owner, fingerprint = await self._row(
            "SELECT (SELECT order_id FROM payments WHERE payment_id = %s), "
            "(SELECT fingerprint FROM orders WHERE id = %s)",
            payment_id,
            order_id,
        )
        return owner, fingerprint

    async def outcome_of(self, order_id: str, request_id: str) -> str | None:
        """The type of the event that a request led to, or None."""
        row = await self._row(
            "SELECT type FROM events WHERE order_id = %s AND payload_json ->> 'request_id' = %s LIMIT 1",
            order_id,
            request_id,
        )
        return str(row[0]) if row else None

    async def events(self, order_id: str, last: int | None = None) -> list[EventRow]:
        """An order's events, oldest first; only the `last` ones if given."""
        return await self._rows(
            class_row(EventRow),
            f"SELECT * FROM (SELECT {_EVENT} FROM events WHERE order_id = %s ORDER BY id DESC LIMIT %s) newest "
            "ORDER BY id",
            order_id,
            last,
        )

    async def orders(self, state: str | None, limit: int, after: tuple[datetime, str] | None) -> list[OrderLine]:
        """Newest first, at most `limit`; `after` is the (created_at, id) of the last row of the page before."""
        created, id_ = after or (None, None)
        return await self._rows(
            class_row(OrderLine),
            "SELECT id, state, total, last_error, created_at, updated_at FROM orders "
            "WHERE (%s::text IS NULL OR state = %s) AND (%s::timestamptz IS NULL OR (created_at, id) < (%s, %s)) "
            "ORDER BY created_at DESC, id DESC LIMIT %s",
            state, state, created, created, id_, limit,
        )  # fmt: skip

    async def open_orders(self, page: int = 500) -> AsyncIterator[str]:
        """The ids of all orders that have not ended, in their order, a page at a time."""
        after = ""
        while True:
            ids = await self._rows(
                scalar_row,
                "SELECT id FROM orders WHERE id > %s "
                "AND state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'APPROVAL_TIMEOUT') ORDER BY id LIMIT %s",
                after,
                page,
            )
            for id_ in ids:
                yield id_
            if len(ids) < page:
                return
            after = ids[-1]

    async def counts(self) -> dict[str, int]:
        """How many orders are in each state."""
        return dict(await self._rows(tuple_row, "SELECT state, count(*) FROM orders GROUP BY 1"))

    async def charges(self, order_id: str) -> int:
        """How often the order was charged, by the provider's records."""
        (number,) = await self._row("SELECT count(*) FROM provider.charges WHERE order_id = %s", order_id)
        return int(number)

    async def attempts_per_step(self) -> dict[str, float]:
        """Mean attempts that an order's outside steps took until they succeeded."""
        return dict(
            await self._rows(
                tuple_row,
                "SELECT step, avg(attempt)::float8 FROM events "
                "WHERE attempt IS NOT NULL AND type NOT LIKE 'ATTEMPT%%' GROUP BY step ORDER BY min(id)",
            )
        )

    # --- faults --------------------------------------------------------------------------------------------

    async def fault_plan(self) -> PlanInForce | None:
        row = await self._row("SELECT version, plan_json, since FROM fault_plans ORDER BY version DESC LIMIT 1")
        return PlanInForce(FaultPlan.from_json(row[1]), int(row[0]), row[2]) if row else None

    async def set_fault_plan(self, plan: FaultPlan, *, keep_outages: bool = False) -> PlanInForce:
        """Put a plan in force. Its outages begin now. With `keep_outages`, those of the plan before go on if they are
        the same."""
        given = Jsonb(plan.to_json())
        version, since = await self._row(
            "INSERT INTO fault_plans (plan_json, since) SELECT %s, coalesce((SELECT since FROM ("
            "SELECT since, plan_json FROM fault_plans ORDER BY version DESC LIMIT 1) AS before "
            "WHERE before.plan_json -> 'outages' = %s -> 'outages' AND %s), clock_timestamp()) "
            "RETURNING version, since",
            given, given, keep_outages,
        )  # fmt: skip
        return PlanInForce(plan, int(version), since)


def _row_of(tried: Tried | None) -> tuple[object, ...]:
    return tried.row() if tried else (None,) * 7


def _payload_of(tried: Tried | None) -> dict[str, Any]:
    return tried.payload() if tried else {}

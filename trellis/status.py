"""The status of an order: the ledger's row, the workflow's answer to its query, and Temporal's description, joined."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import QueryRejectCondition
from temporalio.service import RPCError

from trellis.db.ledger import Ledger
from trellis.db.rows import EventRow, OrderRow, PaymentRow, Record, ShipmentRow
from trellis.errors import OrderNotFound
from trellis.messages import Status
from trellis.model import ATTEMPTS, REVIEW, EventType, State, shipping_workflow_id, workflow_id
from trellis.parsing import parse_id
from trellis.rules import newest_progress, next_step, permissions
from trellis.temporal_calls import describe

T = TypeVar("T")

QUERY_TIMEOUT = timedelta(seconds=1)
LAST_EVENTS = 20


@dataclass(frozen=True)
class PendingActivity(Record):
    """An activity that Temporal has scheduled and that has not ended. `attempt` is Temporal's own number."""

    step: str
    attempt: int
    last_failure: str | None


@dataclass(frozen=True)
class WorkflowStatus(Record):
    """What Temporal says of the order's workflow.

    `close_status` is Temporal's word (COMPLETED, FAILED, TERMINATED, ...), RUNNING while the workflow is open, and
    None if Temporal did not say. `late` is true if Temporal or the workflow did not answer in time, so that the status
    comes from the ledger alone.
    """

    id: str
    close_status: str | None
    pending: tuple[PendingActivity, ...] = ()
    late: bool = False


@dataclass(frozen=True)
class OrderStatus(Record):
    """One order, for API, CLI and notebooks. Fields can also be read by name: `status["state"]`.

    order_id, state
    step                what the order does now (`review` included); None when it has ended
    attempt             which attempt at this step it is at, counted from 1 by the ledger; None in review and at the end
    last_error          why the order ended, or went another way than planned
    last_failure        the error of the step's last failed attempt
    review_deadline     when the review ends (ISO 8601), during a review only
    seconds_left        seconds until then
    can_approve, can_cancel, can_update_address     whether such a request can still be granted
    total, items, address, policy      the order as it was started, with its present address
    created_at, updated_at             of the order's row
    payment, shipments  the rows, or None and ()
    events              the last 20, oldest first
    workflow            what Temporal says

    Before the order is received it has no row: total, address, policy, created_at and updated_at are None.
    """

    order_id: str
    state: State
    step: str | None
    attempt: int | None
    last_error: str | None
    last_failure: str | None
    review_deadline: str | None
    seconds_left: float | None
    can_approve: bool
    can_cancel: bool
    can_update_address: bool
    total: Decimal | None
    items: tuple[dict[str, Any], ...]
    address: dict[str, str] | None
    policy: dict[str, Any] | None
    created_at: datetime | None
    updated_at: datetime | None
    payment: PaymentRow | None
    shipments: tuple[ShipmentRow, ...]
    events: tuple[EventRow, ...]
    workflow: WorkflowStatus


class StatusReader:
    """Asks the ledger, the workflow and Temporal at once."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger

    async def read(self, order_id: str, patience: float) -> OrderStatus:
        """The status. What does not come within `patience` seconds is read from the ledger. Raises OrderNotFound."""
        parse_id(order_id)
        row, events = await asyncio.gather(
            self._ledger.order(order_id), self._ledger.events(order_id, last=LAST_EVENTS)
        )
        ended = row is not None and row.state.terminal
        # Read the row first: a query to a closed workflow makes a worker replay its whole history. Without a row, only
        # Temporal knows whether the order exists, so its answer is waited for.
        described, live = await asyncio.gather(
            _within(patience if row else None, self.describe(order_id)),
            _within(patience, self._query(order_id)) if not ended else _within(None, _not_asked()),
        )
        if row is None:
            if described is None or described.close_status is None:
                raise OrderNotFound(f"There is no order {order_id}. `trellis order list` shows the known ones.")
            if described.close_status != WorkflowExecutionStatus.RUNNING.name and await self._ledger.order(order_id):
                # It was received and ended between the two reads.
                return await self.read(order_id, patience)
        return join(order_id, row, events, described, live, datetime.now(UTC))

    async def describe(self, order_id: str) -> WorkflowStatus:
        """Close status and pending outside steps of the order's workflow and its open child."""
        parent = await describe(self._client, workflow_id(order_id))
        if parent is None:
            return WorkflowStatus(workflow_id(order_id), None)
        pending = [*parent.raw_description.pending_activities]
        for child in parent.raw_description.pending_children:
            if child.workflow_id.startswith(shipping_workflow_id(order_id, 0)[:-1]):
                described = await describe(self._client, child.workflow_id)
                pending += described.raw_description.pending_activities if described else []
        status = parent.status or WorkflowExecutionStatus.RUNNING
        return WorkflowStatus(
            workflow_id(order_id),
            status.name,
            tuple(
                PendingActivity(one.activity_type.name, one.attempt, one.last_failure.message or None)
                for one in pending
            ),
        )

    async def _query(self, order_id: str) -> Status | None:
        """The workflow's own answer; None if no worker gives it within a second, or if the workflow has closed."""
        try:
            status: Status = await self._client.get_workflow_handle(workflow_id(order_id)).query(
                "status",
                result_type=Status,
                rpc_timeout=QUERY_TIMEOUT,
                reject_condition=QueryRejectCondition.NOT_OPEN,
            )
            return status
        except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
            return None


def join(
    order_id: str,
    row: OrderRow | None,
    events: Sequence[EventRow],
    described: WorkflowStatus | None,
    live: Status | None,
    now: datetime,
) -> OrderStatus:
    """One status from the ledger (row, last events), Temporal and the workflow. None stands for one that did not
    answer."""
    state = row.state if row else State.ORDER_RECEIVED
    temporal = described or WorkflowStatus(workflow_id(order_id), None)
    closed = temporal.close_status if temporal.close_status != WorkflowExecutionStatus.RUNNING.name else None
    stranded = never_received(closed) if row is None and closed else None
    ended = state.terminal or stranded is not None
    step = _step(row, events, temporal, live) if not ended else None
    tries = [event for event in events if event.attempt is not None and event.step == step]
    failures = [event for event in tries if event.type in ATTEMPTS]
    claimed, closing = bool(row and row.claimed_at), bool(row and row.closing_at)
    # A closed workflow takes no requests, whatever the row says.
    may = permissions(state, claimed=claimed, closing=closing, step=step, closed=closed is not None)
    deadline = None
    if step == REVIEW:
        deadline = live.review_deadline if live else _review_deadline(row, events)
    last_failure = temporal.pending[0].last_failure if temporal.pending else None
    return OrderStatus(
        order_id=order_id,
        state=state,
        step=step,
        attempt=((tries[-1].attempt or 0) + 1 if tries else 1) if step and step != REVIEW else None,
        last_error=(row.last_error if row else stranded) or (live.last_error if live else None),
        last_failure=failures[-1].payload_json.get("error") if failures else last_failure,
        review_deadline=deadline,
        seconds_left=max(0.0, (datetime.fromisoformat(deadline) - now).total_seconds()) if deadline else None,
        can_approve=may.approve,
        can_cancel=may.cancel and (live is None or live.can_cancel),
        can_update_address=may.update_address and (live is None or live.can_update_address),
        total=row.total if row else None,
        items=tuple(_item(item) for item in row.items_json) if row else (),
        address=row.address_json if row else None,
        policy=row.policy_json if row else None,
        created_at=row.created_at if row else None,
        updated_at=row.updated_at if row else None,
        payment=row.payment if row else None,
        shipments=row.shipments if row else (),
        events=tuple(events),
        workflow=WorkflowStatus(
            temporal.id,
            temporal.close_status,
            temporal.pending,
            late=described is None or (live is None and not ended and not closed),
        ),
    )


def never_received(close_status: str) -> str:
    """Why an order that has no row, and whose workflow has closed, goes no further."""
    return f"its workflow closed as {close_status} before it was received; `trellis reconcile --apply` ends it"


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """An item in the form of a start's body."""
    return {"sku": item["sku"], "quantity": item["quantity"], "price": f"{item['price_cents'] / 100:.2f}"}


def _step(
    row: OrderRow | None, events: Sequence[EventRow], temporal: WorkflowStatus, live: Status | None
) -> str | None:
    if temporal.pending:
        return temporal.pending[0].step
    if live:
        return live.step
    last, step = newest_progress((event.type, event.step) for event in events)
    return next_step(row.state if row else None, closing=bool(row and row.closing_at), last=last, last_step=step)


def _review_deadline(row: OrderRow | None, events: Sequence[EventRow]) -> str | None:
    """When the review ends, from the ledger alone. The workflow's own timer began some milliseconds later."""
    began = [event.ts for event in events if event.type == EventType.AWAITING_APPROVAL]
    return (began[0] + timedelta(seconds=row.policy_json["review_window"])).isoformat() if row and began else None


async def _not_asked() -> None:
    """Stands in for the answer of a workflow that is not asked."""


async def _within(seconds: float | None, call: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        return None

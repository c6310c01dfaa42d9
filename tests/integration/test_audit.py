"""The audit finds nothing where nothing is wrong, and each kind of wrong that is planted."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.worker import Replayer

from tests.conftest import House
from trellis import stack
from trellis.audit import GRACE, audit
from trellis.db.audit import AuditBooks
from trellis.db.pool import Pool, open_pool
from trellis.db.provider import Provider
from trellis.errors import DatabaseUnavailable, RequestRefused
from trellis.messages import ORDER_WORKFLOW, OrderInput
from trellis.model import Order, State, workflow_id
from trellis.policies import preset, tuned


async def planted(house: House, *statements: str, **values: object) -> None:
    """Change the books as only a superuser can: no trigger, no foreign key objects."""
    async with house.pool.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement, values)  # type: ignore[arg-type]


def about(order: Order) -> str:
    """Its workflow, its children, and one under another id, by visibility query."""
    ids = [f"WorkflowId STARTS_WITH '{prefix}-{order.order_id}'" for prefix in ("order", "shipping", "rogue")]
    return " OR ".join(ids)


async def looked(house: House, order: Order, *, histories: bool = False, grace: float = GRACE) -> set[int]:
    """The invariants that an order breaks; each violation comes with evidence."""
    report = await audit(house.desk.client, house.pool, histories=histories, query=about(order), grace=grace)
    assert not report.void
    mine = [violation for violation in report.violations if violation.order_id == order.order_id]
    assert all(violation.sentence and violation.evidence for violation in mine)
    return {violation.invariant for violation in mine}


async def completed(house: House) -> Order:
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    return order


async def cancelled(house: House) -> Order:
    await house.faults("prepare: hang*")
    order = await house.start(approve=True)
    await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)
    await house.faults("calm")
    return order


async def withdrawn(house: House) -> Order:
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)
    return order


async def twin(house: House, order: Order) -> tuple[Order, WorkflowHandle[Any, Any]]:
    """Another order with the same payment id, past the desk, as two that start in the same instant are."""
    other = replace(order, order_id=house.order().order_id)
    handle: WorkflowHandle[Any, Any] = await house.desk.client.start_workflow(
        ORDER_WORKFLOW,
        OrderInput(other, preset("swift"), house.desk.settings.shipping_queue, False),
        id=workflow_id(other.order_id),
        task_queue=house.desk.settings.orders_queue,
        run_timeout=timedelta(seconds=60),
    )
    return other, handle


async def test_a_mixed_bag_of_orders_is_clean(house: House) -> None:
    """Completed, refunded, refused, failed and timed out orders with all their faults break no invariant."""
    orders = [await completed(house), await cancelled(house)]
    late = await completed(house)
    with pytest.raises(RequestRefused):
        await house.desk.cancel(late.order_id)
    unseen = await house.start(tuned(preset("swift"), review_window=0.5))
    await house.ends(unseen, State.APPROVAL_TIMEOUT)
    await house.faults("dispatch: error*")
    failed = await house.start(tuned(preset("swift"), max_tries=2, dispatch_retries=1), approve=True)
    await house.ends(failed, State.FAILED)
    await house.faults("receive: error, hang, ok; charge: reply-lost, hang, ok")
    faulty = await house.start()
    await house.desk.update_address(faulty.order_id, {"line1": "2 New Road"})
    await house.desk.approve(faulty.order_id)
    await house.ends(faulty, State.COMPLETED)
    loser, handle = await twin(house, late)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    await house.faults("receive: hang*")
    unreceived, handle = await twin(house, late)
    await house.desk.cancel(unreceived.order_id)
    await handle.result()
    orders += [late, unseen, failed, faulty, loser, unreceived]
    report = await audit(house.desk.client, house.pool)
    mine = {order.order_id for order in orders}
    assert [violation for violation in report.violations if violation.order_id in mine] == []
    assert report.orders >= 6
    assert report.charges >= 5
    assert report.faults >= 5
    assert report.histories >= 10


CHARGE_AGAIN = (
    "INSERT INTO provider.charges (idempotency_key, order_id, amount, ts) "
    "SELECT 'charge:again-' || order_id, order_id, amount, ts - interval '1 minute' FROM provider.charges "
    "WHERE order_id = %(order)s"
)
PLANTS: dict[str, tuple[set[int], Callable[[House], Awaitable[Order]], str]] = {
    "charged twice": ({1, 2, 4}, completed, CHARGE_AGAIN),
    "kept less than the total": (
        {2, 4}, completed, "UPDATE provider.charges SET amount = amount - 1 WHERE order_id = %(order)s",
    ),
    "kept after a cancel": ({2, 4}, cancelled, "DELETE FROM provider.refunds WHERE order_id = %(order)s"),
    "two parcels": (
        {3}, completed,
        "INSERT INTO provider.parcels (idempotency_key, order_id, tracking) "
        "VALUES ('again-' || %(order)s, %(order)s, 'T')",
    ),
    "shipped without a charge": ({2, 3, 4}, completed, "DELETE FROM provider.charges WHERE order_id = %(order)s"),
    "shipped elsewhere": (
        {3}, completed, "UPDATE provider.parcels SET address_json = '{\"line1\": \"X\"}' WHERE order_id = %(order)s",
    ),
    "our payment is not theirs": (
        {4, 5}, completed, "UPDATE payments SET status = 'FAILED' WHERE order_id = %(order)s",
    ),
    "our payment is not the total": (
        {2, 4}, completed, "UPDATE orders SET total = total + 1 WHERE id = %(order)s",
    ),
    "our payment and the charge are not the total": (
        {4}, cancelled, "UPDATE payments SET amount = amount + 1 WHERE order_id = %(order)s",
    ),
    "a payment is pending after the end": (
        {4}, withdrawn, "UPDATE payments SET status = 'PENDING' WHERE order_id = %(order)s",
    ),
    "a payment failed without a word": (
        {5}, withdrawn, "DELETE FROM events WHERE order_id = %(order)s AND type = 'PAYMENT_FAILED'",
    ),
    "no payment for what was shipped": ({4}, completed, "DELETE FROM payments WHERE order_id = %(order)s"),
    "an event is missing": (
        {5}, completed, "DELETE FROM events WHERE order_id = %(order)s AND type = 'ORDER_VALIDATED'",
    ),
    "an event stands twice": (
        {5}, completed,
        "INSERT INTO events (event_id, order_id, type) VALUES (gen_random_uuid(), %(order)s, 'CARRIER_DISPATCHED')",
    ),
    "an attempt number stands twice": (
        {5}, completed,
        "INSERT INTO events (event_id, order_id, type, step, attempt) "
        "VALUES (gen_random_uuid(), %(order)s, 'ATTEMPT_FAILED', 'charge', 1)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS)
async def test_a_wrong_in_the_books_is_found(house: House, plant: str) -> None:
    """Each planted wrong is reported for its order, under its numbers and no other, with evidence."""
    invariants, made, statement = PLANTS[plant]
    order = await made(house)
    assert await looked(house, order) == set()
    await planted(house, statement, order=order.order_id)
    assert await looked(house, order) == invariants


@pytest.mark.parametrize(
    ("table", "invariant", "values"),
    [
        ("charges", 4, "('charge:nobody', %(order)s, 5, now() - interval '1 minute')"),
        ("refunds", 4, "('charge:nobody', %(order)s, 5, now() - interval '1 minute')"),
        ("parcels", 3, "('dispatch:nobody', %(order)s, NULL, 'TRK-1', now() - interval '1 minute')"),
    ],
)
async def test_what_our_books_do_not_know_is_found(house: House, table: str, invariant: int, values: str) -> None:
    """A charge, a refund or a parcel at the provider for an order that does not exist is seen from the other side."""
    stranger = house.order()
    await completed(house)
    await planted(house, f"INSERT INTO provider.{table} VALUES {values}", order=stranger.order_id)
    assert await looked(house, stranger) == {invariant}
    await planted(house, f"DELETE FROM provider.{table} WHERE order_id = %(order)s", order=stranger.order_id)


async def test_an_ending_that_temporal_does_not_share_is_found(house: House) -> None:
    """A ledger that says FAILED of a workflow that completed breaks invariant 6."""
    order = await completed(house)
    await planted(house, "UPDATE orders SET state = 'FAILED' WHERE id = %(order)s", order=order.order_id)
    assert await looked(house, order, histories=True) == {3, 5, 6}


async def test_a_terminated_workflow_is_found(house: House) -> None:
    """An order that Temporal closed behind our back is open in the ledger: invariant 6, and reconcile's to mend."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    assert await looked(house, order, histories=True) == {6}
    await planted(
        house,
        "UPDATE orders SET state = 'FAILED', reconciled = true WHERE id = %(order)s",
        "UPDATE payments SET status = 'FAILED' WHERE order_id = %(order)s",
        "INSERT INTO events (event_id, order_id, type) SELECT gen_random_uuid(), %(order)s, "
        "unnest(ARRAY['PAYMENT_FAILED', 'ORDER_FAILED'])",
        order=order.order_id,
    )
    assert await looked(house, order, histories=True) == set()


@pytest.mark.parametrize(("made", "invariants"), [(completed, {5}), (withdrawn, set())])
async def test_an_order_validated_after_its_end_needs_no_event(
    house: House, made: Callable[[House], Awaitable[Order]], invariants: set[int]
) -> None:
    """A lost task may have cancelled the order before `validate` wrote: legal there, and wrong in a completed one."""
    order = await made(house)
    await planted(
        house,
        "DELETE FROM events WHERE order_id = %(order)s AND type IN ('ORDER_VALIDATED', 'AWAITING_APPROVAL')",
        order=order.order_id,
    )
    assert await looked(house, order, histories=True) == invariants


async def test_an_order_that_died_before_it_was_received_is_found(house: House) -> None:
    """Acknowledged, never received, terminated: its ending (6) and its request (9) are missing from the books."""
    desk, order = house.unattended(), house.order()
    await desk.start(order)
    assert (await desk.cancel(order.order_id)).verdict == "pending"
    assert await looked(house, order, histories=True) == set()
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    assert await looked(house, order, histories=True) == {6, 9}


async def test_an_order_that_was_never_received_and_runs_on_is_found(house: House) -> None:
    """Temporal runs it past the run timeout of its policy, and our books have not heard of it: invariant 8."""
    order = house.order()
    policy = tuned(preset("swift"), review_window=0.1, budget=0.5, run_timeout=0.7)
    handle = await house.desk.client.start_workflow(
        ORDER_WORKFLOW,
        OrderInput(order, policy),
        id=workflow_id(order.order_id),
        task_queue="nobody-works-here",
        run_timeout=timedelta(seconds=60),
    )
    try:
        assert await looked(house, order, histories=True) == set()
        await asyncio.sleep(1)
        assert await looked(house, order, histories=True, grace=0.1) == {8}
    finally:
        await handle.terminate("planted")


async def test_an_order_that_ended_while_its_workflow_runs_is_found(house: House) -> None:
    """Ended by reconcile, with a workflow that lives: invariant 6. Ended long ago, and still running: invariant 8."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await planted(house, "UPDATE orders SET reconciled = true WHERE id = %(order)s", order=order.order_id)
    assert await looked(house, order, histories=True) == {6}
    await planted(
        house,
        "UPDATE orders SET reconciled = false, state = 'FAILED' WHERE id = %(order)s",
        "UPDATE payments SET status = 'FAILED' WHERE order_id = %(order)s",
        "INSERT INTO events (event_id, order_id, type) SELECT gen_random_uuid(), %(order)s, "
        "unnest(ARRAY['PAYMENT_FAILED', 'ORDER_FAILED'])",
        order=order.order_id,
    )
    assert await looked(house, order, histories=True) == set()
    await planted(
        house, "UPDATE orders SET updated_at = now() - interval '1 minute' WHERE id = %(order)s", order=order.order_id
    )
    assert await looked(house, order, histories=True) == {8}
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")


async def test_a_second_workflow_for_an_order_is_found(house: House) -> None:
    """The same order under another workflow id breaks invariant 7."""
    order = await completed(house)
    handle = await house.desk.client.start_workflow(
        ORDER_WORKFLOW,
        OrderInput(order, preset("swift"), house.desk.settings.shipping_queue, False),
        id=f"rogue-{order.order_id}",
        task_queue="nobody-works-here",
        run_timeout=timedelta(seconds=60),
    )
    try:
        assert await looked(house, order, histories=True) == {7}
    finally:
        await handle.terminate("planted")


async def test_an_order_open_past_its_budget_is_found(house: House) -> None:
    """An order that should long have ended, and that nobody is undoing, breaks invariant 8."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    assert await looked(house, order) == set()
    await planted(
        house, "UPDATE orders SET created_at = now() - interval '70 seconds' WHERE id = %(order)s", order=order.order_id
    )
    assert await looked(house, order) == {8}
    await house.desk.cancel(order.order_id)


@pytest.mark.parametrize(("request_", "event"), [("update_address", "ADDRESS_UPDATED"), ("refused", "REQUEST_REFUSED")])
async def test_a_request_that_left_no_trace_is_found(house: House, request_: str, event: str) -> None:
    """An accepted change of address, or a refusal, whose event is gone breaks invariant 9."""
    if request_ == "refused":
        await house.faults("dispatch: reply-lost, hang, hang, ok")
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    if request_ == "update_address":
        await house.desk.update_address(order.order_id, {"line1": "2 New Road"})
    await house.desk.approve(order.order_id)
    if request_ == "refused":
        await house.until(order, "dispatch:ATTEMPT_FAILED")
        with pytest.raises(RequestRefused):
            await house.desk.cancel(order.order_id)
    await house.ends(order, State.COMPLETED)
    assert await looked(house, order, histories=True) == set()
    await planted(
        house, "DELETE FROM events WHERE order_id = %(order)s AND type = %(type)s", order=order.order_id, type=event
    )
    assert await looked(house, order, histories=True) == {9}


async def test_a_history_that_does_not_replay_is_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history with another activity than today's code asks for breaks invariant 10."""
    order = await completed(house)
    handle = house.desk.client.get_workflow_handle(workflow_id(order.order_id))
    text = json.dumps((await handle.fetch_history()).to_json_dict()).replace('"validate"', '"vouch"')
    forged = WorkflowHistory.from_json(workflow_id(order.order_id), text)
    whole = Replayer.workflow_replay_iterator

    def with_forgery(self: Replayer, histories: AsyncIterator[WorkflowHistory]) -> object:
        async def swapped() -> AsyncIterator[WorkflowHistory]:
            async for history in histories:
                yield forged if history.workflow_id == forged.workflow_id else history

        return whole(self, swapped())

    monkeypatch.setattr(Replayer, "workflow_replay_iterator", with_forgery)
    assert await looked(house, order, histories=True) == {10}


async def test_running_orders_raise_no_false_alarm(house: House) -> None:
    """An audit beside fifty orders under the canonical faults reports none of them, early or late."""
    await house.faults("canonical")
    query = f"StartTime >= '{datetime.now(UTC).isoformat()}'"
    orders = await asyncio.gather(*(house.start(approve=True) for _ in range(50)))
    mine = {order.order_id for order in orders}
    while True:
        states = await asyncio.gather(*(house.desk.ledger.order(id_) for id_ in mine))
        report = await audit(house.desk.client, house.pool, query=query)
        assert [violation for violation in report.violations if violation.order_id in mine] == []
        if all(row is not None and State(row["state"]).terminal for row in states):
            break


async def test_an_audit_without_the_histories_it_asked_for_is_void(house: House) -> None:
    """Clean books say nothing of histories that nobody found; asked for the books alone, they do."""
    order = await completed(house)
    nothing = f"{about(house.order())}"
    report = await audit(house.desk.client, house.pool, query=nothing)
    assert (report.histories, report.without_history) == (0, report.orders)
    assert report.void
    assert not report.clean
    assert not (await audit(house.desk.client, house.pool, histories=False)).void
    report = await audit(house.desk.client, house.pool, query=about(order))
    assert (report.histories, report.without_history) == (2, report.orders - 1)
    assert not report.void


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: AuditBooks(pool, grace=1).counts(),
        lambda pool: AuditBooks(pool, grace=1).strays(),
        lambda pool: AuditBooks(pool, grace=1).order("nobody"),
        lambda pool: anext(AuditBooks(pool, grace=1).batches()),
        lambda pool: Provider(pool).void_parcel("dispatch:nobody", "nobody"),
    ],
    ids=["counts", "strays", "order", "batches", "provider"],
)
async def test_a_cut_connection_is_one_sentence(
    running: stack.Stack, house: House, call: Callable[[Pool], Awaitable[object]]
) -> None:
    """Postgres cuts the connection, as it does when it shuts down: DatabaseUnavailable, which says what to do."""
    pool = await open_pool(running.database_url, size=1)
    try:
        async with pool.connection() as connection:
            [backend] = await (await connection.execute("SELECT pg_backend_pid()")).fetchone() or [0]
        assert await house.one("SELECT pg_terminate_backend(%s, 5000)", backend)
        with pytest.raises(DatabaseUnavailable, match="trellis up"):
            await call(pool)
    finally:
        await pool.close()


async def test_an_audit_that_saw_nothing_says_so(running: stack.Stack, house: House) -> None:
    """Without an order an audit is void, and void is not clean."""
    name = f"empty_{uuid.uuid4().hex[:8]}"
    async with house.pool.connection() as connection:
        await connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    from trellis.db.migrate import migrate

    url = running.database_url.replace("/trellis?", f"/{name}?", 1)
    assert url != running.database_url
    await migrate(url)
    pool = await open_pool(url)
    try:
        report = await audit(house.desk.client, pool, histories=False)
        assert report.void
        assert not report.clean
    finally:
        await pool.close()
        async with house.pool.connection() as connection:
            await connection.execute(f"DROP DATABASE {name}")  # type: ignore[arg-type]

"""The audit finds nothing where nothing is wrong, and each kind of wrong that is planted."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from tests.conftest import House
from trellis import stack
from trellis.audit import audit
from trellis.db.pool import open_pool
from trellis.errors import RequestRefused
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


async def looked(house: House, order: Order, *, histories: bool = False) -> set[int]:
    report = await audit(house.desk.client, house.pool, histories=histories, query=about(order))
    assert not report.void
    return {violation.invariant for violation in report.violations if violation.order_id == order.order_id}


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
    orders += [late, unseen, failed, faulty]
    report = await audit(house.desk.client, house.pool)
    mine = {order.order_id for order in orders}
    assert [violation for violation in report.violations if violation.order_id in mine] == []
    assert report.orders >= 6
    assert report.charges >= 5
    assert report.faults >= 5
    assert report.histories >= 10


CHARGE_AGAIN = (
    "INSERT INTO provider.charges (idempotency_key, order_id, amount) "
    "SELECT 'charge:again-' || order_id, order_id, amount FROM provider.charges WHERE order_id = %(order)s"
)
PLANTS: dict[str, tuple[int, bool, list[str]]] = {
    "charged twice": (1, True, [CHARGE_AGAIN]),
    "kept less than the total": (
        2, True, ["UPDATE provider.charges SET amount = amount - 1 WHERE order_id = %(order)s"],
    ),
    "kept after a cancel": (2, False, ["DELETE FROM provider.refunds WHERE order_id = %(order)s"]),
    "two parcels": (3, True, [
        "INSERT INTO provider.parcels (idempotency_key, order_id, tracking) "
        "VALUES ('again-' || %(order)s, %(order)s, 'T')",
    ]),
    "shipped without a charge": (3, True, ["DELETE FROM provider.charges WHERE order_id = %(order)s"]),
    "our payment is not theirs": (
        4, True, ["UPDATE payments SET status = 'FAILED' WHERE order_id = %(order)s"],
    ),
    "an event is missing": (5, True, ["DELETE FROM events WHERE order_id = %(order)s AND type = 'ORDER_VALIDATED'"]),
    "an event stands twice": (5, True, [
        "INSERT INTO events (event_id, order_id, type) VALUES (gen_random_uuid(), %(order)s, 'CARRIER_DISPATCHED')",
    ]),
    "an attempt number stands twice": (5, True, [
        "INSERT INTO events (event_id, order_id, type, step, attempt) "
        "VALUES (gen_random_uuid(), %(order)s, 'ATTEMPT_FAILED', 'charge', 1)",
    ]),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS)
async def test_a_wrong_in_the_books_is_found(house: House, plant: str) -> None:
    """Each planted wrong is reported for its order, under its number, with evidence; other orders stay clean."""
    invariant, ships, statements = PLANTS[plant]
    order = await (completed(house) if ships else cancelled(house))
    assert await looked(house, order) == set()
    await planted(house, *statements, order=order.order_id)
    assert invariant in await looked(house, order)


async def test_a_charge_that_our_books_do_not_know_is_found(house: House) -> None:
    """A charge at the provider for an order that does not exist is invariant 4's, seen from the other side."""
    stranger = house.order()
    await completed(house)
    await planted(
        house,
        "INSERT INTO provider.charges VALUES ('charge:nobody', %(order)s, 5, now() - interval '1 minute')",
        order=stranger.order_id,
    )
    assert await looked(house, stranger) == {4}
    await planted(house, "DELETE FROM provider.charges WHERE order_id = %(order)s", order=stranger.order_id)


async def test_an_ending_that_temporal_does_not_share_is_found(house: House) -> None:
    """A ledger that says FAILED of a workflow that completed breaks invariant 6."""
    order = await completed(house)
    await planted(house, "UPDATE orders SET state = 'FAILED' WHERE id = %(order)s", order=order.order_id)
    assert 6 in await looked(house, order, histories=True)


async def test_a_terminated_workflow_is_found(house: House) -> None:
    """An order that Temporal closed behind our back is open in the ledger: invariant 6, and reconcile's to mend."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    assert 6 in await looked(house, order, histories=True)
    await planted(
        house,
        "UPDATE orders SET state = 'FAILED', reconciled = true WHERE id = %(order)s",
        "UPDATE payments SET status = 'FAILED' WHERE order_id = %(order)s",
        "INSERT INTO events (event_id, order_id, type) VALUES (gen_random_uuid(), %(order)s, 'ORDER_FAILED')",
        order=order.order_id,
    )
    assert await looked(house, order, histories=True) == set()


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
        assert 7 in await looked(house, order, histories=True)
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

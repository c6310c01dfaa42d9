"""Orders whose workflow Temporal closed are ended by the same fence, once."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import AsyncExitStack

import pytest

from tests.conftest import House
from tests.integration.reconciling import answers, changed, ended, repairs, terminate, violations
from tests.integration.test_cli import trellis
from trellis import stack, workers
from trellis.config import Settings
from trellis.db.provider import Provider, ProviderRefused
from trellis.model import State, charge_key, dispatch_key, workflow_id
from trellis.policies import preset, tuned
from trellis.reconcile import Outcome, Repair, reconcile
from trellis.runtime import open_desk


async def test_a_dry_run_changes_nothing(house: House) -> None:
    """Without apply a stranded order is shown and left as it is; a running one is not even shown."""
    stranded, running = await house.start(), await house.start()
    await house.until(stranded, "AWAITING_APPROVAL")
    await terminate(house, stranded)
    before = await house.desk.ledger.order(stranded.order_id)
    [repair] = await repairs(house, stranded, apply=False)
    assert repair.workflow == "was terminated"
    assert repair.ended is None
    assert await house.desk.ledger.order(stranded.order_id) == before
    assert await repairs(house, running, apply=True) == []
    await house.desk.cancel(running.order_id)
    await repairs(house, stranded)
    await ended(house, stranded, State.FAILED, charges=0, refunds=0, parcels=0)


async def test_a_charge_that_hangs_meets_a_tombstone(house: House) -> None:
    """Terminated while a charge is on its way: it ends FAILED, and the late charge is refused."""
    order = await house.started_until("charge:ATTEMPT_TIMED_OUT", "charge: hang*")
    await terminate(house, order)
    await repairs(house, order)
    with pytest.raises(ProviderRefused):
        await Provider(house.pool).charge(charge_key(order.payment_id), order.order_id, order.total_cents)
    await ended(house, order, State.FAILED, charges=0, refunds=0, parcels=0)


async def test_a_charged_order_is_refunded_and_its_orphaned_child_is_harmless(house: House) -> None:
    """Terminated while the package is prepared: refunded; the abandoned child cannot ship any more."""
    order = await house.started_until(
        "prepare:ATTEMPT_TIMED_OUT",
        "prepare: hang, hang, hang, hang, ok",
        tuned(preset("swift"), parent_close="abandon"),
    )
    await terminate(house, order)
    [repair] = await repairs(house, order)
    assert repair.action == "refunded"
    await asyncio.sleep(2)
    await ended(house, order, State.FAILED, charges=1, refunds=1, parcels=0)


async def test_a_parcel_that_exists_goes_forward(house: House) -> None:
    """Terminated after the carrier took the parcel, whose reply was lost: the order is completed."""
    order = await house.started_until("dispatch:ATTEMPT_FAILED", "dispatch: reply-lost, hang*")
    await terminate(house, order)
    [repair] = await repairs(house, order)
    assert "TRK-" in repair.action
    await ended(house, order, State.COMPLETED, charges=1, refunds=0, parcels=1)


async def test_a_claim_without_a_parcel_is_given_back(house: House) -> None:
    """Claimed, but the carrier has nothing: the parcel is voided for ever, the charge refunded."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*")
    await house.desk.ledger.claim_dispatch(order.order_id)
    await terminate(house, order)
    await repairs(house, order)
    with pytest.raises(ProviderRefused):
        await Provider(house.pool).dispatch(dispatch_key(order.order_id), order.order_id, {})
    await ended(house, order, State.FAILED, charges=1, refunds=1, parcels=0)


async def test_a_run_that_timed_out_is_ended(house: House) -> None:
    """Temporal's run timeout leaves the ledger open; reconcile ends it."""
    await house.faults("receive: ok; charge: hang*")
    order = await house.start(tuned(preset("swift"), review_window=0.5, budget=1.0, run_timeout=2.0), approve=True)
    # Compensations have no limit of tries; one that never succeeds is what a run timeout is a backstop for.
    await house.faults("charge: hang*; refund: hang*")
    async with asyncio.timeout(30):
        while not (found := await repairs(house, order, apply=False)):
            await asyncio.sleep(0.2)
    assert found[0].workflow == "timed out"
    await repairs(house, order)
    await ended(house, order, State.FAILED, charges=0, refunds=0, parcels=0)


@pytest.mark.parametrize("cancels", [True, False])
@pytest.mark.slow
async def test_an_order_that_died_before_it_was_received_is_ended(house: House, *, cancels: bool) -> None:
    """Requests were acknowledged without a worker, then the workflow was terminated: the order gets its row, and the
    requests their answers."""
    desk, order = house.unattended(), house.order()
    await desk.start(order)
    await desk.approve(order.order_id, request_id="r-approve")
    if cancels:
        assert (await desk.cancel(order.order_id, "no longer", request_id="r-cancel")).verdict == "pending"
    await terminate(house, order)
    state = State.CANCELLED if cancels else State.FAILED
    async with asyncio.timeout(30):
        while not (found := await repairs(house, order, apply=False)):
            await asyncio.sleep(0.1)
    assert [(repair.state, repair.outcome) for repair in found] == [("not received", Outcome.PLANNED)]
    assert state in found[0].action
    assert await house.desk.ledger.order(order.order_id) is None
    [repair] = await repairs(house, order)
    assert (repair.outcome, repair.ended) == (Outcome.ENDED, state)
    await ended(house, order, state, charges=0, refunds=0, parcels=0)
    assert await answers(house, order) == {"r-approve": "REQUEST_REFUSED"} | (
        {"r-cancel": "ORDER_CANCELLED"} if cancels else {}
    )
    assert await repairs(house, order) == []


@pytest.mark.parametrize("how", ["desk", "by hand", "temporal", "not at all"])
@pytest.mark.slow
async def test_requests_that_nobody_judged_are_answered(
    house: House, settings: Settings, running: stack.Stack, how: str
) -> None:
    """Pending when the workflow was terminated: a cancel decides the ending, whatever else was asked is refused."""
    queues = {"orders_queue": f"orders-{uuid.uuid4().hex}", "shipping_queue": f"shipping-{uuid.uuid4().hex}"}
    own = settings.model_copy(update=queues)
    order = house.order()
    desk = await open_desk(running, own, house.pool)
    async with workers.running(desk.client, house.pool, own):
        await desk.start(order)
        await house.until(order, "AWAITING_APPROVAL")
    moved = await desk.update_address(order.order_id, {"line1": "2 New Road"}, request_id="r-address")
    assert moved.verdict == (await desk.approve(order.order_id, request_id="r-approve")).verdict == "pending"
    handle = desk.client.get_workflow_handle(workflow_id(order.order_id))
    if how == "desk":
        await desk.cancel(order.order_id, "changed my mind", request_id="r-cancel")
    elif how == "by hand":
        await handle.signal("cancel_order")
    elif how == "temporal":
        await handle.cancel()
    await terminate(house, order)
    await repairs(house, order)
    state = State.FAILED if how == "not at all" else State.CANCELLED
    await ended(house, order, state, charges=0, refunds=0, parcels=0)
    row = await house.desk.ledger.order(order.order_id)
    assert row is not None
    assert row["address_json"]["line1"] == "1 Main St"
    answered = await answers(house, order)
    assert answered.pop("r-address") == answered.pop("r-approve") == "REQUEST_REFUSED"
    assert list(answered.values()) == (["ORDER_CANCELLED"] if how in ("desk", "temporal") else [])
    assert row["ending_reason"] == {
        "desk": "changed my mind", "by hand": "cancelled on request", "temporal": "cancelled in Temporal",
        "not at all": "its workflow was terminated",
    }[how]  # fmt: skip


async def test_an_ending_that_temporal_never_heard_of_is_marked(house: House) -> None:
    """Terminated when the ledger had just ended the order: nothing is left to undo, and one mark mends the audit."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await terminate(house, order)
    await house.desk.ledger.close(order.order_id, State.CANCELLED, "on request", "r-1")
    await house.desk.ledger.finish(order.order_id, State.CANCELLED, "on request")
    assert await violations(house, order) == {6}
    [planned] = await repairs(house, order, apply=False)
    assert planned.outcome is Outcome.PLANNED
    before = await house.events(order)
    [repair] = await repairs(house, order)
    assert (repair.state, repair.ended) == (State.CANCELLED, State.CANCELLED)
    assert await house.events(order) == before
    assert await violations(house, order) == set()
    assert await repairs(house, order) == []


@pytest.mark.slow
async def test_an_order_that_cannot_be_ended_holds_up_no_other(house: House, settings: Settings) -> None:
    """It is reported with a sentence and exit code 1; those after it are ended all the same, and shown as they are."""
    orders = sorted([await house.start() for _ in range(2)], key=lambda order: order.order_id)
    for order in orders:
        await house.until(order, "AWAITING_APPROVAL")
        await terminate(house, order)
    broken, sound = orders
    await changed(house, """UPDATE orders SET items_json = '[{"nonsense": 1}]' WHERE id = %s""", broken)
    done = await trellis(settings, "reconcile", "--apply", "--json")
    assert done.returncode == 1, done.stderr
    outcomes = {repair["order_id"]: repair["outcome"] for repair in json.loads(done.stdout)}
    assert (outcomes[broken.order_id], outcomes[sound.order_id]) == ("failed", "ended")
    await ended(house, sound, State.FAILED, charges=0, refunds=0, parcels=0)
    shown = await trellis(settings, "reconcile", "--apply")
    assert shown.returncode == 1
    assert f"{broken.order_id}  AWAITING_APPROVAL: its workflow was terminated; could not be ended" in shown.stdout
    assert "nonsense" in shown.stdout
    await changed(house, "UPDATE orders SET items_json = '[]' WHERE id = %s", broken)
    await changed(house, "UPDATE orders SET total = 0 WHERE id = %s", broken)
    await changed(house, "UPDATE payments SET amount = 0 WHERE order_id = %s", broken)
    assert (await trellis(settings, "reconcile", "--apply")).returncode == 0
    await ended(house, broken, State.FAILED, charges=0, refunds=0, parcels=0)


async def test_a_cancel_that_was_under_way_ends_as_cancelled(house: House) -> None:
    """The fence's decision stays: an order that is terminated during the refund of a cancel ends CANCELLED."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*; refund: hang*")
    await house.desk.cancel(order.order_id, "changed my mind")
    await house.until(order, "refund:ATTEMPT_TIMED_OUT")
    await terminate(house, order)
    await repairs(house, order)
    await ended(house, order, State.CANCELLED, charges=1, refunds=1, parcels=0)


@pytest.mark.slow
async def test_two_at_once_repair_once(house: House) -> None:
    """Two reconciles that are at the fence of the same order at once leave one refund and one end, each time."""
    parcel = await house.started_until("dispatch:ATTEMPT_FAILED", "dispatch: reply-lost, hang*")
    await terminate(house, parcel)
    await house.faults("prepare: hang*")
    orders = [parcel, *[await house.start(approve=True) for _ in range(4)]]
    for order in orders[1:]:
        await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
        await terminate(house, order)
    orders.sort(key=lambda order: order.order_id)
    async with AsyncExitStack() as stacked:
        fences = []
        for order in orders:
            connection = await stacked.enter_async_context(house.pool.connection())
            fence = await stacked.enter_async_context(AsyncExitStack())
            await fence.enter_async_context(connection.transaction())
            await connection.execute("SELECT FROM orders WHERE id = %s FOR UPDATE", (order.order_id,))
            fences.append(fence)
        both = [asyncio.create_task(everything(house)) for _ in range(2)]
        for fence in fences:
            # Each has read the order as open, and now waits for its row.
            await waiting(house, 2)
            await fence.aclose()
        found = await asyncio.gather(*both)
    for order in orders:
        assert [found[n][order.order_id].outcome for n in range(2)] == [Outcome.ENDED, Outcome.ENDED]
        shipped = order is parcel
        state = State.COMPLETED if shipped else State.FAILED
        await ended(house, order, state, charges=1, refunds=int(not shipped), parcels=int(shipped))
        events = await house.events(order)
        assert [events.count(type_) for type_ in ("PAYMENT_REFUNDED", "ORDER_FAILED", "ORDER_COMPLETED")] == (
            [0, 0, 1] if shipped else [1, 1, 0]
        )


async def everything(house: House) -> dict[str, Repair]:
    return {repair.order_id: repair async for repair in reconcile(house.desk, house.pool, apply=True)}


async def waiting(house: House, number: int) -> None:
    """Wait until so many statements stand at the fence."""
    async with asyncio.timeout(30):
        while (
            await house.one(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%close_order%%'"
            )
            != number
        ):
            await asyncio.sleep(0.02)

"""Orders that Temporal closed behind our back are ended by the same fence, once."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest

from tests.conftest import House
from trellis.audit import audit
from trellis.db.provider import Provider, ProviderRefused
from trellis.model import Order, State, charge_key, dispatch_key, workflow_id
from trellis.policies import preset, tuned
from trellis.reconcile import Repair, reconcile


async def repairs(house: House, order: Order, *, apply: bool = True) -> list[Repair]:
    return [
        repair async for repair in reconcile(house.desk, house.pool, apply=apply) if repair.order_id == order.order_id
    ]


async def terminate(house: House, order: Order) -> None:
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")


async def ended(house: House, order: Order, state: State, *, charges: int, refunds: int, parcels: int) -> None:
    """The order ended so, marked as reconciled; both books agree, and the audit has nothing to say of it."""
    row = await house.desk.ledger.order(order.order_id)
    assert row is not None
    assert (row["state"], row["reconciled"]) == (state, True)
    for table, number in (("charges", charges), ("refunds", refunds), ("parcels", parcels)):
        assert await house.one(f"SELECT count(*) FROM provider.{table} WHERE order_id = %s", order.order_id) == number
    events = await house.desk.events(order.order_id)
    assert [e["payload_json"].get("reconciled") for e in events if e["step"] in ("fail", "cancel", "complete")] == [
        True
    ]
    query = f"WorkflowId IN ('order-{order.order_id}', 'shipping-{order.order_id}-1')"
    report = await audit(house.desk.client, house.pool, query=query)
    assert [violation for violation in report.violations if violation.order_id == order.order_id] == []


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
    await house.faults("charge: hang*")
    order = await house.start(approve=True)
    await house.until(order, "charge:ATTEMPT_TIMED_OUT")
    await terminate(house, order)
    await repairs(house, order)
    with pytest.raises(ProviderRefused):
        await Provider(house.pool).charge(charge_key(order.payment_id), order.order_id, order.total_cents)
    await ended(house, order, State.FAILED, charges=0, refunds=0, parcels=0)


async def test_a_charged_order_is_refunded_and_its_orphaned_child_is_harmless(house: House) -> None:
    """Terminated while the package is prepared: refunded; the abandoned child cannot ship any more."""
    await house.faults("prepare: hang, hang, hang, hang, ok")
    order = await house.start(tuned(preset("swift"), parent_close="abandon"), approve=True)
    await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
    await terminate(house, order)
    [repair] = await repairs(house, order)
    assert repair.action == "refunded"
    await asyncio.sleep(2)
    await ended(house, order, State.FAILED, charges=1, refunds=1, parcels=0)


async def test_a_parcel_that_exists_goes_forward(house: House) -> None:
    """Terminated after the carrier took the parcel, whose reply was lost: the order is completed."""
    await house.faults("dispatch: reply-lost, hang*")
    order = await house.start(approve=True)
    await house.until(order, "dispatch:ATTEMPT_FAILED")
    await terminate(house, order)
    [repair] = await repairs(house, order)
    assert "TRK-" in repair.action
    await ended(house, order, State.COMPLETED, charges=1, refunds=0, parcels=1)


async def test_a_claim_without_a_parcel_is_given_back(house: House) -> None:
    """Claimed, but the carrier has nothing: the parcel is voided for ever, the charge refunded."""
    await house.faults("prepare: hang*")
    order = await house.start(approve=True)
    await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
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


async def test_an_order_whose_history_is_gone_is_ended(house: House) -> None:
    """Temporal has forgotten the workflow altogether: the ledger and the provider are enough to end it."""
    await house.faults("prepare: hang*")
    order = await house.start(approve=True)
    await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
    await house.desk.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=house.desk.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id(order.order_id)),
        )
    )
    async with asyncio.timeout(30):
        while not (found := await repairs(house, order, apply=False)) or "gone" not in found[0].workflow:
            await asyncio.sleep(0.2)
    await repairs(house, order)
    await ended(house, order, State.FAILED, charges=1, refunds=1, parcels=0)


async def test_a_cancel_that_was_under_way_ends_as_cancelled(house: House) -> None:
    """What the fence had decided holds: terminated during the refund of a cancel, the order ends CANCELLED."""
    await house.faults("prepare: hang*; refund: hang*")
    order = await house.start(approve=True)
    await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
    await house.desk.cancel(order.order_id, "changed my mind")
    await house.until(order, "refund:ATTEMPT_TIMED_OUT")
    await terminate(house, order)
    await repairs(house, order)
    await ended(house, order, State.CANCELLED, charges=1, refunds=1, parcels=0)


async def test_two_at_once_repair_once(house: House) -> None:
    """Two reconciles beside one another leave one refund and one terminal event each."""
    await house.faults("prepare: hang*")
    orders = [await house.start(approve=True) for _ in range(5)]
    for order in orders:
        await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
        await terminate(house, order)
    await asyncio.gather(*(repairs(house, orders[0]) for _ in range(2)))
    for order in orders:
        await ended(house, order, State.FAILED, charges=1, refunds=1, parcels=0)

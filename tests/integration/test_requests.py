"""Cancels, changes of address and approvals of a running order, by update and by signal."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import CALM_LIFE, House
from trellis.errors import OrderNotFound, RequestRefused
from trellis.faults import FaultPlan
from trellis.messages import Approve, Cancel
from trellis.model import State, workflow_id
from trellis.policies import preset


async def test_cancel_before_the_charge_takes_no_money(house: House) -> None:
    """A cancel in review ends the order CANCELLED, and the provider was never called."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.cancel(order.order_id, "changed my mind")
    await house.ends(order, State.CANCELLED)
    assert await house.one("SELECT count(*) FROM provider.charges WHERE order_id = %s", order.order_id) == 0


async def test_cancel_after_the_charge_refunds_first(house: House) -> None:
    """A cancel while the package is prepared refunds the charge and then ends the order."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*")
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)
    events = await house.events(order)
    assert events.index("PAYMENT_REFUNDED") < events.index("ORDER_CANCELLED")


async def test_cancel_after_the_claim_is_refused_and_the_order_completes(house: House) -> None:
    """Once a dispatch has claimed the order, a cancel is refused, written down, and changes nothing."""
    order = await house.started_until("dispatch:ATTEMPT_FAILED", "dispatch: reply-lost, hang, hang, hang, ok")
    with pytest.raises(RequestRefused, match="carrier"):
        await house.desk.cancel(order.order_id)
    await house.ends(order, State.COMPLETED)
    assert "REQUEST_REFUSED" in await house.events(order)


async def test_a_cancel_from_temporal_acts_as_a_cancel(house: House) -> None:
    """Temporal's own cancel compensates like any other, and the log gives its reason."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).cancel()
    await house.ends(order, State.CANCELLED)
    last = (await house.desk.events(order.order_id))[-1]
    assert last["payload_json"]["reason"] == "cancelled in Temporal"


async def test_a_cancel_from_temporal_after_the_claim_is_outlived(house: House) -> None:
    """After the claim the order completes, even if Temporal cancels it."""
    order = await house.started_until("dispatch:ATTEMPT_FAILED", "dispatch: reply-lost, hang, hang, hang, ok")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).cancel()
    await house.ends(order, State.COMPLETED)


async def test_a_request_repeated_after_the_end_gets_its_first_answer(house: House) -> None:
    """A cancel whose answer was lost on the way is answered alike when it is sent again; another one is refused."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    first = await house.desk.cancel(order.order_id, request_id="same")
    await house.ends(order, State.CANCELLED)
    assert first.verdict == (await house.desk.cancel(order.order_id, request_id="same")).verdict == "accepted"
    with pytest.raises(RequestRefused, match="CANCELLED"):
        await house.desk.cancel(order.order_id, request_id="another")
    assert (await house.events(order)).count("REQUEST_REFUSED") == 1


async def test_a_caller_that_gives_up_is_let_go(house: House) -> None:
    """Cancelling a task that waits for a verdict ends the task, and nothing of it goes on."""
    order = house.order()
    await house.desk.start(order, preset("swift"))
    asking = asyncio.create_task(house.desk.approve(order.order_id))
    await asyncio.sleep(0)
    await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()
    await house.desk.cancel(order.order_id)


@pytest.mark.slow
async def test_fifty_cancels_amid_all_the_rest_end_as_they_were_answered(house: House) -> None:
    """Cancels that meet activities' results in the same task are neither lost nor answered falsely."""
    await house.faults(FaultPlan.canonical(3))

    async def one(delay: float) -> None:
        order = await house.start(approve=True)
        await asyncio.sleep(delay)
        try:
            await house.desk.cancel(order.order_id)
        except RequestRefused:
            await house.ends(order, State.COMPLETED)
        else:
            status = await house.desk.wait(order.order_id, 60)
            await house.ends(order, State.COMPLETED if status["state"] == State.COMPLETED else State.CANCELLED)

    await asyncio.gather(*(one(number * 0.02) for number in range(50)))


@pytest.mark.parametrize("hung", ["validate", "prepare"])
async def test_the_address_can_change_until_the_label_is_printed(house: House, hung: str) -> None:
    """Before the review and during the preparation a new address is taken, and the parcel goes there."""
    order = await house.started_until(f"{hung}:ATTEMPT_TIMED_OUT", f"{hung}: hang, hang, hang, ok")
    assert (await house.desk.update_address(order.order_id, {"street": "2 New Road"})).verdict == "accepted"
    await house.ends(order, State.COMPLETED)
    there = await house.one("SELECT address_json ->> 'line1' FROM provider.parcels WHERE order_id = %s", order.order_id)
    assert there == "2 New Road"
    changed = next(e for e in await house.desk.events(order.order_id) if e["type"] == "ADDRESS_UPDATED")
    assert changed["payload_json"]["old"]["line1"] == "1 Main St"


async def test_a_late_address_is_refused(house: House) -> None:
    """After the claim the parcel's address cannot change."""
    order = await house.started_until("dispatch:ATTEMPT_FAILED", "dispatch: reply-lost, hang, hang, hang, ok")
    with pytest.raises(RequestRefused, match="label"):
        await house.desk.update_address(order.order_id, {"line1": "too late"})
    await house.ends(order, State.COMPLETED)
    there = await house.one("SELECT address_json ->> 'line1' FROM provider.parcels WHERE order_id = %s", order.order_id)
    assert there == "1 Main St"


async def test_doubled_and_disordered_signals_do_no_harm(house: House) -> None:
    """The same request by update and by signal, under every name, is handled once."""
    order = await house.start()
    handle = house.desk.client.get_workflow_handle(workflow_id(order.order_id))
    for name in ("approve", "approve_order"):
        await handle.signal(name, Approve("same"))
    await handle.execute_update("approve", Approve("same"))
    await handle.signal("approve_order")
    await house.ends(order, State.COMPLETED)
    assert (await house.events(order)) == CALM_LIFE


async def test_cancel_by_signal_needs_no_argument(house: House) -> None:
    """`temporal workflow signal --name cancel_order` without input works."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).signal("cancel_order")
    await house.ends(order, State.CANCELLED)


async def test_a_cancel_wins_over_a_later_approval(house: House) -> None:
    """Cancel and approve in one breath: the order ends CANCELLED, or COMPLETED, never in between."""
    order = await house.start()
    handle = house.desk.client.get_workflow_handle(workflow_id(order.order_id))
    await asyncio.gather(handle.signal("cancel", Cancel("c", "race")), handle.signal("approve", Approve("a")))
    status = await house.desk.wait(order.order_id, 30)
    assert status["state"] in (State.CANCELLED, State.COMPLETED)
    await house.ends(order, status["state"])


async def test_a_finished_order_refuses_and_remembers(house: House) -> None:
    """Requests to a finished order are refused with its state, and each refusal is an event."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    with pytest.raises(RequestRefused, match="COMPLETED"):
        await house.desk.cancel(order.order_id)
    assert (await house.events(order)).count("REQUEST_REFUSED") == 1
    with pytest.raises(OrderNotFound):
        await house.desk.approve("nobody-knows-this-order")

"""The audit compares the books with Temporal: endings, open orders, requests and histories that do not agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.worker import Replayer

from tests.conftest import House
from tests.integration.auditing import about, completed, planted, violated, withdrawn
from trellis.audit import audit
from trellis.errors import RequestRefused
from trellis.messages import ORDER_WORKFLOW, OrderInput
from trellis.model import Order, State, workflow_id
from trellis.policies import preset, tuned

pytestmark = pytest.mark.slow

PAYMENT_AND_EVENTS_OF_A_FAILURE = (
    "UPDATE payments SET status = 'FAILED' WHERE order_id = %(order)s",
    "INSERT INTO events (event_id, order_id, type) SELECT gen_random_uuid(), %(order)s, "
    "unnest(ARRAY['PAYMENT_FAILED', 'ORDER_FAILED'])",
)


async def test_an_ending_that_temporal_does_not_share_is_found(house: House) -> None:
    """A ledger that says FAILED of a workflow that completed breaks invariant 6."""
    order = await completed(house)
    await planted(house, "UPDATE orders SET state = 'FAILED' WHERE id = %(order)s", order=order.order_id)
    assert await violated(house, order, histories=True) == {3, 5, 6}


async def test_a_terminated_workflow_is_found(house: House) -> None:
    """An order whose workflow Temporal closed is open in the ledger: that breaks invariant 6, and reconcile can end the
    order."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    assert await violated(house, order, histories=True) == {6}
    await planted(
        house,
        "UPDATE orders SET state = 'FAILED', reconciled = true WHERE id = %(order)s",
        *PAYMENT_AND_EVENTS_OF_A_FAILURE,
        order=order.order_id,
    )
    assert await violated(house, order, histories=True) == set()


@pytest.mark.parametrize(("made", "invariants"), [(completed, {5}), (withdrawn, set())])
async def test_an_order_validated_after_its_end_needs_no_event(
    house: House, made: Callable[[House], Awaitable[Order]], invariants: set[int]
) -> None:
    """A lost workflow task may cancel an order before `validate` writes. That is legal for a cancelled order, and wrong
    for a completed one."""
    order = await made(house)
    await planted(
        house,
        "DELETE FROM events WHERE order_id = %(order)s AND type IN ('ORDER_VALIDATED', 'AWAITING_APPROVAL')",
        order=order.order_id,
    )
    assert await violated(house, order, histories=True) == invariants


async def test_an_order_that_died_before_it_was_received_is_found(house: House) -> None:
    """A request was acknowledged, the order was never received, its workflow was terminated: ending (6) and request (9)
    are missing in the ledger."""
    desk, order = house.unattended(), house.order()
    await desk.start(order)
    assert (await desk.cancel(order.order_id)).verdict == "pending"
    assert await violated(house, order, histories=True) == set()
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    assert await violated(house, order, histories=True) == {6, 9}


async def test_an_order_that_was_never_received_and_runs_on_is_found(house: House) -> None:
    """Temporal runs it past the run timeout of its policy, and the ledger does not have it: invariant 8."""
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
        assert await violated(house, order, histories=True) == set()
        await asyncio.sleep(1)
        assert await violated(house, order, histories=True, grace=0.1) == {8}
    finally:
        await handle.terminate("planted")


async def test_an_order_that_ended_while_its_workflow_runs_is_found(house: House) -> None:
    """Reconcile ended the order and its workflow runs: invariant 6. The order ended long ago and its workflow runs:
    invariant 8."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await planted(house, "UPDATE orders SET reconciled = true WHERE id = %(order)s", order=order.order_id)
    assert await violated(house, order, histories=True) == {6}
    await planted(
        house,
        # On a busy machine the order may have been unchanged for longer than an audit's grace by now.
        "UPDATE orders SET reconciled = false, state = 'FAILED', updated_at = now() WHERE id = %(order)s",
        *PAYMENT_AND_EVENTS_OF_A_FAILURE,
        order=order.order_id,
    )
    assert await violated(house, order, histories=True) == set()
    await planted(
        house, "UPDATE orders SET updated_at = now() - interval '1 minute' WHERE id = %(order)s", order=order.order_id
    )
    assert await violated(house, order, histories=True) == {8}
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
        assert await violated(house, order, histories=True) == {7}
    finally:
        await handle.terminate("planted")


async def test_an_order_open_past_its_budget_is_found(house: House) -> None:
    """An order that should long have ended, and that nobody is undoing, breaks invariant 8."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    assert await violated(house, order) == set()
    await planted(
        house, "UPDATE orders SET created_at = now() - interval '70 seconds' WHERE id = %(order)s", order=order.order_id
    )
    assert await violated(house, order) == {8}
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
    assert await violated(house, order, histories=True) == set()
    await planted(
        house, "DELETE FROM events WHERE order_id = %(order)s AND type = %(type)s", order=order.order_id, type=event
    )
    assert await violated(house, order, histories=True) == {9}


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
    assert await violated(house, order, histories=True) == {10}


async def test_a_step_that_nobody_watches_is_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that may take a day and sends no heartbeats: Temporal would notice a lost worker a day late. Invariant
    11."""
    order = await completed(house)
    whole = WorkflowHandle.fetch_history

    async def without_heartbeats(self: WorkflowHandle[object, object]) -> WorkflowHistory:
        history = await whole(self)
        for event in history.events:
            if event.HasField("activity_task_scheduled_event_attributes"):
                event.activity_task_scheduled_event_attributes.ClearField("heartbeat_timeout")
        return history

    assert await violated(house, order, histories=True) == set()
    monkeypatch.setattr(WorkflowHandle, "fetch_history", without_heartbeats)
    assert await violated(house, order, histories=True) == {11}


async def test_an_audit_without_the_histories_it_asked_for_is_void(house: House) -> None:
    """An audit that should check histories and finds none is void. An audit of the books alone is not."""
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

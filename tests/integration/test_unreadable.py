"""Histories that cannot be read: each is a finding of its own, and stops neither the audit nor reconcile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.common import RawValue
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer

from tests.conftest import House
from trellis.audit import Report, audit
from trellis.errors import TemporalUnavailable
from trellis.histories import OrderHistory, UnreadableHistory
from trellis.messages import ORDER_WORKFLOW, SHIPPING_WORKFLOW
from trellis.model import Order, State, workflow_id
from trellis.reconcile import Outcome, Repair, reconcile

pytestmark = pytest.mark.slow

ENCRYPTED = RawValue(Payload(metadata={"encoding": b"binary/encrypted"}, data=b"\x00\xff"))


async def started_by_hand(house: House, *input_: object, type_: str = ORDER_WORKFLOW) -> WorkflowHandle[Any, Any]:
    """A workflow under an order's id, which the desk did not start and no worker takes up."""
    return await house.desk.client.start_workflow(
        type_, args=list(input_), id=workflow_id(house.order().order_id), task_queue="nobody-works-here",
        run_timeout=timedelta(seconds=60),
    )  # fmt: skip


def order_id_of(handle: WorkflowHandle[Any, Any]) -> str:
    return handle.id.removeprefix("order-")


async def audited(house: House, *workflow_ids: str) -> Report:
    ids = ", ".join(f"'{id_}'" for id_ in workflow_ids)
    return await audit(house.desk.client, house.pool, query=f"WorkflowId IN ({ids})")


def of(report: Report, order_id: str) -> list[tuple[int | str, str]]:
    return [(found.invariant, found.sentence) for found in report.violations if found.order_id == order_id]


def answered_with(monkeypatch: pytest.MonkeyPatch, order: Order, answer: Callable[[WorkflowHistory], Any]) -> None:
    """Temporal gives out another history of this order than it keeps."""
    whole = WorkflowHandle.fetch_history

    async def fetch_history(self: WorkflowHandle[Any, Any], **options: Any) -> WorkflowHistory:
        history = await whole(self, **options)
        return answer(history) if self.id == workflow_id(order.order_id) else history

    monkeypatch.setattr(WorkflowHandle, "fetch_history", fetch_history)


async def found_repairs(house: House, order_id: str, *, apply: bool) -> list[Repair]:
    found = reconcile(house.desk, house.pool, apply=apply)
    return [repair async for repair in found if repair.order_id == order_id]


@pytest.mark.parametrize(
    ("type_", "input_"),
    [
        (ORDER_WORKFLOW, ()),
        (ORDER_WORKFLOW, (ENCRYPTED,)),
        (ORDER_WORKFLOW, ([1, 2, 3],)),
        (ORDER_WORKFLOW, ({"order": {"order_id": "a'b", "payment_id": "p"}, "policy": {}},)),
        (SHIPPING_WORKFLOW, (None,)),
    ],
    ids=["none", "encrypted", "list", "no id", "child"],
)
async def test_an_input_that_nobody_can_read_is_one_finding(
    house: House, type_: str, input_: tuple[object, ...]
) -> None:
    """The audit says of which workflow and why, and goes on: a completed order beside it is looked at."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    handle = await started_by_hand(house, *input_, type_=type_)
    try:
        report = await audited(house, handle.id, workflow_id(order.order_id))
        [(invariant, sentence)] = of(report, order_id_of(handle))
        assert (invariant, sentence.split(": ")[0]) == (10, "its history cannot be read")
        assert "\n" not in sentence
        assert (of(report, order.order_id), report.histories, report.looked_at) == ([], 2, 2)
        assert not report.clean
    finally:
        await handle.terminate("planted")


async def test_a_stranger_under_an_orders_id_disturbs_nobody(house: House) -> None:
    """A workflow of another type has an order's workflow id: neither audit nor reconcile takes it for an order."""
    handle = await started_by_hand(house, {"any": "thing"}, type_="SomebodyElses")
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    await handle.terminate("planted")
    report = await audited(house, handle.id, workflow_id(order.order_id))
    assert of(report, order_id_of(handle)) == of(report, order.order_id) == []
    assert await found_repairs(house, order_id_of(handle), apply=True) == []


@pytest.mark.parametrize("kept", [slice(0, 0), slice(5, None), slice(1, 2)], ids=["nothing", "no start", "one event"])
async def test_a_truncated_history_is_one_finding(house: House, monkeypatch: pytest.MonkeyPatch, kept: slice) -> None:
    """Events are missing at its head: the finding names it, and what needs no history is checked all the same."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    answered_with(monkeypatch, order, lambda whole: WorkflowHistory(whole.workflow_id, whole.events[kept]))
    report = await audited(house, workflow_id(order.order_id))
    [(invariant, sentence)] = of(report, order.order_id)
    assert (invariant, sentence.startswith("its history cannot be read: ")) == (10, True)


@pytest.mark.parametrize(
    ("code", "stops"), [(RPCStatusCode.DATA_LOSS, False), (RPCStatusCode.UNAVAILABLE, True)], ids=["lost", "away"]
)
async def test_temporal_may_have_lost_one_history_or_be_away(
    house: House, monkeypatch: pytest.MonkeyPatch, code: RPCStatusCode, *, stops: bool
) -> None:
    """What Temporal itself cannot read is this order's finding; a Temporal that does not answer ends the audit."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)

    def refuse(whole: WorkflowHistory) -> WorkflowHistory:
        raise RPCError("history is corrupted", code, b"")

    answered_with(monkeypatch, order, refuse)
    if stops:
        with pytest.raises(TemporalUnavailable):
            await audited(house, workflow_id(order.order_id))
    else:
        report = await audited(house, workflow_id(order.order_id))
        assert of(report, order.order_id) == [(10, f"its history cannot be read: {code.name}: history is corrupted")]


async def test_a_history_that_breaks_the_replayer_does_not_end_the_audit(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One history breaks the replayer. That history is a finding, and a new replayer replays those after it."""
    orders = [await house.start(approve=True) for _ in range(3)]
    for order in orders:
        await house.ends(order, State.COMPLETED)
    bad = workflow_id(orders[1].order_id)
    whole = Replayer.workflow_replay_iterator

    def fragile(self: Replayer, histories: AsyncIterator[WorkflowHistory]) -> object:
        async def checked() -> AsyncIterator[WorkflowHistory]:
            async for history in histories:
                if history.workflow_id == bad:
                    raise RuntimeError("[/bold] the bridge\ncannot parse it")
                yield history

        return whole(self, checked())

    monkeypatch.setattr(Replayer, "workflow_replay_iterator", fragile)
    report = await audited(house, *(workflow_id(order.order_id) for order in orders))
    assert [[invariant for invariant, _ in of(report, order.order_id)] for order in orders] == [[], [10], []]
    assert report.histories == 3


async def test_reconcile_ends_an_order_whose_history_cannot_be_read(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is enough to undo the order. The text gives its state and says why its requests were not read."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    answered_with(monkeypatch, order, lambda whole: WorkflowHistory(whole.workflow_id, []))
    for apply in (False, True):
        [repair] = await found_repairs(house, order.order_id, apply=apply)
        assert repair.state == "AWAITING_APPROVAL"
        assert repair.workflow.startswith("was terminated, and its history cannot be read (")
    assert (repair.outcome, repair.ended) == (Outcome.ENDED, State.FAILED)
    row = await house.desk.ledger.order(order.order_id)
    assert row is not None
    assert (row.state, row.reconciled) == (State.FAILED, True)


async def test_reconcile_leaves_alone_what_neither_books_nor_history_know(house: House) -> None:
    """Started by hand with an input that nobody can read, and terminated: shown in words, and nothing to undo."""
    handle = await started_by_hand(house, ENCRYPTED)
    await handle.terminate("planted")
    [repair] = await found_repairs(house, order_id_of(handle), apply=True)
    assert (repair.outcome, repair.state) == (Outcome.LEFT_ALONE, "not received")
    assert repair.workflow.startswith("was terminated, and its history cannot be read (")
    assert repair.action == "left alone: it was never received, so nothing was charged"


async def test_what_goes_wrong_before_an_order_is_looked_at_has_a_whole_sentence(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part of the text is empty, whatever failed."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")

    async def broken(*_: object) -> None:
        raise RuntimeError("planted\ntwice")

    monkeypatch.setattr("trellis.reconcile.describe", broken)
    [repair] = await found_repairs(house, order.order_id, apply=True)
    assert (repair.state, repair.workflow) == ("not known", "was not looked at")
    assert repair.action == "could not be ended: planted twice"
    await house.desk.cancel(order.order_id)


async def test_signals_sent_by_hand_are_read_or_passed_over(house: House) -> None:
    """A bare string is a cancel's reason; a number, a list and a cipher ask for nothing; none makes it unreadable."""
    desk, order = house.unattended(), house.order()
    await desk.start(order)
    handle = desk.client.get_workflow_handle(workflow_id(order.order_id))
    for name, body in [
        ("cancel_order", 5), ("cancel_order", [1]), ("cancel", ENCRYPTED), ("update_address", {"street": "2 New Road"}),
        ("approve", "yes"), ("whatever", 1), ("cancel_order", "changed my mind"),
    ]:  # fmt: skip
        await handle.signal(name, body)
    history = await OrderHistory.read(await handle.fetch_history(), desk.client.data_converter)
    assert [(request.kind, request.reason) for request in history.requests] == [
        ("update_address", ""), ("approve", ""), ("cancel", "changed my mind"),
    ]  # fmt: skip
    assert not any(request.acknowledged for request in history.requests)
    await handle.terminate("planted")
    assert [invariant for invariant, _ in of(await audited(house, handle.id), order.order_id)] == [6]
    [repair] = await found_repairs(house, order.order_id, apply=True)
    assert repair.ended == State.CANCELLED
    row = await house.desk.ledger.order(order.order_id)
    assert row is not None
    assert row.ending_reason == "changed my mind"


async def test_an_unreadable_history_says_why_on_one_line(house: House) -> None:
    """The kind of error and its words, without line breaks, at most 200 characters."""
    forged = WorkflowHistory.from_json("order-x", json.dumps({"events": []}))
    with pytest.raises(UnreadableHistory, match="ValueError: the history has no events"):
        await OrderHistory.read(forged, house.desk.client.data_converter)

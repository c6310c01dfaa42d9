"""Starts, signals and updates as people send them from Temporal's own CLI and UI, without the desk."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer

from tests.conftest import House
from trellis.audit import audit
from trellis.messages import ORDER_WORKFLOW
from trellis.model import Order, State, workflow_id
from trellis.parsing import parse_order
from trellis.policies import preset, tuned
from trellis.workers import RUNNER
from trellis.workflows.order import OrderWorkflow

BYTES = RawValue(Payload(metadata={"encoding": b"binary/plain"}, data=b"\x00\x01"))
BROKEN = RawValue(Payload(metadata={"encoding": b"json/plain"}, data=b'{"reason": '))
FOREIGN = RawValue(Payload(metadata={"encoding": b"json/encrypted"}, data=b"{}"))
NOWHERE = RawValue(Payload(data=b"{}"))
ODD: list[object] = [BYTES, BROKEN, FOREIGN, NOWHERE]
ODD_NAMES = ["binary", "broken-json", "unknown-encoding", "no-encoding"]


async def in_review(house: House) -> tuple[Order, WorkflowHandle[Any, Any]]:
    """An order that waits for its approval."""
    order = await house.start(tuned(preset("swift"), review_window=60))
    await house.until(order, "AWAITING_APPROVAL")
    return order, house.desk.client.get_workflow_handle(workflow_id(order.order_id))


async def no_task_failed(house: House, id_: str) -> None:
    """Assert that no workflow task failed, whatever was sent, and that the history replays."""
    history = await house.desk.client.get_workflow_handle(id_).fetch_history()
    assert not [e for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED]
    await Replayer(workflows=[OrderWorkflow], workflow_runner=RUNNER).replay_workflow(history)


async def refusals(house: House, order: Order) -> list[dict[str, Any]]:
    return [e.payload_json for e in await house.desk.events(order.order_id) if e.type == "REQUEST_REFUSED"]


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("cancel_order", ["changed my mind"], "changed my mind"),
        ("cancel", [{"reason": "too dear"}], "too dear"),
        ("cancel", [None], "cancelled on request"),
        ("cancel_order", [{}], "cancelled on request"),
        ("cancel_order", [], "cancelled on request"),
    ],
)
async def test_a_cancel_by_signal_is_taken_in_every_form(
    house: House, name: str, arguments: list[object], reason: str
) -> None:
    """Bare text, an object, null and nothing at all: the order ends, and its log gives the reason."""
    order, handle = await in_review(house)
    await handle.signal(name, args=arguments)
    await house.ends(order, State.CANCELLED)
    assert (await house.desk.events(order.order_id))[-1].payload_json["reason"] == reason
    await no_task_failed(house, handle.id)


@pytest.mark.parametrize(
    ("arguments", "by"),
    [([], "request"), ([None], "request"), ([{}], "request"), (["Ada"], "Ada"), ([{"by": "Ada"}], "Ada")],
)
@pytest.mark.parametrize("way", ["signal", "update"])
async def test_an_approval_is_taken_in_every_form(house: House, way: str, arguments: list[object], by: str) -> None:
    """With nothing, null, an empty object or a name; by signal and by update."""
    order, handle = await in_review(house)
    if way == "signal":
        await handle.signal("approve_order", args=arguments)
    else:
        assert (await handle.execute_update("approve", args=arguments))["accepted"]
    await house.ends(order, State.COMPLETED)
    approved = next(e for e in await house.desk.events(order.order_id) if e.type == "ORDER_APPROVED")
    assert approved.payload_json["by"] == by


@pytest.mark.parametrize(
    "argument",
    [
        {"street": "2 New Road", "zip": "04109"},
        {"line1": "2 New Road"},
        {"address": {"line1": "2 New Road"}},
        {"request_id": "mine", "address": {"street": "2 New Road"}},
    ],
    ids=["street", "line1", "wrapped", "with-id"],
)
@pytest.mark.parametrize("way", ["signal", "update"])
async def test_an_address_is_taken_in_every_form(house: House, way: str, argument: object) -> None:
    """The forms that the HTTP API takes, by signal and by update."""
    order, handle = await in_review(house)
    if way == "signal":
        await handle.signal("update_address", argument)
    else:
        assert (await handle.execute_update("update_address", argument))["accepted"]
    await house.until(order, "ADDRESS_UPDATED")
    address = await house.one("SELECT address_json ->> 'line1' FROM orders WHERE id = %s", order.order_id)
    assert address == "2 New Road"
    await handle.signal("cancel")
    await house.ends(order, State.CANCELLED)


async def test_a_signal_that_cannot_be_understood_is_refused_in_the_ledger(house: House) -> None:
    """Wrong types, lists, two arguments, bytes and misspelt names leave one event each, and the order goes on."""
    order, handle = await in_review(house)
    nonsense: list[tuple[str, list[object]]] = [
        ("cancel_order", [7]),
        ("cancel_order", [["a", "list"]]),
        ("cancel", [{"raeson": "a typo"}]),
        ("cancel", ["x" * 501]),
        ("cancel", [{"reason": 1}]),
        ("cancel", [{"request_id": 1}]),
        ("cancel_order", ["two", "arguments"]),
        ("approve", [True]),
        ("approve", [["yes"]]),
        ("approve", [{}, {}]),
        ("update_address", []),
        ("update_address", [None]),
        ("update_address", ["2 New Road"]),
        ("update_address", [{"city": "Berlin"}]),
        ("update_address", [{"line1": "1", "street": "2"}]),
        ("dispatch_failed", []),
        ("dispatch_failed", [{"reason": "a lie"}]),
        ("aprove", []),
        ("aprove", [1, 2]),
        *((name, [odd]) for name in ("approve", "cancel", "update_address", "unheard_of") for odd in ODD),
    ]
    for name, arguments in nonsense:
        await handle.signal(name, args=arguments)
    async with asyncio.timeout(60):
        while len(found := await refusals(house, order)) < len(nonsense):
            await asyncio.sleep(0.05)
    # They are written down side by side, so in no order of their own.
    assert sorted(one["request"] for one in found) == sorted(
        "cancel" if n == "cancel_order" else n for n, _ in nonsense
    )
    assert all(one["reason"].endswith(".") and one["request_id"] for one in found)
    assert sum("There is no signal 'aprove'" in one["reason"] for one in found) == 2
    assert sum("2 were sent" in one["reason"] for one in found) == 2
    assert (await house.desk.approve(order.order_id)).verdict == "accepted"
    await house.ends(order, State.COMPLETED)
    await no_task_failed(house, handle.id)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cancel", [7]),
        ("cancel", ["two", "arguments"]),
        ("approve", [["yes"]]),
        ("update_address", []),
        ("update_address", ["2 New Road"]),
        ("update_address", [{"city": "Berlin"}]),
        ("cancel", [BYTES]),
        ("cancel", [BROKEN]),
        ("cancel", [FOREIGN]),
        ("cancle", []),
    ],
)
async def test_an_update_that_cannot_be_understood_is_rejected(
    house: House, name: str, arguments: list[object]
) -> None:
    """The sender gets the reason, and the history holds nothing of it."""
    order, handle = await in_review(house)
    with pytest.raises(WorkflowUpdateFailedError) as rejected:
        await handle.execute_update(name, args=arguments)
    assert isinstance(rejected.value.cause, ApplicationError)
    assert " " in rejected.value.cause.message
    history = await handle.fetch_history()
    assert not [e for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED]
    await handle.signal("cancel")
    await house.ends(order, State.CANCELLED)


def payload(order: Order, **more: object) -> dict[str, object]:
    """What published designs of this exercise start an order with."""
    items = [{"sku": "book", "qty": 2, "price": 12.5}]
    return {
        "order_id": order.order_id, "payment_id": order.payment_id, "items": items, "address": {"street": "1 Main St"}
    } | more  # fmt: skip


async def start(house: House, given: list[object], id_: str, **more: Any) -> WorkflowHandle[Any, Any]:
    return await house.desk.client.start_workflow(
        ORDER_WORKFLOW, args=given, id=id_, task_queue=house.desk.settings.orders_queue, **more
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"policy": "reviewed"},
        {"policy": {"budget": 20}},
        {"policy": {"preset": "classic", "retry": {"max_tries": 5}}},
    ],
    ids=["no-policy", "preset", "fields", "preset-and-fields"],
)
async def test_an_order_started_by_hand_runs_like_any_other(house: House, more: dict[str, object]) -> None:
    """The payload of the HTTP API with the order's id is enough. The desk serves the order, and a second start finds
    it."""
    order = house.order()
    handle = await start(house, [payload(order, **more)], workflow_id(order.order_id))
    await house.until(order, "AWAITING_APPROVAL")
    assert (await house.desk.approve(order.order_id)).verdict == "accepted"
    await house.ends(order, State.COMPLETED)
    assert not (await house.desk.start(parse_order(**{"address": None} | payload(order)))).created
    await no_task_failed(house, handle.id)


async def test_the_form_that_the_desk_sends_is_read_like_any_other(house: House) -> None:
    """Written by hand it may price its items as the HTTP API does, and the price counts."""
    order = house.order()
    await start(house, [{"order": payload(order), "policy": "reviewed"}], workflow_id(order.order_id))
    await house.until(order, "AWAITING_APPROVAL")
    assert str((await house.desk.status(order.order_id)).total) == "25.00"
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)


async def test_the_workflows_id_may_give_the_orders_id(house: House) -> None:
    """The body of the HTTP API has no order id. Then the order id comes from the workflow's id."""
    order = house.order()
    await start(house, [{"payment_id": order.payment_id}], workflow_id(order.order_id))
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)


async def test_a_start_under_another_id_runs_the_order_where_everybody_looks_for_it(house: House) -> None:
    """Temporal's CLI makes up an id of its own: signals to it reach the order, and it ends as the order ends."""
    order = house.order()
    handle = await start(house, [payload(order)], str(uuid.uuid4()))
    await house.until(order, "AWAITING_APPROVAL")
    await handle.signal("cancel_order", "changed my mind")
    await house.ends(order, State.CANCELLED)
    assert (await handle.result())["state"] == State.CANCELLED
    assert (await house.desk.events(order.order_id))[-1].payload_json["reason"] == "changed my mind"
    await no_task_failed(house, handle.id)
    await no_task_failed(house, workflow_id(order.order_id))
    again = await start(house, [payload(order)], str(uuid.uuid4()))
    with pytest.raises(WorkflowFailureError) as failed:
        await again.result()
    assert "was started before" in str(failed.value.cause)


@pytest.mark.parametrize(("signal", "state"), [("approve", State.COMPLETED), ("cancel_order", State.CANCELLED)])
async def test_a_signal_that_comes_with_a_start_under_another_id_reaches_the_order(
    house: House, signal: str, state: State
) -> None:
    """The order's own workflow does not exist yet when the signal is read: it waits for it."""
    order = house.order()
    handle = await start(house, [payload(order)], str(uuid.uuid4()), start_signal=signal)
    assert (await handle.result())["state"] == state
    await no_task_failed(house, handle.id)


async def test_an_order_started_by_hand_under_another_id_heeds_a_cancel_from_temporal(house: House) -> None:
    """Temporal's own cancel of that workflow cancels the order."""
    order = house.order()
    handle = await start(house, [payload(order)], str(uuid.uuid4()))
    await house.until(order, "AWAITING_APPROVAL")
    await handle.cancel()
    await house.ends(order, State.CANCELLED)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [None],
        ["o-1"],
        [7],
        [["a", "list"]],
        [{}],
        [{"order_id": "o-1"}],
        [{"order_id": "no good id!", "payment_id": "p"}],
        [{"payment_id": "p", "itmes": []}],
        [{"payment_id": "p", "items": [{"sku": "x", "quantity": 0}]}],
        [{"payment_id": "p", "policy": "swfit"}],
        [{"payment_id": "p", "policy": {"budget": "long"}}],
        [{"payment_id": "p", "policy": {"bugdet": 3}}],
        [{"payment_id": "p", "policy": 3}],
        [{"order": {"nothing": 1}, "policy": {}}],
        [{"order": 3}],
        [{"order": {"order_id": "no good id!", "payment_id": "p"}}],
        [{"order": {"order_id": "o-1", "payment_id": "p", "items": [{"sku": "x", "quantity": -1, "price_cents": 5}]}}],
        [{"order": {"order_id": "o-1", "payment_id": "p", "items": [{"sku": "x", "price_cents": 0.5}]}}],
        [{"order": {"order_id": "o-1", "payment_id": "p", "address": {"line1": "a\0b"}}}],
        [{"order": {"order_id": "o-1", "payment_id": "p"}, "policy": {"retry": {"try_timeout": -1}}}],
        [{"payment_id": "p"}, {"payment_id": "p"}],
        *([odd] for odd in ODD),
    ],
)
async def test_a_start_that_cannot_be_understood_fails_the_workflow_in_words(house: House, given: list[object]) -> None:
    """The workflow ends at once, with a sentence; no task is tried again and again, and the ledger stays empty."""
    id_ = f"order-nonsense-{uuid.uuid4().hex[:8]}"
    handle = await start(house, given, id_, start_signal="cancel", start_signal_args=["never mind"])
    with pytest.raises(WorkflowFailureError) as failed:
        async with asyncio.timeout(20):
            await handle.result()
    cause = failed.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("BadInput", True)
    assert cause.message.endswith(".")
    assert (await handle.describe()).status is WorkflowExecutionStatus.FAILED
    await no_task_failed(house, id_)
    assert await house.desk.ledger.order(id_.removeprefix("order-")) is None


async def test_the_audit_reads_what_was_sent_by_hand(house: House) -> None:
    """Orders started by hand under any id, requests in any form and starts that failed in words are no findings."""
    prefix = f"hand-{uuid.uuid4().hex[:6]}"
    first, second = (Order(f"{prefix}-{number}", f"{prefix}-{number}") for number in (1, 2))
    await start(house, [payload(first)], workflow_id(first.order_id))
    await start(house, [payload(second)], f"order-{prefix}-another-name")
    await start(house, ["nonsense"], f"order-{prefix}-nonsense")
    for order in (first, second):
        await house.until(order, "AWAITING_APPROVAL")
    handle = house.desk.client.get_workflow_handle(f"order-{prefix}-another-name")
    await handle.signal("update_address", {"street": "2 New Road"})
    await house.until(second, "ADDRESS_UPDATED")
    await handle.signal("approve_order", "Ada")
    direct = house.desk.client.get_workflow_handle(workflow_id(first.order_id))
    assert (await direct.execute_update("update_address", {"street": "3 New Road"}))["accepted"]
    await direct.signal("cancel_order", "no more")
    await house.ends(first, State.CANCELLED)
    await house.ends(second, State.COMPLETED)
    query = f'WorkflowId STARTS_WITH "order-{prefix}"'
    async with asyncio.timeout(30):
        # Visibility lags behind.
        while (await house.desk.client.count_workflows(f'{query} AND ExecutionStatus != "Running"')).count < 4:
            await asyncio.sleep(0.2)
    report = await audit(house.desk.client, house.pool, query=query)
    assert report.looked_at == 4
    assert not [one for one in report.violations if prefix in f"{one.order_id} {one.evidence}"]

"""The one table of steps, and what derives from it: queues, activities, the next step, permissions."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from trellis.activities.collecting import activities_of, activities_on, queue_of
from trellis.activities.ledger_only import LedgerActivities
from trellis.activities.steps import OutsideActivities
from trellis.bench.throughput import idle_on
from trellis.model import (
    ATTEMPTS,
    ENDINGS,
    FORWARD_OUTSIDE_STEPS,
    FORWARD_STEPS,
    OUTSIDE_STEPS,
    PATH,
    QUEUES,
    REVIEW,
    STATE_AFTER,
    STEP_OF,
    STEPS,
    TERMINAL,
    EventType,
    State,
    Step,
)
from trellis.rules import Progress, newest_progress, next_step, permissions
from trellis.workers import WORKFLOWS

HOLDERS = (OutsideActivities, LedgerActivities)


def test_the_table_tells_of_every_step_state_and_event() -> None:
    """Nothing can be added in one place only: steps, states and events all stand in the table."""
    assert set(STEPS) == set(Step)
    assert all(info.label and info.leaves for info in STEPS.values())
    apart = {EventType.DISPATCH_FAILED, EventType.REQUEST_REFUSED, *ATTEMPTS}
    assert set(STEP_OF) | apart == set(EventType)
    assert set(STATE_AFTER.values()) == set(State)
    assert set(ENDINGS) == TERMINAL
    assert PATH[0] is State.ORDER_RECEIVED
    assert PATH[-1] is State.COMPLETED
    assert set(QUEUES) == set(WORKFLOWS)


def test_each_step_has_one_activity_on_one_queue() -> None:
    """Activities are found by their decorator: each runs on exactly one queue, and each step has its own."""
    on = {queue: activities_on(queue, *HOLDERS) for queue in QUEUES}
    everywhere = [method for methods in on.values() for method in methods]
    names = {name for holder in HOLDERS for name in activities_of(holder)}
    assert len(everywhere) == len(set(everywhere)) == len(names)
    outside = activities_of(OutsideActivities)
    assert set(outside) == set(OUTSIDE_STEPS)
    for step, info in STEPS.items():
        name = info.activity or step
        assert name in names, step
        assert (name in outside) is info.calls_out, step
    assert names - {info.activity or step for step, info in STEPS.items()} == {"fence", "refuse", "dispatch_failed"}
    assert {method.__name__ for method in on["shipping"]} == {"prepare", "dispatch"}


@pytest.mark.parametrize(
    ("state", "last", "step"),
    [
        (None, None, "receive"),
        ("ORDER_RECEIVED", "ORDER_RECEIVED", "validate"),
        ("AWAITING_APPROVAL", "AWAITING_APPROVAL", REVIEW),
        ("AWAITING_APPROVAL", None, REVIEW),
        ("AWAITING_APPROVAL", "ORDER_APPROVED", "charge"),
        ("PAYMENT_CHARGED", "PAYMENT_CHARGED", "prepare"),
        ("SHIPPING", "PACKAGE_PREPARED", "dispatch"),
        ("SHIPPING", "DISPATCH_FAILED", "prepare"),
        ("SHIPPING", None, "dispatch"),
        ("SHIPPING", "CARRIER_DISPATCHED", "ship"),
        ("SHIPPED", "ORDER_SHIPPED", "complete"),
        ("COMPLETED", "ORDER_COMPLETED", None),
        ("FAILED", "ORDER_FAILED", None),
    ],
)
def test_the_next_step_follows_the_last_event(state: str | None, last: str | None, step: str | None) -> None:
    """What an order is at follows from its state and its newest event."""
    assert next_step(state, last=last) == step


def test_a_failed_try_leaves_the_order_at_its_step_and_a_request_moves_nothing() -> None:
    """A try without success is tried again; an order that is being undone is at its refund."""
    events = [("PACKAGE_PREPARED", "prepare"), ("ATTEMPT_FAILED", "dispatch"), ("ADDRESS_UPDATED", "update_address")]
    last, step = newest_progress(events)
    assert (last, step) == ("ATTEMPT_FAILED", "dispatch")
    assert next_step("SHIPPING", last=last, last_step=step) == "dispatch"
    assert next_step("SHIPPING", last="PACKAGE_PREPARED", closing=True) == "refund"
    assert newest_progress([]) == (None, None)


def test_the_row_and_the_workflow_agree_on_what_may_be_asked() -> None:
    """Permissions have one source: a claim, an undoing, an end or a closed workflow takes them away."""
    for step in (*FORWARD_STEPS, REVIEW):
        may = permissions("AWAITING_APPROVAL", claimed=False, closing=False, step=step)
        assert may == Progress(State.AWAITING_APPROVAL).permissions(step)
        assert may.cancel
        assert may.update_address
        assert may.approve is (step in ("receive", "validate", REVIEW))
    for state, claimed, closing, closed in [
        ("SHIPPING", True, False, False),
        ("SHIPPING", False, True, False),
        ("SHIPPING", False, False, True),
        ("CANCELLED", False, False, False),
    ]:
        may = permissions(state, claimed=claimed, closing=closing, closed=closed, step="dispatch")
        assert not any((may.approve, may.cancel, may.update_address))
    assert not Progress(State.SHIPPING, shipped=True).permissions("ship").cancel
    assert not Progress(State.SHIPPING, ending=State.FAILED).permissions("refund").cancel


def test_the_twin_of_the_bench_has_the_activities_of_an_order() -> None:
    """The twin is made from the activities themselves, so that a new step is measured without another list."""
    for queue in QUEUES:
        ours = {name: method for holder in HOLDERS for name, method in activities_of(holder).items()}
        twins = {twin.__temporal_activity_definition.name: twin for twin in idle_on(queue)}  # type: ignore[attr-defined]
        assert set(twins) == {name for name in ours if queue_of(name) == queue}
        for name, twin in twins.items():
            assert get_type_hints(twin)["return"] == get_type_hints(ours[name])["return"], name
    assert [str(one) for one in FORWARD_OUTSIDE_STEPS] == [one for one in OUTSIDE_STEPS if one != "refund"]

"""Rounds of shipping, retry rules for single steps, and the luck of calls, on the real servers."""

from __future__ import annotations

from itertools import count, takewhile

import pytest

from tests.conftest import House
from trellis.faults import FaultPlan, Mix, Outcome
from trellis.model import FORWARD_OUTSIDE_STEPS, STEPS, State, TryId, workflow_id
from trellis.policies import preset, tuned


async def signals(house: House, order_id: str) -> list[str]:
    """The names of the signals in the history of an order's workflow."""
    history = await house.desk.client.get_workflow_handle(workflow_id(order_id)).fetch_history()
    return [
        event.workflow_execution_signaled_event_attributes.signal_name
        for event in history.events
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]


@pytest.mark.parametrize(("name", "tries"), [("swift", 9), ("reviewed", 4)])
@pytest.mark.slow
async def test_a_preset_with_further_rounds_shows_them(house: House, name: str, tries: int) -> None:
    """The first round ends after its tries, the child signals dispatch_failed, and a second round ships the order."""
    await house.faults("dispatch: error* | ok")
    # A busy machine must not end the order before its second round.
    order = await house.start(tuned(preset(name), budget=60), approve=True)
    status = await house.ends(order, State.COMPLETED)
    events = await house.desk.events(order.order_id)
    failed = [event for event in events if event["type"] == "ATTEMPT_FAILED" and event["step"] == "dispatch"]
    assert [event["round"] for event in failed] == [1] * tries
    assert [event["type"] for event in events].count("DISPATCH_FAILED") == 1
    assert [event["round"] for event in events if event["type"] == "PACKAGE_PREPARED"] == [1, 2]
    assert "dispatch_failed" in await signals(house, order.order_id)
    assert status["shipments"][-1]["round"] == 2


async def test_each_step_follows_its_own_rule(house: House) -> None:
    """One step under Temporal's retry and with a limit, the others in a quick loop without: each as its rule says."""
    await house.faults("charge: error*; validate: error, error, error, ok")
    server = {"placement": "server", "jitter": "none", "max_tries": 2}
    order = await house.start(tuned(preset("swift"), budget=60, steps={"charge": server}), approve=True)
    await house.ends(order, State.FAILED)
    events = await house.desk.events(order.order_id)
    charged = [(event["execution"], event["try"]) for event in events if event["step"] == "charge"]
    assert charged == [(1, 1), (2, 1)]
    validated = [(event["execution"], event["try"]) for event in events if event["step"] == "validate"]
    assert validated == [(1, 1), (1, 2), (1, 3), (1, 4)]


async def test_a_refund_outlives_the_limit_of_tries(house: House) -> None:
    """Two tries a step are the rule; the refund fails five times and is tried until the money is back."""
    await house.faults("dispatch: error*; refund: error, error, error, error, error, ok")
    order = await house.start(tuned(preset("swift"), max_tries=2, dispatch_retries=0), approve=True)
    await house.ends(order, State.FAILED)
    events = await house.desk.events(order.order_id)
    assert len([event for event in events if event["step"] == "refund" and event["type"] == "ATTEMPT_FAILED"]) == 5


@pytest.mark.parametrize("placement", ["activity", "server"])
@pytest.mark.slow
async def test_the_luck_of_an_order_does_not_depend_on_its_placement(house: House, placement: str) -> None:
    """Each step's calls go as the plan says for its first, second, third call, whoever made the call again."""
    plan = FaultPlan(Mix(error=0.3, hang=0.2), seed=5)
    await house.faults(plan)
    policy = tuned(preset("swift"), placement=placement, jitter="none", try_timeout=0.5, max_tries=0, budget=200)
    order = await house.start(policy, approve=True)
    await house.ends(order, State.COMPLETED, timeout=200)
    events = await house.desk.events(order.order_id)
    seen = {
        step: [event["type"] for event in events if event["step"] == step and event["type"].startswith("ATTEMPT")]
        for step in FORWARD_OUTSIDE_STEPS
    }
    words = {Outcome.ERROR: "ATTEMPT_FAILED", Outcome.HANG: "ATTEMPT_TIMED_OUT"}
    for step in FORWARD_OUTSIDE_STEPS:
        round_ = int(STEPS[step].queue == "shipping")
        drawn = (plan.outcome(TryId(order.order_id, step, round_, 1, number)) for number in count(1))
        assert seen[step] == [words[outcome] for outcome in takewhile(lambda one: one in words, drawn)], step

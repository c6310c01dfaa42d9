"""Fault plans: which calls fail, reproducibly."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from trellis.errors import ConfigError
from trellis.faults import FaultPlan, Outcome
from trellis.model import TryId


def _tries(number: int) -> list[TryId]:
    return [TryId(f"o{n}", "charge", 0, 1, 1) for n in range(number)]


def test_the_canonical_plan_is_thirds() -> None:
    """Of 30,000 tries each outcome takes a third, within five standard deviations."""
    counts = Counter(FaultPlan.canonical().outcome(one) for one in _tries(30_000))
    assert set(counts) == {Outcome.OK, Outcome.ERROR, Outcome.HANG}
    assert all(abs(count - 10_000) < 410 for count in counts.values())


def test_an_outcome_depends_on_identity_alone() -> None:
    """Asked again, in any order, a plan gives the same outcomes; another seed gives others."""
    tries = _tries(300)
    first = {one: FaultPlan.canonical(1).outcome(one) for one in tries}
    random.Random(5).shuffle(tries)
    assert {one: FaultPlan.canonical(1).outcome(one) for one in tries} == first
    assert {one: FaultPlan.canonical(2).outcome(one) for one in tries} != first


def test_a_script_fixes_outcomes_by_try_and_round() -> None:
    """Tries in turn, rounds between bars, a star for ever, and ok after the end."""
    plan = FaultPlan.scripted("dispatch: error, hang | reply-lost*; charge: error")

    def at(step: str, round_: int, try_: int, execution: int = 1) -> Outcome:
        return plan.outcome(TryId("o", step, round_, execution, try_))

    assert [at("dispatch", 1, n) for n in (1, 2, 3)] == [Outcome.ERROR, Outcome.HANG, Outcome.OK]
    assert at("dispatch", 1, 1, execution=2) is Outcome.HANG
    assert at("dispatch", 2, 9) is Outcome.REPLY_LOST
    assert at("dispatch", 7, 1) is Outcome.REPLY_LOST
    assert at("charge", 0, 2) is Outcome.OK
    assert at("receive", 0, 1) is Outcome.OK


@pytest.mark.parametrize(
    "text", ["", "weird", "{", "[1]", "nostep: ok", "charge: maybe", '{"mix": {"error": 2}}', '{"x": 1}']
)
def test_a_fault_plan_that_cannot_be_read_is_refused(text: str) -> None:
    """Plans come from people; each mistake gets a sentence."""
    with pytest.raises(ConfigError):
        FaultPlan.parse(text)


def test_a_plan_survives_its_json() -> None:
    """What is stored in the ledger is what comes back."""
    plan = FaultPlan.canonical(3).with_step("charge", error=0.1, latency=0.5)
    assert FaultPlan.from_json(plan.to_json()) == plan

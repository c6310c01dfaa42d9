"""Fault plans: which calls fail, reproducibly."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields, replace

import pytest

from trellis.errors import ConfigError
from trellis.faults import KINDS, FaultPlan, Mix, Outcome, sliders
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


def test_the_same_call_has_the_same_luck_wherever_its_retries_live() -> None:
    """The third call of a step has the same outcome as the third try of one execution and as the third execution."""
    plan = FaultPlan.canonical(7).with_step("charge", reply_lost=0.3, error=0.2, hang=0.2)
    for order in (f"o{n}" for n in range(50)):
        for step, round_ in (("charge", 0), ("dispatch", 1), ("dispatch", 2)):
            for lane in (0, 1):
                loop = [plan.outcome(TryId(order, step, round_, 1, n, lane)) for n in range(1, 12)]
                server = [plan.outcome(TryId(order, step, round_, n, 1, lane)) for n in range(1, 12)]
                mixed = [plan.outcome(TryId(order, step, round_, (n + 1) // 2, n // 2 + 1, lane)) for n in range(1, 12)]
                assert loop == server == mixed
    one = TryId("o", "charge", 0, 1, 3)
    assert plan.draw(one, "jitter") == plan.draw(replace(one, execution=3, try_=1), "jitter")
    others = [
        replace(one, order_id="p"), replace(one, step="ship"), replace(one, round=1), replace(one, lane=1),
        replace(one, try_=4),
    ]  # fmt: skip
    assert len({plan.draw(other, "outcome") for other in [one, *others]}) == 6
    assert plan.draw(one, "outcome") != plan.draw(one, "jitter")


def test_the_canonical_plan_is_thirds_along_the_tries_of_a_step() -> None:
    """Each further call has thirds of its own, which do not depend on the calls before it."""
    plan = FaultPlan.canonical()
    pairs = Counter(
        (plan.outcome(TryId(f"o{n}", "charge", 0, 1, 1)), plan.outcome(TryId(f"o{n}", "charge", 0, 2, 1)))
        for n in range(18_000)
    )
    assert len(pairs) == 9
    assert all(abs(count - 2000) < 220 for count in pairs.values())


def test_a_plan_is_for_the_names_that_it_is_given() -> None:
    """A plan for other activities may name those and nothing else; its JSON does not carry the names."""
    names = ("compose_greeting", "notify")
    plan = FaultPlan.parse("compose_greeting: error, ok; notify: hang*", names)
    assert plan.outcome(TryId("o", "notify", 0, 1, 5)) is Outcome.HANG
    assert plan.with_step("notify", latency=1.0).mix_of("notify").latency == 1.0
    assert FaultPlan.from_json(plan.to_json(), names) == plan
    assert "names" not in plan.to_json()
    with pytest.raises(ConfigError, match="Known are compose_greeting, notify"):
        plan.with_step("charge", error=0.5)
    with pytest.raises(ConfigError, match="no step that calls out: 'notify'"):
        FaultPlan.from_json(plan.to_json() | {"script": "notify: ok"})
    with pytest.raises(ConfigError, match="unknown field"):
        FaultPlan.from_json({"names": ["charge"]})
    # Whether a reply can be lost depends on the provider's book, which other activities have not.
    assert FaultPlan(Mix(reply_lost=1.0), names=names).outcome(TryId("o", "notify", 0, 1, 1)) is Outcome.OK


def test_every_field_of_a_mix_has_its_slider_and_its_sentence() -> None:
    """Sliders, checks and texts are read off the fields of Mix; a new kind of fault needs no list of its own."""
    found = {one["name"]: one for one in sliders()}
    assert list(found) == [one.name for one in fields(Mix)]
    assert all(one["label"] and one["says"] and one["most"] > one["stride"] > 0 for one in found.values())
    assert found["reply_lost"]["steps"] == ["charge", "dispatch", "refund"]
    assert found["error"]["steps"] is None
    assert {kind.outcome for kind in KINDS.values()} == {*Outcome, None} - {Outcome.OK}
    for name in KINDS:
        with pytest.raises(ConfigError, match=name):
            FaultPlan.canonical().with_step("charge", **{name: -1.0})


def test_a_slider_takes_its_share_from_the_others() -> None:
    """If the shares would exceed 1, the others shrink in proportion. A latency changes no share."""
    plan = FaultPlan(Mix(error=0.25, hang=0.75)).moved("charge", "reply_lost", 0.5)
    assert plan.mix_of("charge").shares() == {Outcome.ERROR: 0.125, Outcome.HANG: 0.375, Outcome.REPLY_LOST: 0.5}
    assert plan.moved("charge", "latency", 2.0).mix_of("charge").shares() == plan.mix_of("charge").shares()
    with pytest.raises(ConfigError, match="no fault 'rain'"):
        plan.moved(None, "rain", 1.0)

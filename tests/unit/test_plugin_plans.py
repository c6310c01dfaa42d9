"""Fault plans for other people's activities."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from trellis.errors import ConfigError
from trellis.faults import AnyName, FaultPlan, Mix, Outcome, PlanInForce
from trellis.model import TryId
from trellis.outages import Capacity, Outage
from trellis.plugin.plans import Names, mentioned, narrowed, unknown

TYPES = Names(("fetch", "pay", "go/path.Act"))


def outcome(force: PlanInForce, step: str, number: int, attempt: int = 1) -> Outcome:
    return force.plan.outcome(TryId(f"wf-{number}\x1f1", step, 1, attempt, 1))


@pytest.mark.parametrize("name", ["pay", "Buy/pay", "go/path.Act", "Buy/go/path.Act"])
def test_a_plan_names_activity_types_alone_or_after_a_workflow_type(name: str) -> None:
    """Types can hold slashes of their own."""
    assert FaultPlan(steps={name: Mix(error=1)}, names=TYPES).check().steps[name].error == 1


@pytest.mark.parametrize("text", ['{"steps": {"refund": {"error": 1}}}', "Buy/refund: error", "refund: error"])
def test_a_type_that_the_worker_does_not_have_is_refused_in_words(text: str) -> None:
    """The sentence names the types that there are."""
    with pytest.raises(ConfigError, match=r"'(Buy/)?refund'.*Known are fetch, pay, go/path.Act"):
        FaultPlan.parse(text, TYPES)


def test_the_name_with_the_workflow_type_wins() -> None:
    """For the other workflow types, the shorter name counts, and what is about another type has no effect."""
    plan = FaultPlan(
        steps={"pay": Mix(error=1), "Buy/pay": Mix(), "Sell/fetch": Mix(error=1)},
        capacity={"Buy/pay": Capacity(2, 0.5)}, outages=(Outage(0, 9, step="Sell/fetch"),), names=TYPES,
    ).check()  # fmt: skip
    buy, places = narrowed(PlanInForce(plan), "Buy", TYPES)
    sell, _ = narrowed(PlanInForce(plan), "Sell", TYPES)
    assert [outcome(buy, "pay", 1), outcome(sell, "pay", 1)] == ["ok", "error"]
    assert [outcome(buy, "fetch", 1), outcome(sell, "fetch", 1)] == ["ok", "error"]
    assert buy.plan.capacity == {"pay": Capacity(2, 0.5)}
    assert places == {"pay": "Buy/pay"}
    assert sell.plan.capacity == {}
    assert buy.plan.outages == ()
    assert sell.plan.out("fetch", 1) is not None
    assert sell.plan.out("pay", 1) is None


def test_a_script_of_one_workflow_type_replaces_that_of_all() -> None:
    """An activity type with a slash of its own is not taken for a workflow type."""
    plan = FaultPlan.parse("Buy/pay: ok, error; pay: error; go/path.Act: error*", TYPES)
    buy, _ = narrowed(PlanInForce(plan), "Buy", TYPES)
    sell, _ = narrowed(PlanInForce(plan), "Sell", TYPES)
    assert [outcome(buy, "pay", 1, attempt) for attempt in (1, 2)] == ["ok", "error"]
    assert [outcome(sell, "pay", 1, attempt) for attempt in (1, 2)] == ["error", "ok"]
    assert outcome(sell, "go/path.Act", 1, 7) == "error"


def test_what_a_stored_plan_names_and_the_worker_does_not_have_is_found() -> None:
    """A stored plan may name anything. Only what fits has an effect."""
    plan = FaultPlan.from_json({"steps": {"pay": {}, "Buy/pay": {}, "refund": {}}, "script": "x: ok"}, AnyName())
    assert mentioned(plan) == ["pay", "Buy/pay", "refund", "x"]
    assert unknown(plan, TYPES) == ["refund", "x"]


def test_every_kind_of_fault_is_possible_at_somebody_elses_activity() -> None:
    """Of Trellis' own steps, some can not lose a reply."""
    lost = Mix(reply_lost=1)
    foreign, _ = narrowed(PlanInForce(FaultPlan(lost, names=Names(("receive",))).check()), "W", ("receive",))
    assert outcome(foreign, "receive", 1) == "reply-lost"
    assert outcome(PlanInForce(FaultPlan(lost)), "receive", 1) == "ok"


def test_the_same_seed_and_ids_give_the_same_luck() -> None:
    """Another seed gives other outcomes, of about the same shares."""

    def drawn(seed: int) -> list[Outcome]:
        force, _ = narrowed(PlanInForce(FaultPlan(Mix(error=0.3, hang=0.2), seed=seed, names=TYPES)), "Buy", TYPES)
        return [outcome(force, "pay", number, attempt) for number in range(500) for attempt in (1, 2)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    counts = Counter(drawn(1))
    assert 240 < counts[Outcome.ERROR] < 360
    assert 140 < counts[Outcome.HANG] < 260


def test_the_plugin_is_light_to_import() -> None:
    """The driver, Arrow, pandas and the notebook's parts are imported by whoever needs them, and no file is touched."""
    code = "import sys, trellis.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"psycopg", "pyarrow", "pandas", "numpy", "ipywidgets", "trellis.lab", "trellis.insight", "trellis.config"}
    assert heavy & set(done.stdout.split()) == set()

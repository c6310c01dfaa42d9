"""What a run of chaos says about itself: its schedule, its verdicts, its page."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from trellis.audit import Report, Violation
from trellis.chaos.house import Break
from trellis.chaos.moves import Moves
from trellis.chaos.nemeses.workers import AllWorkersGone, WorkerKilled
from trellis.chaos.page import page
from trellis.chaos.recovery import Pace
from trellis.chaos.registry import NEMESES, find
from trellis.chaos.run import expect, refuse_named_servers
from trellis.chaos.scenario import Options, Result, Scenario, Skipped
from trellis.chaos.verdict import Verdict
from trellis.config import Settings
from trellis.errors import BadInput, StackError

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def report(*violations: Violation, orders: int = 60) -> Report:
    found = Report(orders=orders, charges=orders, histories=2 * orders, looked_at=orders)
    found.add(list(violations))
    return found


def made(verdict: Verdict, name: str = "workers-gone") -> Scenario:
    at = BEGAN + timedelta(seconds=6)
    return Scenario(
        name=name, orders=60, acknowledged=60, verdict=verdict, drained_s=7.25, predicted_s=6.5,
        states=Counter({"COMPLETED": 60}),
        breaks=[Break(name, at, at, at + timedelta(seconds=6), at + timedelta(seconds=8))],
        moves=Moves(1.5, 0.5, None, 9), memory={}, ended_workers=[], began=BEGAN.timestamp(),
        curve=[(0.0, 0), (6.0, 3), (14.0, 27), (22.0, 2)],
    )  # fmt: skip


def test_a_verdict_needs_a_fault_that_landed() -> None:
    """0 faults: void, whatever the books say. A violation counts in any case."""
    wrong = Violation("a", 1, "it was charged twice", {})
    assert Verdict(3, report()).word == "CLEAN"
    assert Verdict(0, report()).word == "VOID"
    assert Verdict(0, report()).void
    assert Verdict(3, report(orders=0)).word == "VOID"
    assert Verdict(0, report(wrong)).word == "VIOLATED"
    assert Verdict(3, report(), (wrong,)).violations == 1
    assert "charged twice" in Verdict(3, report(wrong)).sentence


def test_the_json_has_the_promised_keys() -> None:
    """Each scenario's object begins with the agreed keys; what was skipped has a name and a reason."""
    result = Result([made(Verdict(2, report()))], [Skipped("disk-full", "No small disk can be made here.")])
    found = result.to_json()
    assert set(found) == {"scenarios", "skipped"}
    [one] = found["scenarios"]
    assert {key: one[key] for key in ("name", "orders", "acknowledged", "landed", "violations", "void")} == {
        "name": "workers-gone", "orders": 60, "acknowledged": 60, "landed": 2, "violations": 0, "void": False,
    }  # fmt: skip
    assert (one["drained_s"], one["predicted_s"]) == (7.25, 6.5)
    assert found["skipped"] == [{"name": "disk-full", "why": "No small disk can be made here."}]


def test_a_scenario_that_did_not_come_to_its_end_is_void() -> None:
    """It is listed with its reason, in the page as well, and has no chart."""
    failed = Scenario.failed("workers-gone", 60, "A worker did not begin to work within 60 s.")
    assert failed.to_json()["void"]
    text = page(Result([failed]), Options(), {})
    assert "A worker did not begin to work within 60 s." in text
    assert "<svg" not in text


def test_the_page_holds_everything_and_loads_nothing() -> None:
    """One document: verdict, times, chart, findings and reasons, with no address and no script in it."""
    wrong = Violation("order-<1>", 4, "the books differ", {"amount": 25})
    scenarios = [made(Verdict(2, report())), made(Verdict(1, report(wrong)), "provider-raises")]
    skipped = [Skipped("disk-full", "No <small> disk can be made here.")]
    text = page(
        Result(scenarios, skipped, Pace(5.2, 1.0, 1.6)), Options(), {"workers-gone": "All workers get SIGKILL."}
    )
    for word in ("VIOLATED", "CLEAN", "All workers get SIGKILL.", "order-&lt;1&gt;", "No &lt;small&gt; disk", "7.2"):
        assert word in text
    assert text.count("<svg") == 2
    assert not re.search(r"https?:|<script|@import|url\(", text)
    assert "prefers-color-scheme: dark" in text


def test_a_schedule_repeats_with_its_seed_and_lies_within_the_run() -> None:
    """The break comes when some orders have ended and others are still to come; with `every`, again and again."""
    schedules = {seed: Options(seed=seed).schedule("workers-gone") for seed in range(20)}
    assert schedules[3] == Options(seed=3).schedule("workers-gone")
    assert len({at for [at] in schedules.values()}) == 20
    assert all(6 <= at <= 9 for [at] in schedules.values())
    minutes = Options(orders=9000, rate=5, every=60).schedule("worker-killed")
    assert len(minutes) == 30
    assert all(0 < at < 1800 for at in minutes)


def test_only_outages_are_predicted() -> None:
    """What is still served while it lasts has no backlog to drain. New workers' start counts as outage."""
    pace = Pace(6, 0.5, 2)
    assert expect(WorkerKilled, Options(), pace) is None
    longer, shorter = (expect(AllWorkersGone, Options(orders=200, seconds=seconds), pace) for seconds in (8, 4))
    assert longer is not None
    assert shorter is not None
    assert longer > shorter > 0.5


def test_an_unknown_scenario_is_refused_with_the_known_ones() -> None:
    """One sentence that lists them."""
    with pytest.raises(BadInput, match=r"no scenario 'flood'.*worker-killed"):
        find("worker-killed, flood")
    assert list(find("all")) == list(NEMESES.values())
    assert [one.name for one in find("workers-gone, worker-killed")] == ["workers-gone", "worker-killed"]


@pytest.mark.parametrize("seconds", [20, 12, 1e9, -1, float("nan")])
def test_an_outage_must_fit_the_run(seconds: float) -> None:
    """It must end while orders still arrive, or nobody could say whether they are as quick as before."""
    with pytest.raises(BadInput, match="does not fit a run of 20 s"):
        Options(seconds=seconds).check()
    assert Options(seconds=10).check().lasts(AllWorkersGone) == 10
    assert Options(orders=6).check().lasts(AllWorkersGone) == pytest.approx(1.1)


def test_chaos_refuses_servers_that_it_did_not_start() -> None:
    """One sentence that names the setting and how to do without it."""
    named = Settings.model_validate({"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "TEMPORAL_ADDRESS": "h:1"})
    with pytest.raises(StackError, match="DATABASE_URL and TEMPORAL_ADDRESS name one"):
        refuse_named_servers(named)
    refuse_named_servers(Settings.model_validate({}))


def test_each_scenario_says_what_it_breaks() -> None:
    """A name that can be typed, and one sentence for the list and for a button."""
    for name, one in NEMESES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert one.says.endswith(".")
        assert one.seconds >= 0

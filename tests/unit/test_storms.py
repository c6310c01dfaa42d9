"""Storms: what a provider that is out or busy does to orders, when that is *never*, and what saves them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest

from tests.frames import drawn
from trellis import insight, workers
from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.insight import colours
from trellis.insight.calls import Calls, Overhead
from trellis.insight.chain import Step as Activity
from trellis.insight.charts import theme
from trellis.insight.simulate import simulate
from trellis.insight.simulate.loop import Loop, Places, Process
from trellis.insight.simulate.provider import Outcome, Provider
from trellis.insight.simulate.world import Setting, World
from trellis.insight.storms import (
    Storm,
    Times,
    Usual,
    border,
    calls_while_out,
    drained_at,
    outage,
    storm,
    storm_map,
)
from trellis.insight.storms.storm import SLOTS
from trellis.outages import Capacity, Outage, RandomOutages
from trellis.policies import Policy, preset, tuned

NOTHING = Overhead(0.0, 0.0, 0.0)
LIMITED = FaultPlan(capacity={"charge": Capacity(2, 0.4)})
"""Five charges a second."""


def eager(timeout: float = 1.0, **changes: Any) -> Policy:
    """Retries soon, whatever happens."""
    return tuned(
        preset("swift"), name="eager", try_timeout=timeout, first_backoff=0.05, max_backoff=0.2, budget=30.0,
        **{"steps": {"dispatch": {"max_tries": 0}}, **changes},
    )  # fmt: skip


def hit(policy: Policy, seconds: float = 12.0, rate: float = 1.5, **more: Any) -> Storm:
    """One outage of the charge's provider at three tenths of what it serves."""
    plan = replace(LIMITED, outages=(outage(seconds, step="charge", rate=rate),))
    return storm(policy, plan, rate=rate, **more)


# --- the provider --------------------------------------------------------------------------------------------


def test_calls_wait_for_the_place_that_is_free_first() -> None:
    """Two places, a second each: the third and the fourth call wait a second, a call after them until a place is
    free."""
    provider = Provider({"charge": Calls()}, FaultPlan(capacity={"charge": Capacity(2, 1.0)}))
    calls = [provider.call("charge", 0.0, Random(1)) for _ in range(4)]
    assert [one.seconds for one in calls] == [1.0, 1.0, 2.0, 2.0]
    assert [one.queued for one in calls] == [0.0, 0.0, 1.0, 1.0]
    assert provider.call("charge", 1.5, Random(1)).seconds == pytest.approx(1.5)


def test_a_call_that_raises_or_hangs_takes_no_place() -> None:
    """After ten calls that raise and ten that hang, a good call is served at once."""
    plan = FaultPlan(capacity={"charge": Capacity(1, 1.0)})
    for mix in (Calls(error=1.0), Calls(hang=1.0)):
        provider = Provider({"charge": mix, "ship": Calls()}, plan)
        for _ in range(10):
            assert provider.call("charge", 0.0, Random(1)).queued is None
        provider._calls = {"charge": Calls()}
        assert provider.call("charge", 0.0, Random(1)).queued == 0.0


def test_an_outage_comes_before_the_draw_and_leaves_the_luck_as_it_is() -> None:
    """In the window every call fails and takes no place; later calls have the luck that they have without it."""
    plan = FaultPlan(
        outages=(Outage(5.0, 5.0, "error", "charge"), Outage(20.0, 5.0, "hang")),
        capacity={"charge": Capacity(1, 1.0)}, hang_seconds=60.0,
    )  # fmt: skip
    mix = {"charge": Calls(error=0.5), "ship": Calls(error=0.5)}
    times = np.arange(0.0, 30.0, 0.5)
    luck, same = Random(4), Random(4)
    out, calm = Provider(mix, plan), Provider(mix)
    seen = [out.call("charge", at, luck) for at in times]
    usual = [calm.call("charge", at, same) for at in times]
    for at, one, other in zip(times, seen, usual, strict=True):
        if 5 <= at < 10:
            assert (one.outcome, one.seconds, one.outage, one.queued) == (Outcome.FAILED, 0.0, "error", None)
        elif 20 <= at < 25:
            assert (one.seconds, one.outage) == (60.0, "hang")
        else:
            assert (one.outcome, one.outage) == (other.outcome, None)
    assert out.call("ship", 7.0, Random(1)).outage is None
    assert out.call("ship", 21.0, Random(1)).outage == "hang"


def test_a_call_that_was_given_up_keeps_its_place() -> None:
    """One place, a second a call, a timeout of 0.4 s: no charge is ever answered in time, and the queue grows."""
    plan = FaultPlan(capacity={"charge": Capacity(1, 1.0)})
    policy = eager(0.4, steps={"dispatch": {"max_tries": 0}, "charge": {"max_tries": 8}})
    tries = simulate(policy, plan, orders=1, steps=["charge"], overhead=NOTHING).attempts
    assert (tries["outcome"] == "timed out").all()
    waits = tries["queued"].to_numpy()
    assert len(waits) == 8
    assert (np.diff(waits) > 0.3).all()


# --- worker slots, budgets ------------------------------------------------------------------------------------


def test_places_are_given_in_turn_and_not_lost_with_who_waits() -> None:
    """One place: the second and the third wait; the second is cancelled while it waits, and the third comes in."""
    loop, places, seen = Loop(), Places(1), list[str]()

    def visit(name: str) -> Process:
        yield from places.enter()
        try:
            seen.append(name)
            yield 1.0
        finally:
            places.leave()

    first, second, third = (loop.start(visit(name)) for name in ("first", "second", "third"))
    second.cancel()
    loop.run()
    assert seen == ["first", "third"]
    assert first.happened
    assert third.happened


def test_a_worker_runs_as_many_activities_as_it_has_slots() -> None:
    """Ten charges of a second at once: with two slots five seconds, with twice the workers half of that."""
    faults = {"charge": Calls(latency=(1.0,))}
    policy = eager(3.0)
    for number, needed in ((1, 5.0), (2, 3.0)):
        runs = simulate(
            policy, faults, orders=10, at_once=10, steps=["charge"], overhead=NOTHING, slots=2, workers=number
        ).runs
        assert runs["seconds"].max() == pytest.approx(needed)


def test_simulated_slots_are_those_of_a_worker() -> None:
    """The insight layer cannot import the workers, so the number is written twice."""
    assert SLOTS == workers.SLOTS


def test_an_order_that_used_up_its_budget_fails_then() -> None:
    """Every charge fails for 100 s; each order ends FAILED when its 30 s are over, and none before."""
    plan = FaultPlan(outages=(Outage(0.0, 100.0, "error", "charge"),))
    runs = simulate(eager(), plan, orders=20, rate=1.0, budget=True).runs
    assert set(runs["state"]) == {"FAILED"}
    assert runs["seconds"].to_numpy() == pytest.approx(30.0)


def test_a_retry_budget_holds_the_calls_of_an_outage_down() -> None:
    """Twenty orders retry for 20 s. With a budget the provider gets less than a tenth of the calls, and all orders
    complete soon after the outage."""
    plan = FaultPlan(outages=(Outage(0.0, 20.0, "error", "charge"),))
    calls, late = [], []
    for policy in (eager(), eager(retry_share=0.1)):
        made = simulate(policy, plan, orders=20, rate=2.0)
        charges = made.attempts[made.attempts["step"] == "charge"]
        calls.append(int((charges["outage"] == "error").sum()))
        late.append((made.runs["ended_at"].max() - made.runs["created_at"].min()).total_seconds())
        assert (made.runs["state"] == "COMPLETED").all()
    assert calls[1] < calls[0] / 10
    assert late[1] < 35


# --- recovery -------------------------------------------------------------------------------------------------


def test_recovery_needs_the_old_backlog_and_quick_orders() -> None:
    """Ten orders of an outage end at 30 s; new ones are quick from then on, or stay slow."""
    usual = Usual(backlog=2.0, seconds=1.0)
    hurt = [(20.0 + i / 2, 30.0, True) for i in range(10)]
    quick = [(30.5 + i, 31.0 + i, True) for i in range(20)]
    slow = [(30.5 + i, 33.0 + i, True) for i in range(20)]
    assert drained_at(Times.of(hurt + quick), 25.0, usual) == 30.0
    assert drained_at(Times.of(hurt + slow), 25.0, usual) is None
    assert drained_at(Times.of(hurt + [(b, None, False) for b, _, _ in quick]), 25.0, usual) is None
    assert drained_at(Times.of(hurt), 25.0, usual) is None


# --- storms ---------------------------------------------------------------------------------------------------


def test_an_eager_policy_never_recovers_and_its_retries_are_why() -> None:
    """An outage of 12 s at three tenths of the capacity: long after it, fewer than half of the orders complete that
    arrive. A tenth of it does no harm."""
    found = hit(eager())
    assert found.alone
    assert found.drained_s is None
    later = found.timeline[found.timeline["t"] > found.healed + 2 * found.policy.budget]
    assert len(later) > 20
    assert later["completed"].sum() < 0.5 * later["arrived"].sum()
    assert "never" in found.words()
    short = hit(eager(), 1.2)
    assert short.drained_s is not None
    assert short.drained_s < 5


@pytest.mark.parametrize(
    "saves",
    [{"retry_share": 0.1}, {"slow_after": 4, "slow_backoff": 20.0}, {"timeout": 6.0}],
    ids=["a retry budget", "longer pauses", "a longer timeout"],
)
def test_what_saves_an_eager_policy(saves: dict[str, Any]) -> None:
    """The same outage: all orders complete, and new ones are quick again within twice its length, for three seeds."""
    for seed in range(3):
        assert hit(eager(), seed=seed).drained_s is None
        found = hit(eager(**saves), seed=seed)
        assert found.drained_s is not None
        assert found.drained_s < 24
        assert found.failed == 0


def test_never_is_never_still_ten_budgets_later() -> None:
    """Played on for 300 s beyond what was needed to say it, no more of the orders complete than before."""
    plan = replace(LIMITED, outages=(outage(12.0, step="charge", rate=1.5),))
    world = World(eager(), plan, ("receive", "validate", "charge", "prepare", "dispatch", "ship"), 0,
                  Setting(Overhead(), slots=SLOTS, budget=True))  # fmt: skip
    world.open(world.gaps(1.5))
    world.run_to(330.0)
    world.close()
    times = Times.of([(run.began, run.ended, run.state == "COMPLETED") for run in world.runs])
    assert times.completed(230.0, 330.0) < 0.5 * times.begun(230.0, 330.0)


def _themed(chart: Any) -> bool:
    """Whether the live chart names no colour of white paper, and the stored one has colours for black paper."""
    shown = theme._live(chart.to_dict())
    live = json.dumps({key: part for key, part in shown[theme._LIVE].items() if key != "datasets"})
    return (
        not any(f'"{one}"' in live for one in colours.dark()) and "prefers-color-scheme:dark" in shown["image/svg+xml"]
    )


def test_a_map_says_which_outages_a_policy_recovers_from() -> None:
    """Rows for each load and length; the gentle corner recovers, the hard one does not, and the chart says *never*."""
    table = storm_map(eager(), [0.2, 0.8], [2.0, 12.0], LIMITED)
    verdict = {(row.load, row.outage_s): row.recovers for row in table.itertuples()}
    assert verdict[0.2, 2.0]
    assert not verdict[0.8, 12.0]
    assert table["drained_s"].isna().to_numpy().tolist() == (~table["recovers"]).to_numpy().tolist()
    chart = insight.recovery_map(table)
    assert "never" in set(drawn(chart)["text"])
    assert _themed(chart)


def test_the_border_lies_where_the_backlog_fills_two_timeouts() -> None:
    """The orders of an outage fill the queue for two timeouts and a backoff: with one of 2 s and an outage of 8 s, at
    about half of the capacity. Below the border orders recover, above they do not."""
    found = border(eager(2.0), 8.0, LIMITED)
    assert 0.3 < found.load < 0.75
    assert found.never - found.recovers < 0.02


def test_a_storm_is_drawn_with_its_outage() -> None:
    """The chart's lines are the storm's seconds, and its band is the outage."""
    found = hit(eager(), 1.0)
    chart = insight.backlog(found)
    assert len(chart.to_dict()["vconcat"]) == 2
    assert _themed(chart)
    assert list(found.timeline.columns) == ["t", "backlog", "calls", "arrived", "completed"]
    assert found.timeline["arrived"].sum() == pytest.approx(found.completed + found.failed, abs=20)


@pytest.mark.parametrize(
    ("plan", "rate", "says"),
    [(LIMITED, 1.0, "fixed"), (replace(LIMITED, outages=(RandomOutages(1, 9),)), 1.0, "random"),
     (replace(LIMITED, outages=(Outage(20, 5),)), 6.0, "No policy can"),
     (replace(LIMITED, outages=(Outage(20, 5),)), 0.0, "rate")],
)  # fmt: skip
def test_a_storm_that_makes_no_sense_is_refused(plan: FaultPlan, rate: float, says: str) -> None:
    """No outage, outages that never end, more orders than the provider serves, no orders."""
    with pytest.raises(BadInput, match=says):
        storm(eager(), plan, rate=rate)


def test_an_outage_has_a_length() -> None:
    """Nothing, less, or more than a day is refused."""
    for seconds in (0.0, -1.0, 90_000.0, math.nan):
        with pytest.raises(BadInput, match="a day"):
            outage(seconds)


def test_calls_of_an_outage_are_counted() -> None:
    """Pauses of 0 to 50 ms for 10 s are about 200 times the one call; server retries each second are about five; what
    hangs is tried once a timeout; a longer pause leaves a tenth of it."""
    calm = FaultPlan.calm()
    swift = calls_while_out(preset("swift"), calm)
    assert 120 < swift < 280
    assert 2 < calls_while_out(tuned(preset("patient"), max_tries=0), calm) < 9
    hung = calls_while_out(preset("swift"), calm, how="hang")
    assert 10 < hung < 30
    slow = tuned(preset("swift"), slow_after=10, slow_backoff=5.0)
    assert calls_while_out(slow, calm) < swift / 4


def test_a_policy_that_overloads_without_an_outage_is_told() -> None:
    """Three lanes at 60 % load are more calls than the provider serves."""
    found = hit(eager(hedge=3), 1.0, rate=3.0)
    assert not found.alone
    assert "do not keep up" in found.words()


def test_strangers_steps_have_storms_too() -> None:
    """A chain of one activity that is no order's, with calls that were learned."""
    plan = FaultPlan(outages=(outage(5.0, step="mail"),), capacity={"mail": Capacity(3, 0.1)})
    found = storm(
        eager(2.0), plan, rate=2.0, calls={"mail": Calls(error=0.1)}, steps=Activity("mail"), overhead=NOTHING,
        even=True,
    )  # fmt: skip
    assert found.recovers
    assert found.times_normal > 2


def test_a_load_counts_what_a_lost_reply_costs() -> None:
    """Half of the replies are lost: a charge takes two places on average, so half as many orders fill the provider."""
    plan = replace(LIMITED, steps={"charge": Mix(reply_lost=0.5)}, outages=(Outage(20, 5),))
    with pytest.raises(BadInput, match="No policy can"):
        storm(eager(), plan, rate=2.6)

"""The mathematics of retries: against published figures, an independent simulation, and its own bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frames import value
from trellis.errors import BadInput, ConfigError
from trellis.faults import FaultPlan, Mix
from trellis.insight.calls import Calls, Overhead
from trellis.insight.retries import (
    RESOLUTION,
    Prediction,
    marginal,
    predict,
    queued,
    sweep,
)
from trellis.insight.simulate import simulate
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.outages import Capacity, Outage
from trellis.policies import PRESETS, Policy, preset, tuned

SEVEN = (*FORWARD_OUTSIDE_STEPS, FORWARD_OUTSIDE_STEPS[0])
NOTHING = Overhead(0.0, 0.0, 0.0)
ALIKE = replace(preset("swift"), steps={})
THIRDS = Mix(1 / 3, 1 / 3)


def loop(timeout: float, first: float = 0.005, most: float = 0.2, **other: Any) -> Policy:
    """Swift with another retry rule, the same for every step."""
    return tuned(ALIKE, try_timeout=timeout, first_backoff=first, max_backoff=most, **other)


def of(policy: Policy, **other: Any) -> Prediction:
    return predict(policy, steps=SEVEN, overhead=NOTHING, **other)


@pytest.mark.parametrize(
    ("timeout", "miss", "p50", "p99"),
    [(0.25, 6e-6, 2.0, 7.1), (0.1, 1e-8, 1.0, 4.6), (1.0, 0.058, 7.1, 20), (2.0, 0.41, 14, 38)],
)
def test_known_figures_come_out(timeout: float, miss: float, p50: float, p99: float) -> None:
    """Seven steps under the canonical thirds, backoff 5 to 200 ms, no jitter: an independent computation's figures."""
    found = of(loop(timeout, jitter="none"))
    assert found.p_miss(15) == pytest.approx(miss, rel=0.1)
    assert found.percentile(0.5) == pytest.approx(p50, rel=0.02)
    assert found.percentile(0.99) == pytest.approx(p99, rel=0.02)


@pytest.mark.parametrize(("hedge", "p50", "p99"), [(1, 1.5, 4.5), (2, 0.51, None)])
def test_swift_takes_what_was_simulated(hedge: int, p50: float, p99: float | None) -> None:
    """Six steps, the default policy: the median and tail that a simulation gave before the first order ran."""
    found = predict(tuned(preset("swift"), hedge=hedge), overhead=NOTHING)
    assert found.percentile(0.5) == pytest.approx(p50, rel=0.15)
    if p99 is not None:
        assert found.percentile(0.99) == pytest.approx(p99, rel=0.05)


@pytest.mark.parametrize(("most", "exhausted"), [(5, 0.63), (10, 0.115), (20, 0.002)])
def test_few_attempts_kill(most: int, exhausted: float) -> None:
    """The share of orders of seven steps that use their tries up, exactly 1 - (1 - (2/3)^n)^7."""
    seven = {f"step {number}": Calls(1 / 3, 1 / 3) for number in range(7)}
    found = predict(loop(0.25, max_tries=most), seven, overhead=NOTHING)
    exact = 1 - (1 - (2 / 3) ** most) ** 7
    assert exact == pytest.approx(exhausted, abs=0.003)
    assert 1 - found.cdf_values[-1] == pytest.approx(exact, rel=1e-6)
    assert found.never == pytest.approx(exact, rel=1e-9)
    assert found.percentile(0.999) == np.inf


@pytest.mark.parametrize(
    ("policy", "mix"),
    [
        (preset("swift"), THIRDS),
        (tuned(preset("swift"), hedge=2), THIRDS),
        (tuned(preset("swift"), hedge=3, jitter="none"), Mix(0.2, 0.5, latency=0.05)),
        (preset("compact"), THIRDS),
        (preset("reviewed"), Mix(0.1, 0.3, latency=0.1)),
        (tuned(preset("swift"), hedge=4), THIRDS),
        (loop(0.25, max_tries=6), THIRDS),
        (loop(0.3, 0.1, 1.0, multiplier=1.3), Mix(0.4, 0.2)),
        (preset("classic"), Mix(0.4, 0.2)),
        (tuned(ALIKE, steps={"dispatch": {"max_tries": 4}}), THIRDS),
        (tuned(ALIKE, steps={"dispatch": {"max_tries": 2, "hedge": 2}, "prepare": {"max_tries": 3}}), THIRDS),
        (tuned(ALIKE, steps={"charge": {"try_timeout": 1.0, "hedge": 2}, "ship": {"max_backoff": 0.5}}), THIRDS),
    ],
    ids=[
        "swift", "hedge 2", "hedge 3", "compact", "reviewed", "hedge 4", "six tries", "slow growth",
        "rounds cut off", "rounds of four tries", "rounds of hedged tries", "rules of single steps",
    ],
)  # fmt: skip
def test_the_model_agrees_with_a_simulation(policy: Policy, mix: Mix) -> None:
    """4,000 orders played try by try: the whole curve within the simulation's own error, and the calls too."""
    found = predict(policy, FaultPlan(mix), overhead=NOTHING)
    played = simulate(policy, FaultPlan(mix), orders=4000, overhead=NOTHING, seed=1)
    seconds = played.runs["seconds"].where(played.runs["state"] == "COMPLETED", np.inf).to_numpy(dtype=float)
    done = float(np.mean(np.isfinite(seconds)))
    assert 1 - found.never == pytest.approx(done, abs=4 * (0.25 / len(seconds)) ** 0.5)
    for share in (0.1, 0.5, 0.9, 0.99):
        at = float(np.quantile(seconds, share * done, method="lower"))
        share *= done
        # Four standard errors of an empirical share, and the atoms of a grid.
        slack = 4 * (share * (1 - share) / len(seconds)) ** 0.5
        # The server's timers depend on each other. The mathematics takes each as it is on average: 1 % of the time.
        near = 0.02 if policy.retry.placement == "activity" else 0.02 + 0.01 * at
        assert found.cdf(at - near) - slack <= share <= found.cdf(at + near) + slack
    # Calls of a round that is cut off are counted to its end by the mathematics, not by the simulation.
    if policy.child_run_timeout is None:
        per_step = len(played.attempts) / (len(seconds) * len(FORWARD_OUTSIDE_STEPS))
        assert per_step == pytest.approx(found.calls_per_step, rel=0.015)


@pytest.mark.parametrize(("tries", "share"), [(4, 0.0077), (9, 1.76e-5)])
def test_orders_that_use_up_their_rounds_are_told_from_late_ones(tries: int, share: float) -> None:
    """Three rounds of n tries, two thirds of which fail: (2/3)^3n of the orders fail, however long one waits."""
    found = predict(tuned(ALIKE, steps={"dispatch": {"max_tries": tries}}))
    assert (2 / 3) ** (3 * tries) == pytest.approx(share, rel=0.01)
    assert found.rounds_used_up == pytest.approx((2 / 3) ** (3 * tries), rel=1e-6)
    assert found.never == pytest.approx(found.rounds_used_up, rel=1e-6)
    assert found.p_late(15) == pytest.approx(found.p_miss(15) - found.never, abs=1e-9)
    assert found.p_miss(60) == pytest.approx(found.never, rel=1e-4)
    without = predict(ALIKE)
    assert (without.never, without.rounds_used_up) == (0.0, 0.0)


def test_a_rule_for_one_step_changes_that_step_alone() -> None:
    """A second lane for the charge costs calls of the charge, and makes the order faster."""
    base, hedged = predict(ALIKE), predict(tuned(ALIKE, steps={"charge": {"hedge": 2}}))
    assert [step for step, count in hedged.tries.items() if count > base.tries[step]] == ["charge"]
    assert hedged.p_miss(5) < base.p_miss(5)
    assert value(marginal(tuned(ALIKE, steps={"charge": {"hedge": 2}})), "hedge", "p_miss_half") != base.p_miss(15)


@settings(max_examples=25, deadline=None)
@given(
    timeout=st.floats(0.05, 2.0), first=st.floats(0.001, 0.1), spread=st.floats(1, 20), hedge=st.integers(1, 3),
    error=st.floats(0, 0.45), hang=st.floats(0, 0.45),
)  # fmt: skip
def test_bounds_enclose_and_a_curve_only_rises(
    timeout: float, first: float, spread: float, hedge: int, error: float, hang: float
) -> None:
    """Whatever the policy: the rounded-down and rounded-up grids enclose the answer, and P(miss) falls with time."""
    policy = loop(timeout, first, first * spread, hedge=hedge)
    found = predict(policy, FaultPlan(Mix(error, hang)), dt=0.01, horizon=60)
    low, high = found.bounds(5)
    assert low - 1e-9 <= found.p_miss(5) <= high + 1e-9
    misses = [found.p_miss(deadline) for deadline in (1, 2, 5, 15, 40)]
    assert misses == sorted(misses, reverse=True)
    assert found.calls_per_step >= 1 / (1 - error - hang) - 1e-6


def test_each_knob_is_worth_what_common_sense_says() -> None:
    """A longer timeout misses more, a second lane misses less and costs more calls."""
    worth = marginal(preset("swift"), deadline=5)
    assert value(worth, "try_timeout", "p_miss_double") > value(worth, "try_timeout", "p_miss")
    assert value(worth, "hedge", "p_miss_double") < value(worth, "hedge", "p_miss")
    assert value(worth, "hedge", "calls_double") > value(worth, "hedge", "calls_per_step")


def test_a_sweep_has_a_row_for_each_policy() -> None:
    """All presets, in their order, the server's placement last in speed."""
    table = sweep(PRESETS.values())
    assert list(table["name"]) == list(PRESETS)
    assert table.set_index("name").loc["swift", "p50"] == table["p50"].min()


def test_a_script_has_no_probabilities() -> None:
    """A plan with a script has fixed outcomes, so it is refused where shares are needed."""
    with pytest.raises(BadInput, match="script"):
        predict(preset("swift"), FaultPlan.scripted("charge: error"))


def test_outages_and_queues_are_not_predicted_as_if_they_were_not_there() -> None:
    """The mathematics needs calls that do not depend on one another, so a plan with an outage or a queue is refused."""
    for plan in (
        FaultPlan.canonical().with_outages(Outage(5, 10)),
        FaultPlan.canonical().with_capacity("charge", Capacity(2, 0.2)),
    ):
        with pytest.raises(BadInput, match="depend on one another"):
            predict(preset("swift"), plan)
    with pytest.raises(BadInput, match="grid"):
        predict(preset("swift"), dt=0)


def test_a_call_slower_than_its_timeout_never_works() -> None:
    """Good calls of 0.3 s under a timeout of 0.25 s: every order misses, and the calls have no end."""
    found = predict(preset("swift"), FaultPlan(Mix(latency=0.3)))
    assert found.p_miss(100) == pytest.approx(1)
    assert found.calls_per_step == float("inf")


@pytest.mark.parametrize(
    ("calls", "error"),
    [(Calls(float("nan"), 0.2), BadInput), (Calls(0.7, 0.7), BadInput), (Calls(latency=()), BadInput)],
)
def test_shares_that_are_none_are_refused(calls: Calls, error: type[Exception]) -> None:
    """Not a number, more than everything, no latency at all: a sentence, never a silent zero."""
    with pytest.raises(error, match=r"Shares|Latencies"):
        predict(preset("swift"), {"charge": calls})
    with pytest.raises(ConfigError):
        predict(preset("swift"), FaultPlan(Mix(0.7, 0.7)))


def test_calls_that_never_work_always_miss() -> None:
    """Every call raises, and there is no backoff to pause for: all orders miss, whatever the deadline."""
    policy = tuned(preset("swift"), first_backoff=0.0, max_backoff=0.0)
    for hedge in (1, 2):
        found = predict(tuned(policy, hedge=hedge), FaultPlan(Mix(error=1.0)))
        assert (found.p_miss(15), found.never, found.calls_per_step) == (1.0, 1.0, float("inf"))


def test_a_deadline_between_two_points_of_the_grid_is_answered_right() -> None:
    """A calm order takes 0.12 s, neither 0.1195 s nor a quarter of it; and its bounds say the same."""
    found = predict(preset("swift"), FaultPlan.calm())
    assert found.p_miss(0.1195) == pytest.approx(1.0)
    assert found.p_miss(0.1205) == RESOLUTION
    assert found.bounds(0.1195)[1] == pytest.approx(1.0)


def test_beyond_its_grid_a_prediction_does_not_guess() -> None:
    """A grid that ends at 40 s and holds nine tenths says nothing about 60 s; one of its own choosing does."""
    short = predict(preset("patient"), dt=0.01, horizon=40)
    with pytest.raises(BadInput, match="horizon"):
        short.p_miss(60)
    assert np.isnan(short.percentile(0.99))
    whole = predict(preset("patient"), dt=0.01)
    assert whole.p_miss(200) < 1e-9
    assert whole.p_miss(30) == pytest.approx(short.p_miss(30), rel=1e-6)


def test_a_tail_agrees_with_plain_convolution() -> None:
    """P(missed) of the default policy at 10 and 15 s, 5e-7 and 2e-11, as sums without any transform give them."""
    # Every backoff is a multiple of the step, so that nothing is rounded but the backoff's place within a step.
    dt, points = 0.005, 3400
    fails = np.zeros(51)
    fails[0] = fails[50] = 1 / 3
    lane, reached = np.zeros(points), np.zeros(points)
    reached[0] = 1.0
    for number in range(1, 90):
        lane += reached / 3
        cells = round(ALIKE.retry.backoff(number, 1.0) / dt)
        pause = np.full(cells + 1, 1 / cells)
        pause[0] = pause[-1] = 1 / cells / 2
        reached = np.convolve(np.convolve(reached, fails)[:points], pause)[:points]
    total = np.zeros(points)
    total[0] = 1.0
    for _ in FORWARD_OUTSIDE_STEPS:
        total = np.convolve(total, lane)[:points]
    found = predict(ALIKE, overhead=NOTHING, dt=dt)
    for deadline in (10.0, 15.0):
        assert found.p_miss(deadline) == pytest.approx(total[int(deadline / dt) + 1 :].sum(), rel=0.02)


def test_a_hang_shorter_than_the_timeout_is_a_slow_good_call() -> None:
    """Half of the calls hang for 0.1 s under a timeout of 0.25 s: they work, a tenth of a second late."""
    found = predict(preset("swift"), FaultPlan(Mix(hang=0.5), hang_seconds=0.1), overhead=NOTHING)
    assert found.calls_per_step == pytest.approx(1.0)
    assert float(found.times @ found.pmf) == pytest.approx(len(FORWARD_OUTSIDE_STEPS) * 0.05, rel=0.01)


def test_latencies_above_the_timeout_are_cut_off() -> None:
    """Good calls of 0.1, 0.2 and 0.3 s under 0.25 s: a third of the calls goes the way of hangs."""
    found = predict(preset("swift"), {"one": Calls(latency=(0.1, 0.2, 0.3))}, overhead=NOTHING)
    assert found.calls_per_step == pytest.approx(1.5)
    assert found.p_miss(0.15) == pytest.approx(2 / 3, abs=1e-6)


def test_orders_that_share_cores_wait_for_them() -> None:
    """A single order does not wait. If the cores are the limit, orders per second are cores divided by CPU seconds."""
    found = predict(tuned(preset("swift"), hedge=4))
    assert queued(found, at_once=1, cpu=0.2, cores=2).order == pytest.approx(found.overhead.order)
    busy = queued(found, at_once=100, cpu=0.2, cores=2)
    away = float(found.times @ found.pmf) - found.overhead.order
    assert 100 / (away + 0.2 + busy.order - found.overhead.order) == pytest.approx(2 / 0.2, rel=0.01)
    with pytest.raises(BadInput, match="queue"):
        queued(found, at_once=0, cpu=0.2, cores=2)

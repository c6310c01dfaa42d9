"""The mathematics of retries: against published figures, an independent simulation, and its own bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.insight.retries import STEPS, TIMER_FLOOR, Overhead, Prediction, marginal, predict, sweep
from trellis.policies import PRESETS, Policy, Retry, preset, tuned

SEVEN = (*STEPS, STEPS[0])
NOTHING = Overhead(0.0, 0.0)


def loop(timeout: float, first: float = 0.005, most: float = 0.2, **other: object) -> Policy:
    return tuned(preset("swift"), try_timeout=timeout, first_backoff=first, max_backoff=most, **other)


def of(policy: Policy, **other: object) -> Prediction:
    return predict(policy, steps=SEVEN, overhead=NOTHING, **other)  # type: ignore[arg-type]


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
    found = of(loop(0.25, max_tries=most))
    exact = 1 - (1 - (2 / 3) ** most) ** 7
    assert exact == pytest.approx(exhausted, abs=0.003)
    assert 1 - found.cdf_values[-1] == pytest.approx(exact, rel=1e-6)


def simulated(retry: Retry, mix: Mix, number: int, steps: int, seed: int = 1) -> tuple[np.ndarray, float]:
    """Seconds of `number` orders, and mean calls a step, by playing every try with the policy's own backoff."""
    rng = np.random.default_rng(seed)
    seconds, calls = np.zeros(number), 0
    for order in range(number):
        for _ in range(steps):
            lanes = []
            for _ in range(retry.hedge):
                at, number_of_try, begun = 0.0, 0, []
                while True:
                    number_of_try += 1
                    begun.append(at)
                    draw = rng.random()
                    if draw < mix.error:
                        spent = 0.0
                    elif draw < mix.error + mix.hang:
                        spent = retry.try_timeout
                    else:
                        lanes.append((at + mix.latency, begun))
                        break
                    if retry.placement == "server":
                        spent = max(spent, TIMER_FLOOR) if spent else 0.0
                        pause = max(retry.backoff(number_of_try, 1.0), TIMER_FLOOR)
                    else:
                        pause = retry.backoff(number_of_try, rng.random())
                    at += spent + pause
            won = min(end for end, _ in lanes)
            calls += sum(start <= won for _, begun in lanes for start in begun)
            seconds[order] += won
    return seconds, calls / (number * steps)


@pytest.mark.parametrize(
    ("policy", "mix"),
    [
        (preset("swift"), Mix(1 / 3, 1 / 3)),
        (tuned(preset("swift"), hedge=2), Mix(1 / 3, 1 / 3)),
        (tuned(preset("swift"), hedge=3, jitter="none"), Mix(0.2, 0.5, latency=0.05)),
        (preset("compact"), Mix(1 / 3, 1 / 3)),
        (preset("reviewed"), Mix(0.1, 0.3, latency=0.1)),
    ],
    ids=["swift", "hedge 2", "hedge 3", "compact", "reviewed"],
)
def test_the_model_agrees_with_a_simulation(policy: Policy, mix: Mix) -> None:
    """4,000 orders played try by try: the whole curve within the simulation's own error, and the calls too."""
    found = predict(policy, FaultPlan(mix), overhead=NOTHING)
    seconds, calls = simulated(policy.retry, mix, 4000, len(STEPS))
    for share in (0.1, 0.5, 0.9, 0.99):
        at = float(np.quantile(seconds, share))
        # Four standard errors of an empirical share, and the atoms of a grid.
        slack = 4 * (share * (1 - share) / len(seconds)) ** 0.5
        assert found.cdf(at - 0.02) - slack <= share <= found.cdf(at + 0.02) + slack
    assert calls == pytest.approx(found.calls_per_step, rel=0.03)


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
    worth = marginal(preset("swift"))
    assert worth.loc["try_timeout", "p_miss_double"] > worth.loc["try_timeout", "p_miss"]
    assert worth.loc["hedge", "p_miss_double"] < worth.loc["hedge", "p_miss"]
    assert worth.loc["hedge", "calls_double"] > worth.loc["hedge", "calls_per_step"]


def test_a_sweep_has_a_row_for_each_policy() -> None:
    """All presets, in their order, the server's placement last in speed."""
    table = sweep(PRESETS.values())
    assert list(table["name"]) == list(PRESETS)
    assert table.set_index("name").loc["swift", "p50"] == table["p50"].min()


def test_a_script_has_no_probabilities() -> None:
    """A plan that says what happens cannot be asked how likely it is."""
    with pytest.raises(BadInput, match="script"):
        predict(preset("swift"), FaultPlan.scripted("charge: error"))
    with pytest.raises(BadInput, match="grid"):
        predict(preset("swift"), dt=0)


def test_a_call_slower_than_its_timeout_never_works() -> None:
    """Good calls of 0.3 s under a timeout of 0.25 s: every order misses, and the calls have no end."""
    found = predict(preset("swift"), FaultPlan(Mix(latency=0.3)))
    assert found.p_miss(100) == pytest.approx(1)
    assert found.calls_per_step == float("inf")

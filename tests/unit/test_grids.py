"""The grids of the mathematics of retries, against orders that are played at random without any grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trellis.faults import FaultPlan, Mix
from trellis.insight.calls import Calls, Overhead
from trellis.insight.retries import predict, sweep
from trellis.policies import Policy, Retry, preset, tuned

NOTHING = Overhead(0.0, 0.0, 0.0)
ALIKE = replace(preset("swift"), steps={})
PLAYED = 20_000
STEPS = 6


def lanes(rule: Retry, mix: Mix, count: int, rng: np.random.Generator) -> Any:
    """Seconds until a lane of tries inside an activity succeeds, `count` times; infinite where its tries are used
    up."""
    spent = np.zeros(count)
    ended = np.full(count, np.inf)
    open_ones = np.arange(count)
    number = 0
    while len(open_ones):
        number += 1
        draw = rng.random(len(open_ones))
        works = draw >= mix.error + mix.hang
        ended[open_ones[works]] = spent[open_ones[works]] + mix.latency
        if number == rule.max_tries:
            break
        draw, open_ones = draw[~works], open_ones[~works]
        longest = min(rule.max_backoff, rule.first_backoff * rule.multiplier ** (number - 1))
        share = rng.random(len(open_ones)) if rule.jitter == "full" else 1.0
        spent[open_ones] += np.where(draw < mix.error, 0.0, rule.try_timeout) + longest * share
    return ended


def played(policy: Policy, mix: Mix, seed: int) -> Any:
    """Seconds of orders of six steps, each under the policy's general rule. No grid, and no formula of the package."""
    rng = np.random.default_rng(seed)
    rule = policy.retry
    whole = np.zeros(PLAYED)
    for _ in range(STEPS):
        whole += np.min([lanes(rule, mix, PLAYED, rng) for _ in range(rule.hedge)], axis=0)
    return whole


def agrees(policy: Policy, mix: Mix, deadlines: tuple[float, ...], seed: int = 3) -> None:
    """The prediction and its bounds against the share of played orders that miss, within four standard errors."""
    calls = Calls(mix.error, mix.hang, latency=(mix.latency,))
    found = predict(policy, {f"step {number}": calls for number in range(STEPS)}, overhead=NOTHING)
    seconds = played(policy, mix, seed)
    for deadline in deadlines:
        share = float(np.mean(seconds > deadline))
        slack = 4 * max(share * (1 - share), 1 / PLAYED) ** 0.5 / PLAYED**0.5
        low, high = found.bounds(deadline)
        assert low - slack <= share <= high + slack
        # A constant time can lie between two points of the grid, so the share is compared with those around it.
        blur, slack = 0.005 + 0.001 * deadline, slack + 0.01 * share
        assert found.p_miss(deadline + blur) - slack <= share <= found.p_miss(deadline - blur) + slack
        assert low - 1e-9 <= found.p_miss(deadline) <= high + 1e-9


@pytest.mark.parametrize(
    ("multiplier", "most", "tries", "deadlines"),
    [(1.03, 1.0, 0, (20.0, 60.0)), (1.003, 1.0, 0, (1.0, 2.0)), (1.0, 0.05, 0, (1.0, 2.0)),
     (1.01, 0.3, 10_000, (5.0, 15.0)), (1.02, 5.0, 150, (15.0, 60.0))],
)  # fmt: skip
def test_backoffs_that_grow_slowly_grow_to_their_end(
    multiplier: float, most: float, tries: int, deadlines: tuple[float, ...]
) -> None:
    """Calls that fail 19 times in 20, and backoffs that grow by little: growth goes on past the sixtieth try."""
    rule: dict[str, Any] = {"first_backoff": 0.005, "max_backoff": most, "multiplier": multiplier, "max_tries": tries}
    agrees(tuned(ALIKE, **rule), Mix(error=0.95), deadlines)


@pytest.mark.parametrize(
    ("changes", "miss", "p50"),
    [
        ({"max_backoff": 60.0}, 0.388, 1.7),
        ({"max_backoff": 60.0, "hedge": 2}, 0.016, 0.63),
        ({"max_backoff": 3600.0}, 0.388, 1.7),
        ({"max_backoff": 3600.0, "hedge": 2}, 0.016, 0.63),
    ],
)
def test_a_longest_backoff_that_is_hardly_reached_changes_little(
    changes: dict[str, Any], miss: float, p50: float
) -> None:
    """The default policy with a longest backoff of a minute, or an hour: at 2 s the grid is as fine as ever."""
    found = predict(tuned(preset("swift"), **changes))
    assert found.p_miss(2) == pytest.approx(miss, rel=0.02)
    assert found.percentile(0.5) == pytest.approx(p50, rel=0.02)
    assert found.tight(2)
    assert found.doubt(2) == ""
    low, high = found.bounds(2)
    assert low <= found.p_miss(2) <= high
    swept = sweep([tuned(preset("swift"), **changes)], deadline=2).iloc[0]
    assert swept["p_miss"] == pytest.approx(miss, rel=0.03)
    assert swept["p50"] == pytest.approx(p50, rel=0.03)


def test_a_tail_of_hours_is_found_as_well() -> None:
    """Backoffs that grow to an hour: of 20,000 orders, as many take over 1, 10 and 60 minutes as said."""
    agrees(tuned(ALIKE, max_backoff=3600.0), Mix(1 / 3, 1 / 3), (2.0, 60.0, 600.0, 3600.0))


def drawn(seed: int) -> tuple[Policy, Mix]:
    """A policy at random: any backoffs, timeouts, multipliers and lanes."""
    rng = np.random.default_rng(seed)
    first = float(10 ** rng.uniform(-3, -1))
    policy = tuned(
        ALIKE,
        first_backoff=first,
        max_backoff=first * float(10 ** rng.uniform(0, 3)),
        multiplier=1 + float(10 ** rng.uniform(-3, 0.5)),
        try_timeout=float(10 ** rng.uniform(-1.3, 0.5)),
        jitter=str(rng.choice(["none", "full"])),
        max_tries=int(rng.choice([0, 0, 0, 5, 40, 10_000])),
        hedge=int(rng.integers(1, 4)),
    )
    error, hang = rng.uniform(0, 0.47, 2)
    return policy, Mix(float(error), float(hang), latency=float(rng.choice([0, 0.02])))


@pytest.mark.parametrize("seed", range(12))
def test_policies_at_random_take_what_played_orders_take(seed: int) -> None:
    """Twelve policies at random: predictions and bounds against 20,000 orders, at the middle and in the tail."""
    policy, mix = drawn(seed)
    seconds = played(policy, mix, seed)
    done = seconds[np.isfinite(seconds)]
    agrees(policy, mix, tuple(float(one) + 0.003 for one in np.quantile(done, (0.3, 0.9, 0.99))), seed + 100)


def test_bounds_that_are_not_tight_are_said_and_made_tight() -> None:
    """Twenty calls of 95 % errors, far in the tail: the bounds differ by a factor, and a deadline makes finer grids."""
    policy, plan = tuned(ALIKE, multiplier=1.03), FaultPlan(Mix(error=0.95))
    coarse, fine = predict(policy, plan), predict(policy, plan, deadline=4.0)
    assert not coarse.tight(4.0)
    assert coarse.doubt(4.0).startswith("computed to between 0.0")
    assert fine.dt < coarse.dt
    (low, high), (least, most) = fine.bounds(4.0), coarse.bounds(4.0)
    assert high - low < (most - least) / 3
    assert low <= fine.p_miss(4.0) <= high


def test_what_takes_milliseconds_has_a_grid_of_its_own() -> None:
    """Six calls of 1 to 3 ms: the median is 12 ms, on a grid that is finer than a call."""
    calls = Calls(latency=(0.001, 0.002, 0.003))
    found = predict(ALIKE, {f"step {number}": calls for number in range(6)}, overhead=NOTHING)
    assert found.dt < 0.001
    assert found.percentile(0.5) == pytest.approx(0.012, abs=2e-4)


def test_calls_that_hardly_ever_work_are_counted_on_a_cut_grid() -> None:
    """One call in a thousand works, in two lanes: a thousand calls are made for it, whatever the grid sees of them."""
    found = predict(tuned(ALIKE, hedge=2, jitter="none"), {"one": Calls(error=0.5, hang=0.499)})
    assert found.calls_per_step == pytest.approx(1000, rel=0.02)

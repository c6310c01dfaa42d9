"""Predictions against worlds that know nothing of their formulas: backoffs that are long, or that grow slowly."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from tests.traps.calls import Mix, exactly, mixed
from tests.traps.honest import sequence
from tests.traps.judge import translated
from tests.traps.world import World
from trellis.insight.calls import Calls, Overhead
from trellis.insight.retries import predict
from trellis.policies import Jitter, Placement, Policy, Retry

pytestmark = pytest.mark.slow

THIRDS = (1 / 3, 1 / 3)
SWIFT = Retry(0.25, 0.005, 0.05, jitter=Jitter.FULL, placement=Placement.ACTIVITY)


def with_(**changes: Any) -> Retry:
    return Retry(**{**vars(SWIFT), **changes})


@pytest.mark.parametrize(
    ("steps", "rule", "shares", "deadline"),
    [
        (6, SWIFT, THIRDS, 2.0),
        (6, with_(max_backoff=60.0), THIRDS, 2.0),
        (6, with_(max_backoff=60.0, hedge=2), THIRDS, 2.0),
        (6, with_(max_backoff=3600.0), THIRDS, 2.0),
        (6, with_(max_backoff=3600.0, hedge=3), THIRDS, 0.5),
        (1, with_(max_backoff=600.0, multiplier=1.03, jitter=Jitter.NONE), (0.95, 0.0), 1.0),
        (1, with_(first_backoff=0.01, max_backoff=600.0, multiplier=1.03, jitter=Jitter.NONE), (0.95, 0.0), 3.0),
        (2, with_(first_backoff=0.01, max_backoff=600.0, multiplier=1.03), (0.95, 0.0), 3.0),
        (2, with_(first_backoff=0.01, max_backoff=600.0, multiplier=1.01, max_tries=200), (0.97, 0.0), 4.0),
        (3, with_(try_timeout=30.0, first_backoff=0.1, max_backoff=600.0, multiplier=3.0), (0.3, 0.02), 5.0),
    ],
)
def test_the_share_that_misses_lies_within_the_bounds(
    steps: int, rule: Retry, shares: tuple[float, float], deadline: float
) -> None:
    """`bounds` is a bound, and it is tight: P(missed) and the median agree with 4,000 runs of a world of its own."""
    names = [f"step_{number}" for number in range(steps)]
    calls = {name: Calls(*shares, latency=(0.02,), error_s=(0.002,)) for name in names}
    found = predict(Policy("custom", budget=1e5, retry=rule), calls, steps=names, overhead=Overhead(order=0.0))
    low, high = found.bounds(deadline)
    world = World(sequence(*names), mixed(Mix(*shares, exactly(0.02))), translated(rule), seed=7, gap=0.0)
    runs = world.simulate(4000, at_once=10).runs
    late = sum(run.outcome != "succeeded" or run.seconds > deadline for run in runs)
    assert low <= found.p_miss(deadline) <= high
    assert stats.binom.sf(late - 1, len(runs), high) > 1e-4, (
        f"{late / len(runs):.4f} missed, bounds {low:.4f} {high:.4f}"
    )
    assert stats.binom.cdf(late, len(runs), low) > 1e-4, f"{late / len(runs):.4f} missed, bounds {low:.4f} {high:.4f}"
    seconds = sorted(run.seconds for run in runs)
    median = found.percentile(0.5)
    if not math.isnan(median):
        assert seconds[int(0.47 * len(runs))] - 0.02 <= median <= seconds[int(0.53 * len(runs))] + 0.02

"""The grids of the mathematics of retries, against orders that are played at random without any grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trellis.faults import Mix
from trellis.insight.calls import Calls, Overhead
from trellis.insight.retries import predict
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
        assert found.p_miss(deadline) == pytest.approx(share, abs=slack + 0.01 * share)
        assert low - 1e-9 <= found.p_miss(deadline) <= high + 1e-9


@pytest.mark.parametrize(
    ("multiplier", "most", "tries", "deadlines"),
    [(1.03, 1.0, 0, (20.0, 60.0)), (1.0, 0.05, 0, (1.0, 2.0)),
     (1.01, 0.3, 10_000, (5.0, 15.0)), (1.02, 5.0, 150, (15.0, 60.0))],
)  # fmt: skip
def test_backoffs_that_grow_slowly_grow_to_their_end(
    multiplier: float, most: float, tries: int, deadlines: tuple[float, ...]
) -> None:
    """Calls that fail 19 times in 20, and backoffs that grow by little: growth goes on past the sixtieth try."""
    rule: dict[str, Any] = {"first_backoff": 0.005, "max_backoff": most, "multiplier": multiplier, "max_tries": tries}
    agrees(tuned(ALIKE, **rule), Mix(error=0.95), deadlines)

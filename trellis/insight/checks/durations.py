"""Durations: does the fitted model, run under the policy that was in force, give the durations that were measured?

The test compares tails. At the model's 50th, 90th, 99th and 99.9th percentile and at the deadline, the number of runs
that took longer is compared with the binomial distribution that the model gives it. The model was fitted to the same
data, which makes measured and fitted numbers more alike, so the test is conservative (Durbin, "Weak convergence of the
sample distribution function when parameters are estimated", Annals of Statistics 1, 1973). A model that is wrong by
less than `_LOOSE` of a duration passes: timers and workflow tasks are known no better.

A run that failed counts as longer than everything, and runs that a person ended do not count. The budget of an order is
no part of the model, so nothing is compared beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from trellis.errors import BadInput, ConfigError
from trellis.insight.checks.check import Check
from trellis.insight.fit import Learned
from trellis.insight.retries import Prediction
from trellis.policies import Placement, Policy

_POINTS = (0.5, 0.9, 0.99, 0.999)
_LEVEL = 0.002
"""A false alarm of this check in at most so many honest data sets."""

_LOOSE = {Placement.ACTIVITY: 0.1, Placement.SERVER: 0.2}
"""By this share of a duration the model may be wrong. The server's timers are accurate to about one second."""

_BLUR = 0.05
"""And by so many seconds: a few workflow tasks."""

_FEWEST = 20


def check(learned: Learned, runs: pd.DataFrame, deadline: float) -> Check:
    """Whether measured durations agree with the model. `runs`: as `measured.counted` returns them."""
    noun = learned.noun
    if len(runs) < _FEWEST:
        some = f"Only {len(runs)} of the {noun}s have" if len(runs) != 1 else f"Only one {noun} has"
        return Check("durations", False, f"{some} a measured duration, too few to compare the model with.")
    groups = list(_groups(runs))
    if not groups:
        return Check(
            "durations", False,
            f"The policy in force is not known, so the model cannot be run under it and compared with the {noun}s. "
            f"Give learn the {noun}s too (runs=).",
        )  # fmt: skip
    found: list[tuple[float, str]] = []
    medians = []
    for policy, took in groups:
        try:
            model = learned.predicted(_unlimited(policy, noun))
        except (BadInput, ConfigError) as error:
            return Check("durations", False, f"The model cannot be run under the policy in force: {error}")
        found += _compared(model, took, deadline, noun)
        medians.append((len(took), float(np.quantile(took, 0.5, method="inverted_cdf")), model.percentile(0.5)))
    worst = min(found, default=(1.0, ""))
    if worst[0] < _LEVEL / len(found) / 2:
        return Check("durations", False, worst[1])
    n, took, expected = medians[0]
    return Check(
        "durations", True,
        f"Half of {n:,} {noun}s took at most {_seconds(took)} under the policy in force, and the model gives "
        f"{_seconds(expected)}.",
    )  # fmt: skip


def _groups(runs: pd.DataFrame) -> Iterator[tuple[Policy, Any]]:
    """The policies in force with enough runs, and the durations under each. At most three, those with most runs."""
    by: dict[Policy, list[float]] = {}
    for policy, took in zip(runs["policy"], runs["took"], strict=True):
        if policy is not None:
            by.setdefault(policy, []).append(took)
    largest = sorted(by.items(), key=lambda one: -len(one[1]))[:3]
    yield from ((policy, np.array(took)) for policy, took in largest if len(took) >= _FEWEST)


def _compared(model: Prediction, took: Any, deadline: float, noun: str) -> Iterator[tuple[float, str]]:
    """(p-value, words) of each comparison."""
    policy, n = model.policy, len(took)
    loose = max(_LOOSE[rule.placement] for rule in (policy.retry, *policy.steps.values()))
    end = policy.budget * 0.95
    points = {model.percentile(share) for share in _POINTS} | {deadline}
    for at in sorted(one for one in points if math.isfinite(one) and one < end):
        longer = int((took > at).sum())
        most = 1.0 - _cdf(model, (at - _BLUR) / (1 + loose))
        least = 1.0 - _cdf(model, (at + _BLUR) * (1 + loose))
        says = f"the model expects {_number(n * (1.0 - _cdf(model, at)))} of {n:,} {noun}s over {_seconds(at)}"
        words = f"The model does not fit the measured durations: {says}, and {longer:,} took longer."
        yield float(stats.binom.sf(longer - 1, n, min(1.0, max(0.0, most)))), words
        yield float(stats.binom.cdf(longer, n, min(1.0, max(0.0, least)))), words


def _cdf(model: Prediction, seconds: float) -> float:
    # The times of a prediction stand farther apart in the tail, so their number does not say where they end.
    return float(model.cdf(min(max(0.0, seconds), float(model.times[-1]))))


def _number(expected: float) -> str:
    return f"{expected:,.0f}" if expected >= 9.5 else f"{expected:.1f}" if expected >= 0.05 else "none"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"


def _unlimited(policy: Policy, noun: str) -> Policy:
    """`policy`, with a budget that ends no run where it is a stranger's, whose workflows have none."""
    return policy if noun == "order" else replace(policy, budget=30 * 86_400.0)

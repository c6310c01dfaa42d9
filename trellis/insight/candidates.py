"""Policies to choose from: timeouts, backoffs, lanes, and who retries."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from trellis.insight.calls import Calls
from trellis.insight.per_step import short
from trellis.policies import Jitter, Placement, Policy, Retry

_TIMEOUTS = (0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Timeouts to consider [s]. None is shorter than what a call over a network may take, even if a plan says less."""

_OF_LATENCY = (1.5, 3.0, 6.0)
"""Further timeouts, in multiples of the time that slow good calls take."""

BACKOFFS = ((0.005, 0.05), (0.01, 0.2), (0.05, 0.5), (0.2, 1.0))
LANES = (1, 2, 3, 4)


def candidates(deadline: float, chain: Collection[Calls], lanes: int) -> Iterator[Policy]:
    """Policies with one retry rule for all steps."""
    budget = max(deadline, 1.0)
    for rule in quick_rules(deadline, chain, BACKOFFS, lanes):
        yield Policy(short(rule), budget=budget, retry=rule)
        if rule.hedge == 1:
            server = Retry(rule.try_timeout, rule.first_backoff, rule.max_backoff)
            yield Policy(short(server), budget=budget, retry=server)


def quick_rules(
    deadline: float, chain: Collection[Calls], backoffs: Sequence[tuple[float, float]], most: int
) -> Iterator[Retry]:
    """Retry rules inside the activity, with at most `most` lanes. No timeout is shorter than the slow good calls of
    `chain`."""
    slow = max(float(np.quantile(calls.latency, 0.99)) for calls in chain)
    budget = max(deadline, 1.0)
    timeouts = {timeout for timeout in _TIMEOUTS if timeout >= slow}
    timeouts |= {float(f"{slow * factor:.2g}") for factor in _OF_LATENCY if slow * factor > _TIMEOUTS[0]}
    timeouts = {timeout for timeout in timeouts if timeout < budget} or {budget / 2}
    for timeout in sorted(timeouts):
        for first, longest in backoffs:
            for lanes in (one for one in LANES if one <= most):
                yield Retry(timeout, first, longest, jitter=Jitter.FULL, placement=Placement.ACTIVITY, hedge=lanes)

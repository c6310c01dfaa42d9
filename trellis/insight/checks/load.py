"""Load: would a policy make more calls at once than the data show?

A provider that is busy shows little of it: at 70 % of what it can serve, a call waits rarely and not for long. No test
finds that among latencies that vary anyway, and a second lane then brings it down. So more calls need evidence of their
own. A call that its caller gave up still occupies the provider, so every call counts for its whole time. A call of a
policy that makes r times today's calls meets r times as many others in flight. Where that is more than nine in ten
calls met in the data, the data say too little about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.checks.check import Check
from trellis.insight.checks.draws import seconds_since_1970
from trellis.insight.fit import Learned

_BUSIEST = 0.9
"""The busiest times of the data: the other calls in flight that this share of the calls did not exceed. With 0.95 and
one call more, two lanes were trusted at a provider at 40 % load, and 7 % of the orders missed."""

_MORE = 1.05
"""A policy makes more calls than today's if it makes more than this many times as many."""


def beyond(learned: Learned, tries: Mapping[str, float]) -> Check | None:
    """A failed check where a policy makes more calls at once than the data show, else None. `tries`: its expected calls
    of each step in a run."""
    steps = learned.attempts["step"].astype(str).to_numpy()
    for step, calls in tries.items():
        mine = learned.attempts[steps == step]
        if mine.empty:
            continue
        more = calls / (len(mine) / mine["order_id"].nunique())
        if more <= _MORE:
            continue
        flight = _in_flight(mine)
        if not len(flight):
            continue
        # One other call is no load that a provider notices.
        most = max(1.0, float(np.quantile(flight, _BUSIEST)))
        if more * float(flight.mean()) > most:
            return Check(
                "independent", False,
                f"The policy would make {more:.1f} times the calls of {step} that the data show, so a call "
                f"would meet about {more * flight.mean():.1f} others at once. The data show {most:.0f} at busy times, "
                f"and say too little about how calls behave beyond that. A provider near its limit may fail.",
            )  # fmt: skip
    return None


def _in_flight(attempts: pd.DataFrame) -> Any:
    """The number of other calls in flight at the start of each of these."""
    if not {"started_at", "duration_ms"} <= set(attempts.columns):
        return np.array([])
    took = pd.to_numeric(attempts["duration_ms"], errors="coerce").to_numpy(dtype=float, na_value=np.nan) / 1000
    began = seconds_since_1970(attempts, "started_at")
    known = np.isfinite(began) & np.isfinite(took)
    starts = np.sort(began[known])
    ends = np.sort(began[known] + np.maximum(took[known], 0.0))
    return np.maximum(
        np.searchsorted(starts, starts, side="right") - np.searchsorted(ends, starts, side="right") - 1, 0
    )

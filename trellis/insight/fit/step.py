"""One step's calls: their shares, with intervals, and their latencies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.calls import Calls
from trellis.insight.fit.risks import CUT, ERROR, OK, VALUES, Risks
from trellis.insight.fit.tries import read

_MISS = 0.05 / 3
"""P(a share lies outside its interval). With a third of 5 % for each, all three hold at once at 95 % (Bonferroni)."""


@dataclass(frozen=True)
class Fit:
    """Shares of `error`, `hang` and `ok`, with intervals that contain all three at once at 95 % (Clopper and Pearson on
    the effective number of tries, Bonferroni). `latency` and `error_s` hold equally likely durations [s] of calls that
    worked and that raised. `longest`: the longest time [s] after which a try was cut off, 0 when none was."""

    tries: int
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    latency: tuple[float, ...]
    error_s: tuple[float, ...]
    longest: float

    @property
    def latency_p50(self) -> float:
        return float(np.quantile(self.latency, 0.5))

    @property
    def latency_p99(self) -> float:
        return float(np.quantile(self.latency, 0.99))

    @property
    def calls(self) -> Calls:
        return Calls(self.shares["error"], self.shares["hang"], 0.0, self.latency, self.error_s)

    @property
    def at_worst(self) -> Calls:
        """The worst calls that the intervals allow: the fewest good calls and the most hangs."""
        bad = 1.0 - self.intervals["ok"][0]
        hang = min(bad, self.intervals["hang"][1])
        return replace(self.calls, error=max(0.0, bad - hang), hang=hang)

    def words(self) -> str:
        hangs = f"hang or take over {self.longest:.2g} s" if self.longest else "hang"
        words = [
            f"{self.shares[name]:.1%} {what} ({self.intervals[name][0]:.1%} to {self.intervals[name][1]:.1%})"
            for name, what in (("ok", "work"), ("error", "raise"), ("hang", hangs))
        ]
        return f"Of {self.tries:,} tries {', '.join(words)}; half of the good calls take {_duration(self.latency_p50)}."


def fit(attempts: pd.DataFrame, step: str = "") -> Fit:
    """Learn from these attempts, all of one kind. Raises BadInput where there are none, or none that worked."""
    kind, seconds, weight, known = read(attempts)
    cut = attempts.loc[(attempts["outcome"].astype("string") == "timed out").fillna(False), "duration_ms"]
    longest = float(cut.max()) / 1000 if cut.notna().any() else 0.0
    of = f" of {step}" if step else ""
    if not (kind == OK).any():
        raise BadInput(f"There are no attempts{of} that worked to learn from. Run some orders first (`trellis load`).")
    curve = Risks(kind, seconds, weight)
    total = float(weight.sum())
    ok, error, hang = curve.share(OK), curve.share(ERROR), curve.left
    # Of failures that are missing from a history, we know the number but not the kind.
    unknown = total - len(kind)
    split = 0.0
    if unknown > 0 and known:
        raised = error / (1.0 - ok)
        split = (1.0 - ok) ** 2 * raised * (1.0 - raised) * max(0.0, 1.0 / known - 1.0 / (known + unknown))
    shares = {"ok": ok, "error": error, "hang": hang}
    return Fit(
        tries=round(total),
        shares=shares,
        intervals={
            name: curve.interval(cause, _MISS, 0.0 if cause == OK else split)
            for name, cause in (("ok", OK), ("error", ERROR), ("hang", CUT))
        },
        latency=curve.values(OK),
        error_s=curve.values(ERROR) if error > 0 else (0.0,),
        longest=longest,
    )


def with_latencies_of(whole: Fit, attempts: pd.DataFrame) -> Fit:
    """The shares of all tries, with one step's own latencies where it has enough tries."""
    kind, seconds, weight, _ = read(attempts)
    if (kind == OK).sum() < VALUES:
        return whole
    return replace(whole, latency=Risks(kind, seconds, weight).values(OK))


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return "less than 1 ms"
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds:.2f} s"

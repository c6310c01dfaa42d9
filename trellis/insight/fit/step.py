"""One step's calls: their shares, with intervals, and their latencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.calls import Calls
from trellis.insight.fit.risks import CUT, ERROR, OK, Risks
from trellis.insight.fit.tries import Tries
from trellis.insight.flights.attempts import flight_attempts
from trellis.insight.flights.columns import is_of_the_book

_MISS = 0.05 / 3
"""P(a share lies outside its interval). With a third of 5 % for each, all three hold at once at 95 % (Bonferroni)."""


@dataclass(frozen=True)
class Fit:
    """Shares of `error`, `hang` and `ok`, with intervals that contain all three at once at 95 % (Clopper and Pearson
    where no try was cut off early; see `risks`).

    `latency` and `error_s` hold equally likely durations [s] of calls that worked and that raised. `longest`: the time
    [s] until which calls were followed, 0 where every call ended by itself; a "hang" is a call that had not ended then.
    `worked`: the number of tries that worked. `timed`: whether the durations of any of these are known; without them
    `latency` holds zeros. `lent`: how far, from 0 to 1, the shares moved from the step's own toward those that all
    steps have in common; the intervals are always of the step's own tries. `latency_of`: the other steps whose
    latencies are in `latency`, because no test tells them from this step's.
    """

    tries: int
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    latency: tuple[float, ...]
    error_s: tuple[float, ...]
    longest: float
    worked: int
    timed: bool
    lent: float = 0.0
    latency_of: tuple[str, ...] = ()

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
        return self.toward_worst(1.0)

    def toward_worst(self, far: float) -> Calls:
        """The calls where the shares lie `far` of the way from the estimate to the worst that the intervals allow."""
        bad = 1.0 - self.shares["ok"]
        bad += far * max(0.0, 1.0 - self.intervals["ok"][0] - bad)
        hang = self.shares["hang"] + far * max(0.0, self.intervals["hang"][1] - self.shares["hang"])
        hang = min(bad, hang)
        return replace(self.calls, error=max(0.0, bad - hang), hang=hang)

    def words(self) -> str:
        hangs = f"hang or take over {self.longest:.2g} s" if self.longest else "hang"
        words = [
            f"{self.shares[name]:.1%} {what} ({self.intervals[name][0]:.1%} to {self.intervals[name][1]:.1%})"
            for name, what in (("ok", "work"), ("error", "raise"), ("hang", hangs))
        ]
        if not self.worked:
            last = "none worked"
        elif not self.timed:
            last = "how long good calls take is not known"
        else:
            last = f"half of the good calls take {_duration(self.latency_p50)}"
        return f"Of {self.tries:,} tries {', '.join(words)}; {last}."

    def moved(self, common: Mapping[str, float], lent: float) -> Fit:
        """This fit with its shares moved toward the common ones, by one standard error of its good calls at most."""
        far = common["ok"] - self.shares["ok"]
        # The interval spans some 2.4 standard errors on either side.
        low, high = self.intervals["ok"]
        error = (high - low) / 4.8
        by = min(lent, error / abs(far)) if far else lent
        shares = {name: share + by * (common[name] - share) for name, share in self.shares.items()}
        intervals = {
            name: (min(low, shares[name]), max(high, shares[name])) for name, (low, high) in self.intervals.items()
        }
        return replace(self, shares=shares, intervals=intervals, lent=by)


UNKNOWN = Fit(
    0, {"ok": 0.0, "error": 0.0, "hang": 1.0}, dict.fromkeys(("ok", "error", "hang"), (0.0, 1.0)), (0.0,), (0.0,), 0.0,
    worked=0, timed=False,
)  # fmt: skip
"""What is known about a step of which no attempt has ended."""


def fit(attempts: pd.DataFrame, step: str = "") -> Fit:
    """Learn from these attempts, all of one kind. Raises BadInput where there are none, or none that worked."""
    if is_of_the_book(attempts):
        attempts = flight_attempts(attempts)
    of = f" of {step}" if step else ""
    tries = Tries.read(attempts)
    if not tries.worked:
        raise BadInput(f"There are no attempts{of} that worked to learn from.")
    return fitted(tries)[0]


def fitted(tries: Tries) -> tuple[Fit, float]:
    """The fit of these tries, and the number of tries that would fix its shares as well if all had ended."""
    if not len(tries.kind):
        raise BadInput("There are no attempts to learn from that ended.")
    curve = Risks(tries.kind, tries.seconds, tries.weight)
    total = float(tries.weight.sum())
    ok, error, hang = curve.share(OK), curve.share(ERROR), curve.left
    # Of failures that are missing from a history, we know the number but not the kind.
    unknown = total - len(tries.kind)
    split = 0.0
    if unknown > 0 and tries.known_failures and ok < 1.0:
        raised = error / (1.0 - ok)
        fewer = 1.0 / tries.known_failures - 1.0 / (tries.known_failures + unknown)
        split = (1.0 - ok) ** 2 * raised * (1.0 - raised) * max(0.0, fewer)
    shares = {"ok": ok, "error": error, "hang": hang}
    intervals = {
        name: curve.interval(cause, _MISS, 0.0 if cause == OK else split)
        for name, cause in (("ok", OK), ("error", ERROR), ("hang", CUT))
    }
    if tries.kinds_unknown:
        intervals |= dict.fromkeys(("error", "hang"), (0.0, 1.0 - intervals["ok"][0]))
    found = Fit(
        tries=round(total),
        shares=shares,
        intervals=intervals,
        latency=curve.values(OK),
        error_s=curve.values(ERROR) if error > 0 else (0.0,),
        longest=tries.longest_until(curve.end),
        worked=tries.worked,
        timed=tries.timed,
    )
    return found, min(total, curve.size)


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return "less than 1 ms"
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds:.2f} s"

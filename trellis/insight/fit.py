"""How calls behave, learned from recorded attempts: the mix of faults and the latency of good calls.

A call ends by working or by raising, unless a timeout or another lane's success cuts it off first. About a call that
was cut off we know only that it would have taken longer. Shares and latencies are therefore estimated as competing
risks under censoring (Aalen and Johansen, "An empirical transition matrix", Scandinavian Journal of Statistics 5,
1978). This estimate has no bias, even where it combines attempts under different timeouts (a step may have its own
retry rule) or includes the losing lanes of a hedge. A call that had not ended after the longest timeout counts as a
"hang": it hangs, or it is slower than every timeout in the data.

A step stops at its first success. That causes no bias, because each try is an independent draw. Lost tries, and tries
that have not ended, are left out. A history holds only the last two attempts of an activity. The attempts before them
failed, and their kinds of failure are assumed to have the same distribution as the known ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from trellis.errors import BadInput
from trellis.insight.calls import Calls
from trellis.model import FORWARD_OUTSIDE_STEPS

_OK, _ERROR, _CUT = 1, 2, 0
_KINDS = {"succeeded": _OK, "failed": _ERROR, "timed out": _CUT, "abandoned": _CUT}
_VALUES = 40
_FEWEST = 5.0
"""The estimate stops where fewer calls than this are still running and not cut off."""
_ALIKE = 0.01
_CLUSTER = 1.25


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


@dataclass(frozen=True)
class Learned:
    """What was learned about each step's calls, in the order of the steps. `alike`: the steps' shares differ by no more
    than chance explains (chi-squared at 1 %), so each step has the shares of all tries together."""

    steps: dict[str, Fit]
    alike: bool

    @property
    def tries(self) -> int:
        found = [fit.tries for fit in self.steps.values()]
        return found[0] if self.alike else sum(found)

    @property
    def calls(self) -> Mapping[str, Calls]:
        return {step: fit.calls for step, fit in self.steps.items()}

    @property
    def at_worst(self) -> Mapping[str, Calls]:
        return {step: fit.at_worst for step, fit in self.steps.items()}

    def words(self) -> str:
        if self.alike:
            return next(iter(self.steps.values())).words()
        return "The steps differ. " + " ".join(f"{step}: {fit.words()}" for step, fit in self.steps.items())


def learn(attempts: pd.DataFrame, steps: Sequence[str] | None = None) -> Learned:
    """Learn each step's calls from a frame that `trellis.insight.attempts` or `history_attempts` returned.

    `steps`: the chain, in order. None: the six steps of an order where the frame has them, else every step of the
    frame, by its first appearance. Where the steps differ by no more than chance, each gets the shares of all tries,
    and keeps its own latencies. Raises BadInput where a step has no tries, or none that worked.
    """
    names = attempts["step"].astype(str)
    there = list(dict.fromkeys(names))
    chain = list(steps) if steps is not None else [str(one) for one in FORWARD_OUTSIDE_STEPS if one in there] or there
    missing = sorted(set(chain) - set(there))
    if missing and there:
        raise BadInput(f"There are no attempts of {', '.join(missing)} to learn from.")
    mine = attempts[names.isin(chain)]
    by = {step: mine[names[mine.index] == step] for step in chain}
    if len(chain) < 2 or _alike(list(by.values())):
        whole = fit(mine)
        fits = {step: _latencies(whole, frame) for step, frame in by.items()}
        return Learned(fits, alike=True)
    return Learned({step: fit(frame, step) for step, frame in by.items()}, alike=False)


def fit(attempts: pd.DataFrame, step: str = "") -> Fit:
    """Learn from these attempts, all of one kind. Raises BadInput where there are none, or none that worked."""
    kind, seconds, weight, known = _read(attempts)
    cut = attempts.loc[(attempts["outcome"].astype("string") == "timed out").fillna(False), "duration_ms"]
    longest = float(cut.max()) / 1000 if cut.notna().any() else 0.0
    of = f" of {step}" if step else ""
    if not (kind == _OK).any():
        raise BadInput(f"There are no attempts{of} that worked to learn from. Run some orders first (`trellis load`).")
    curve = _Risks(kind, seconds, weight)
    total = float(weight.sum())
    ok, error, hang = curve.share(_OK), curve.share(_ERROR), curve.left
    variances = {"ok": curve.variance(_OK), "error": curve.variance(_ERROR), "hang": curve.left_variance}
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
            name: _interval(share, variances[name] + (0.0 if name == "ok" else split), total)
            for name, share in shares.items()
        },
        latency=curve.values(_OK),
        error_s=curve.values(_ERROR) if error > 0 else (0.0,),
        longest=longest,
    )


def _latencies(whole: Fit, attempts: pd.DataFrame) -> Fit:
    """The shares of all tries, with one step's own latencies where it has enough tries."""
    kind, seconds, weight, _ = _read(attempts)
    if (kind == _OK).sum() < _VALUES:
        return whole
    return replace(whole, latency=_Risks(kind, seconds, weight).values(_OK))


def _read(attempts: pd.DataFrame) -> tuple[Any, Any, Any, int]:
    """(kind, seconds, weight) of each try that carries information, and the number of failures whose kind is known."""
    outcome = attempts["outcome"].astype("string").fillna("unknown")
    unknown = int((outcome == "unknown").sum())
    kinds = outcome.map(_KINDS)
    known = attempts[kinds.notna().to_numpy()]
    kind = kinds.dropna().to_numpy(dtype=int)
    seconds = known["duration_ms"].to_numpy(dtype="float64", na_value=np.nan) / 1000
    cut_by_clock = (known["outcome"].astype("string") == "timed out").to_numpy()
    # Timeouts fire late, each by a different amount. A good call just before a late timeout would seem to have outlived
    # all hung calls, and would count for all of them. So the times of timeouts are rounded up to common values.
    seconds = np.where(
        cut_by_clock & (seconds > 0),
        _CLUSTER ** np.ceil(np.log(np.maximum(seconds, 1e-6)) / math.log(_CLUSTER)),
        seconds,
    )
    # Tries without times. Assume that one which raised took no time, that one which was cut off waited as long as the
    # longest, and that one which worked took as long as the others that worked.
    longest = np.nanmax(seconds, initial=0.0)
    good = seconds[(kind == _OK) & np.isfinite(seconds)]
    usual = float(np.median(good)) if len(good) else 0.0
    fill = np.select([kind == _OK, kind == _ERROR], [usual, 0.0], longest)
    seconds = np.maximum(np.where(np.isfinite(seconds), seconds, fill), 0.0)
    failed = ((kind == _ERROR) | cut_by_clock).astype(bool)
    weight = np.ones(len(kind))
    if unknown and failed.any():
        weight[failed] += unknown / failed.sum()
    elif unknown:
        raise BadInput("These histories hold failures without their kind: there is nothing to learn from.")
    return kind, seconds, weight, int(failed.sum())


class _Risks:
    """Working and raising as competing risks, cut-off tries as censored."""

    def __init__(self, kind: Any, seconds: Any, weight: Any) -> None:
        at, index = np.unique(seconds, return_inverse=True)
        ends = [np.bincount(index, weight * (kind == one), len(at)) for one in (_CUT, _OK, _ERROR)]
        risk = np.cumsum((ends[0] + ends[1] + ends[2])[::-1])[::-1]
        # Where few calls are left, the next one to end would stand for all those that were cut off before it.
        cut_before = np.cumsum(ends[0]) - ends[0]
        keep = ((risk >= _FEWEST) | (cut_before == 0)) & (ends[1] + ends[2] > 0)
        self.at, self.risk = at[keep], risk[keep]
        self.ends = {_OK: ends[1][keep], _ERROR: ends[2][keep]}
        every = self.ends[_OK] + self.ends[_ERROR]
        after = np.cumprod(1.0 - every / self.risk)
        self.before = np.concatenate(([1.0], after[:-1])) if len(after) else after
        self.left = float(max(0.0, after[-1])) if len(after) else 1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            self.hazard = np.where(self.risk > every, every / (self.risk * (self.risk - every)), 0.0)

    def rises(self, cause: int) -> Any:
        return self.before * self.ends[cause] / self.risk

    def share(self, cause: int) -> float:
        return float(self.rises(cause).sum())

    def variance(self, cause: int) -> float:
        """Of `share` (Marubini and Valsecchi, "Analysing Survival Data", 1995, section 10.3)."""
        rises, ends = self.rises(cause), self.ends[cause]
        to_come = rises.sum() - np.cumsum(rises)
        return float(
            np.sum(to_come**2 * self.hazard)
            + np.sum(self.before**2 * ends * (self.risk - ends) / self.risk**3)
            - 2 * np.sum(to_come * self.before * ends / self.risk**2)
        )

    @property
    def left_variance(self) -> float:
        """Greenwood's."""
        return float(self.left**2 * self.hazard.sum())

    def values(self, cause: int) -> tuple[float, ...]:
        """Times of that cause as equally likely values."""
        rises = self.rises(cause)
        if rises.sum() <= 0:
            return (0.0,)
        share = (np.arange(_VALUES) + 0.5) / _VALUES
        at = np.searchsorted(np.cumsum(rises) / rises.sum(), share)
        return tuple(float(one) for one in self.at[np.minimum(at, len(self.at) - 1)])


def _alike(frames: Sequence[pd.DataFrame]) -> bool:
    """Whether the outcomes of several steps differ by no more than chance."""
    rows = []
    for frame in frames:
        outcome = frame["outcome"].astype("string").fillna("unknown")
        ok = int((outcome == "succeeded").sum())
        rows.append([ok, int((outcome == "failed").sum()), int(outcome.isin(["timed out", "abandoned"]).sum())])
        if ok == 0:
            return False
        unknown = int((outcome == "unknown").sum())
        failed = sum(rows[-1][1:])
        rows[-1][1:] = [count + (round(unknown * count / failed) if failed else 0) for count in rows[-1][1:]]
    table = np.array(rows)
    table = table[:, table.sum(axis=0) > 0]
    return table.shape[1] < 2 or float(stats.chi2_contingency(table).pvalue) >= _ALIKE


def _interval(share: float, variance: float, total: float, miss: float = 0.05 / 3) -> tuple[float, float]:
    size = total
    if 0.0 < share < 1.0 and variance > 0:
        size = min(total, share * (1.0 - share) / variance)
    count = share * size
    low = stats.beta.ppf(miss / 2, count, size - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(1 - miss / 2, count + 1, size - count) if count < size else 1.0
    return float(low), float(high)


def _duration(seconds: float) -> str:
    if seconds < 0.001:
        return "less than 1 ms"
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds:.2f} s"

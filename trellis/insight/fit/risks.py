"""Working and raising as competing risks, with tries that were cut off as censored.

The shares are those of Aalen and Johansen. Their intervals follow Fay, Brittain and Proschan, "Pointwise confidence
intervals for a survival distribution with small samples or heavy censoring" (Biostatistics 14, 2013), carried over to
competing risks: at each time the share that ends is a beta variable, and one more call, which nobody saw, ends in the
way that is worse for the limit. Where nothing is censored these are the limits of Clopper and Pearson. Where few calls
were still running at the end they are wide, as they must be: a normal approximation is narrow there and wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

OK, ERROR, CUT, TIMED_OUT = 1, 2, 0, 3
"""How a try ended. CUT: another lane or a person stopped it. TIMED_OUT: its timeout did."""

TIMES = 400
"""So many equally likely values stand for a distribution of times. With 40 the slowest call of a hundred did not exist,
and a deadline that only such calls miss was never missed."""
_STRAGGLERS = 0.1
"""Calls are followed until fewer are running than this share of the tries that timed out. A few timeouts always fire
far too late, and what is seen after that time rests on them alone."""


class Risks:
    """How calls end over time. `end`: the time [s] until which they are followed."""

    def __init__(self, kind: Any, seconds: Any, weight: Any) -> None:
        at, index = np.unique(seconds, return_inverse=True)
        n = len(at)
        ok, error, cut, timed_out = (
            np.bincount(index, weight * (kind == one), n) for one in (OK, ERROR, CUT, TIMED_OUT)
        )
        cut = cut + timed_out
        running = np.cumsum((ok + error + cut)[::-1])[::-1]
        followed = running >= min(running[0], max(1.0, _STRAGGLERS * timed_out.sum())) - 1e-9
        last = int(np.flatnonzero(followed)[-1])
        self.end = float(at[last])
        # Calls that were cut off at the end itself were still running then.
        self._left_running = float(running[last] - ok[last] - error[last])
        keep = followed & (ok + error > 0)
        self._at, self._running = at[keep], running[keep]
        self._ends = {OK: ok[keep], ERROR: error[keep]}
        every = self._ends[OK] + self._ends[ERROR]
        cut_before = (np.cumsum(cut) - cut)[keep]
        # The last of many calls that were cut off would stand for all of them. So where few are left, one more call is
        # assumed that goes on. Where no call was cut off before, the shares are the plain ones.
        one_more = cut_before / np.maximum(cut_before + self._running, 1.0)
        hazard = every / (self._running + one_more)
        after = np.cumprod(1.0 - hazard)
        self._rises = {
            cause: np.concatenate(([1.0], after[:-1]))[: len(every)] * ends / (self._running + one_more)
            for cause, ends in self._ends.items()
        }
        self.left = float(max(0.0, after[-1])) if len(after) else 1.0

    @property
    def size(self) -> float:
        """The number of calls that would fix the share that works as well, if all of them had ended."""
        mean, square = self._moments(OK, 0.0, 0.0)
        variance = square - mean**2
        return mean * (1.0 - mean) / variance - 1.0 if variance > 1e-15 else float(self._running.max(initial=0.0))

    def share(self, cause: int) -> float:
        return float(self._rises[cause].sum())

    def interval(self, cause: int, miss: float, more: float = 0.0) -> tuple[float, float]:
        """The limits of `share(cause)`, or for CUT of `left`. `miss`: P(outside). `more`: further variance."""
        unseen = 1.0 / (1.0 + self._left_running)
        unseen_squared = 2.0 * unseen / (2.0 + self._left_running)
        if cause == CUT:
            low = self._moments(None, 1.0 - unseen, 1.0 - 2.0 * unseen + unseen_squared)
            high = self._moments(None, 1.0, 1.0)
        else:
            low = self._moments(cause, 0.0, 0.0)
            high = self._moments(cause, unseen, unseen_squared)
        return _quantile(*low, more, miss / 2), _quantile(*high, more, 1.0 - miss / 2)

    def _moments(self, cause: int | None, mean: float, square: float) -> tuple[float, float]:
        """(mean, mean square) of the share that ends by `cause`, where of the calls left at the end a share with the
        moments `mean` and `square` counts too."""
        n, every = self._running, self._ends[OK] + self._ends[ERROR]
        mine = self._ends[cause] if cause is not None else np.zeros(len(n))
        stays = (n - every + 1.0) / (n + 1.0)
        both = (n + 1.0) * (n + 2.0)
        reached = np.cumprod(np.concatenate(([1.0], stays)))
        squared = np.cumprod(np.concatenate(([1.0], (n - every + 1.0) * (n - every + 2.0) / both)))
        parts = np.append(reached[:-1] * mine / (n + 1.0), reached[-1] * mean)
        to_come = np.cumsum(parts[::-1])[::-1]
        later = to_come[1:] / reached[1:]
        squares = squared[:-1] * (mine * (mine + 1.0) + 2.0 * mine * (n - every + 1.0) * later) / both
        return float(to_come[0]), float(squares.sum() + squared[-1] * square)

    def values(self, cause: int) -> tuple[float, ...]:
        """Times of that cause as equally likely values."""
        rises = self._rises[cause]
        if rises.sum() <= 0:
            return (0.0,)
        share = (np.arange(TIMES) + 0.5) / TIMES
        at = np.searchsorted(np.cumsum(rises) / rises.sum(), share)
        return tuple(float(one) for one in self._at[np.minimum(at, len(self._at) - 1)])


def _quantile(mean: float, square: float, more: float, share: float) -> float:
    """Of the beta distribution with these moments."""
    variance = square - mean**2 + more
    if mean <= 1e-12 or mean >= 1.0 - 1e-12:
        return float(round(mean))
    # Rounding can leave nothing of a small variance, and no variance can be larger than that of a yes or no.
    variance = min(max(variance, 1e-15), mean * (1.0 - mean) * (1.0 - 1e-9))
    size = mean * (1.0 - mean) / variance - 1.0
    return float(stats.beta.ppf(share, mean * size, (1.0 - mean) * size))

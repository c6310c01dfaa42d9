"""Working and raising as competing risks, with tries that were cut off as censored."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

OK, ERROR, CUT = 1, 2, 0
VALUES = 40
TIMES = 400
"""So many equally likely values stand for a distribution of times. With 40 the slowest call of a hundred did not exist,
and a deadline that only such calls miss was never missed."""
_FEWEST = 5.0
"""The estimate stops where fewer calls than this are still running and not cut off."""


class Risks:
    """Working and raising as competing risks, cut-off tries as censored."""

    def __init__(self, kind: Any, seconds: Any, weight: Any) -> None:
        at, index = np.unique(seconds, return_inverse=True)
        ends = [np.bincount(index, weight * (kind == one), len(at)) for one in (CUT, OK, ERROR)]
        risk = np.cumsum((ends[0] + ends[1] + ends[2])[::-1])[::-1]
        # Where few calls are left, the next one to end would stand for all those that were cut off before it.
        cut_before = np.cumsum(ends[0]) - ends[0]
        keep = ((risk >= _FEWEST) | (cut_before == 0)) & (ends[1] + ends[2] > 0)
        self.at, self.risk = at[keep], risk[keep]
        self.ends = {OK: ends[1][keep], ERROR: ends[2][keep]}
        every = self.ends[OK] + self.ends[ERROR]
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
        share = (np.arange(TIMES) + 0.5) / TIMES
        at = np.searchsorted(np.cumsum(rises) / rises.sum(), share)
        return tuple(float(one) for one in self.at[np.minimum(at, len(self.at) - 1)])


def interval(share: float, variance: float, total: float, miss: float = 0.05 / 3) -> tuple[float, float]:
    size = total
    if 0.0 < share < 1.0 and variance > 0:
        size = min(total, share * (1.0 - share) / variance)
    count = share * size
    low = stats.beta.ppf(miss / 2, count, size - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(1 - miss / 2, count + 1, size - count) if count < size else 1.0
    return float(low), float(high)

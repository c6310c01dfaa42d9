"""When a system has recovered: the backlog is what it was before, and new orders are as quick as before.

It is read from the times at which orders began and ended, so it is the same for simulated and for real orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NEXT = 10
"""So many orders that begin after a moment say whether orders are quick again."""

QUICK = 0.8
"""This share of them must be quick. One in a hundred such groups of ten fails where nothing has changed."""

_USUAL = 0.95
_ROOM = 1.1


@dataclass(frozen=True)
class Times:
    """When orders began and ended [s], sorted by their beginnings. `ended`: infinite for an order that is open.
    `good`: whether it completed."""

    began: Any
    ended: Any
    good: Any

    @classmethod
    def of(cls, orders: Sequence[tuple[float, float | None, bool]]) -> Times:
        """From (began, ended or None, completed)."""
        rows = sorted(orders, key=lambda one: one[0])
        return cls(
            np.array([one[0] for one in rows], dtype=float),
            np.array([math.inf if one[1] is None else one[1] for one in rows], dtype=float),
            np.array([one[2] for one in rows], dtype=bool),
        )

    def open_at(self, at: Any) -> Any:
        """The backlog: how many orders had begun at these times and not ended."""
        begun = np.searchsorted(self.began, at, side="right")
        return begun - np.searchsorted(np.sort(self.ended), at, side="right")

    def begun(self, begin: float, end: float) -> int:
        """How many began in [begin, end)."""
        return int(np.searchsorted(self.began, end) - np.searchsorted(self.began, begin))

    def completed(self, begin: float, end: float) -> int:
        """How many completed in [begin, end)."""
        return int((self.good & (self.ended >= begin) & (self.ended < end)).sum())


@dataclass(frozen=True)
class Usual:
    """What is usual. `backlog`: the open orders that were not exceeded for 95 % of the time. `seconds`: 95 % of the
    orders that complete take at most this time. `share`: of the orders that complete."""

    backlog: float
    seconds: float
    share: float = 1.0

    @classmethod
    def of(cls, times: Times, begin: float, end: float) -> Usual:
        """What was usual from `begin` to `end`. `seconds` is infinite where no order completed."""
        at = np.linspace(begin, end, 400)
        mine = (times.began >= begin) & (times.began < end)
        ended = mine & np.isfinite(times.ended)
        took = (times.ended - times.began)[mine & times.good]
        return cls(
            max(1.0, float(np.quantile(times.open_at(at), _USUAL))),
            float(np.quantile(took, _USUAL)) if len(took) else math.inf,
            float(times.good[ended].mean()) if ended.any() else 0.0,
        )


def drained_at(times: Times, healed: float, usual: Usual, *, least: int = NEXT) -> float | None:
    """The first moment at or after `healed` [s] when the system had recovered. None: it had not, or it is not known.

    The backlog is then at most the usual one, and of the next ten orders that begin eight complete within a tenth more
    than the usual time; fewer where usually not all orders complete. At least `least` orders must begin afterwards.
    """
    slowest = usual.seconds * _ROOM
    quick = times.good & (times.ended - times.began <= slowest)
    moments = np.concatenate(([healed], np.sort(times.ended[(times.ended > healed) & np.isfinite(times.ended)])))
    calm = moments[times.open_at(moments) <= usual.backlog]
    for moment in calm:
        first = int(np.searchsorted(times.began, moment, side="left"))
        following = quick[first : first + NEXT]
        if len(following) < least:
            return None
        if following.mean() >= QUICK * usual.share:
            return float(moment)
    return None

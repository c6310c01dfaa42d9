"""Backlog over time, and the time to drain it: measured from what happened, and predicted before it happens.

The prediction is a fluid model. While nothing moves for `outage` seconds, `rate * outage` orders pile up. Afterwards
`capacity` orders end a second and `rate` new ones come, so the pile shrinks by `capacity - rate` a second:

    drained = lag + rate * (outage + lag) / (capacity - rate)

`lag` is the time from the end of the outage until orders end at full capacity, such as a new worker's first seconds.
When no further orders come, the rest drains at full capacity. Where capacity <= rate, the pile shrinks only then.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

NEXT = 5
"""How many of the next orders must be as quick as before."""

ENOUGH = 3
"""How many orders must have ended before the break, so that one can say what was usual."""


class Order(Protocol):
    """An order's life, in seconds since any fixed moment. `ended`: None if it never ended."""

    @property
    def due(self) -> float: ...

    @property
    def ended(self) -> float | None: ...


class Backlog:
    """How many orders were due and had not ended, at any moment."""

    def __init__(self, orders: Sequence[Order]) -> None:
        self._due = sorted(one.due for one in orders)
        self._ended = sorted(one.ended for one in orders if one.ended is not None)

    def at(self, moment: float) -> int:
        return bisect_right(self._due, moment) - bisect_right(self._ended, moment)

    def curve(self, since: float, until: float, points: int = 240) -> list[tuple[float, int]]:
        """(seconds after `since`, backlog) at evenly spaced moments."""
        step = (until - since) / points
        return [(step * n, self.at(since + step * n)) for n in range(points + 1)]

    def most(self, since: float, until: float) -> int:
        """The largest backlog of a period. It only grows when an order is due."""
        first, last = bisect_left(self._due, since), bisect_right(self._due, until)
        return max((self.at(moment) for moment in self._due[first:last]), default=self.at(since))


@dataclass(frozen=True)
class Usual:
    """What was usual before a break: the largest backlog, and the 90th percentile of how long orders took [s]."""

    backlog: int
    seconds: float


def usual(orders: Sequence[Order], began: float) -> Usual | None:
    """None if fewer than three orders ended before the break."""
    before = sorted(one.ended - one.due for one in orders if one.ended is not None and one.ended <= began)
    if len(before) < ENOUGH:
        return None
    first = min(one.due for one in orders)
    return Usual(Backlog(orders).most(first, began), before[min(len(before) - 1, int(len(before) * 0.9))])


def drained(orders: Sequence[Order], began: float, healed: float) -> float | None:
    """Seconds from `healed` until all is as before: the first moment at which

    - the backlog is at most the largest one before the break, and
    - half of the next five orders that are due take at most the 90th percentile of the orders before the break
      (where no more orders are due, the backlog alone decides).

    None if that never came, or if too few orders ended before the break to say what was usual.
    """
    before = usual(orders, began)
    if before is None:
        return None
    backlog = Backlog(orders)
    by_due = sorted(orders, key=lambda one: one.due)
    dues = [one.due for one in by_due]
    # The backlog falls only when an order ends, and other orders are "next" only after one was due.
    moments = sorted({healed, *dues, *(one.ended for one in orders if one.ended is not None)})
    for moment in moments[bisect_left(moments, healed) :]:
        if backlog.at(moment) > before.backlog:
            continue
        first = bisect_left(dues, moment)
        following = [math.inf if one.ended is None else one.ended - one.due for one in by_due[first : first + NEXT]]
        if not following or median(following) <= before.seconds:
            return moment - healed
    return None


@dataclass(frozen=True)
class Pace:
    """What a house can do, measured before the run.

    orders_per_s: orders that end a second when many are waiting. lag_s: seconds from new workers' start to that pace.
    hire_s: seconds until new workers work.
    """

    orders_per_s: float
    lag_s: float
    hire_s: float


def pace_of(drains: Sequence[tuple[int, float]], hire_s: float) -> Pace:
    """The line through measured drains (orders that waited, seconds until all had ended): its slope and its start.

    A straight line, because after the first seconds each order costs the machine the same.
    """
    (few, short), (many, long) = min(drains), max(drains)
    slope = max((long - short) / (many - few), 1e-3)
    return Pace(1 / slope, max(0.0, short - few * slope), hire_s)


def predicted(rate: float, outage_s: float, pace: Pace, *, lag_s: float, left_s: float = math.inf) -> float | None:
    """Seconds from the end of an outage until the backlog is what it was, as the module's docstring says.

    left_s: how long orders go on to arrive after the outage. None: never, because more orders come than can end.
    """
    waiting = rate * (outage_s + min(lag_s, left_s))
    after = max(0.0, left_s - lag_s)
    shrinks = pace.orders_per_s - rate
    if shrinks > 0 and waiting <= shrinks * after:
        return lag_s + waiting / shrinks
    if math.isinf(left_s):
        return None
    return lag_s + after + (waiting - shrinks * after) / pace.orders_per_s

"""How long one step takes under its retry rule, as a distribution: until it succeeds, or until its tries are used up.

A step's time is a geometric sum. Each failed try costs its own time (the timeout, where the call hangs) and a backoff.
Then one call works. The lanes of a hedge are independent, so the step's survival function is the lane's survival
function to the power of the number of lanes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trellis.insight.calls import Calls, Overhead
from trellis.insight.grid import Grid, total
from trellis.policies import Jitter, Placement, Retry

SHORTEST_TIMER = 0.993
"""The shortest time that a timer of Temporal's server takes [s]. Measured with 24 timers each of 0.02 to 0.9 s on an
idle server: medians of 0.992 to 0.994 s. Timers of 1 s and more came 2 to 3 ms late."""

EARLY_AFTER_RAISE, EARLY_AFTER_HANG, EARLIEST = 0.13, 0.18, 0.4
"""While other timers run, some of the server's retries come early, at any time between the backoff and SHORTEST_TIMER.
The reason: a timer that is set while the server's window of timers is open fires with that window. The first figure is
the share of early retries after a try that raised; a step's first retry is never early, because it opens a window
itself. After a try that was cut off, the share is the second figure for each second of its timeout, at most the third.
Measured from the gaps after some 4,000 tries of `patient`, `compact`, `warehouse` and `classic`, 40 orders at a time:
0.92 to 0.95 s after a raise (1.00 for the first), and 0.93, 0.76 to 0.85 and 0.86 s after timeouts of 1, 2 and 3 s."""


_NOBODY = 1e-16


@dataclass(frozen=True)
class StepTime:
    """`works` and `gives_up`: transforms of the time at which the step succeeds, and at which its tries are used up.

    `tries`: expected calls until the step succeeds or gives up, over all hedge lanes. `succeeds`: P(succeeds).
    `fails`: P(uses up its tries). Where no call ever works and tries have no limit, both are 0.
    """

    works: Any
    gives_up: Any
    tries: float
    succeeds: float
    fails: float


def step_time(grid: Grid, retry: Retry, calls: Calls, overhead: Overhead, *, only_retries: bool = False) -> StepTime:
    """The time of one step on `grid`, from its start. `only_retries`: calls that work take no time."""
    works, raises, cut = calls.under(retry.try_timeout)
    chance = min(1.0, total(works))
    nothing = np.zeros(grid.size // 2 + 1)
    if chance <= 0.0 and not retry.max_tries:
        return StepTime(nothing, nothing, math.inf, 0.0, 0.0)
    lost = _losses(grid, retry, raises, cut, overhead)
    # begun: the transform of "a try begins at", summed over all tries. reached: the same for the latest try alone.
    begun: Any = 1.0
    reached: Any = 1.0
    for backoff, number, count in backoffs(retry, grid, chance):
        one = lost(number, backoff)
        many = 0.0 if math.isinf(count) else one**count
        if chance > 0.0:
            begun = begun + reached * one * (1.0 if count == 1 else (1.0 - many) / (1.0 - one))
        reached = reached * many
    lane = grid.of_pieces([(chance, 0.0)] if only_retries else works) * begun
    # After the last try there is no backoff.
    over = reached * lost(0, 0.0) if retry.max_tries else nothing
    fails = (1.0 - chance) ** retry.max_tries if retry.max_tries else 0.0
    if retry.hedge == 1:
        return StepTime(lane, over, (1.0 - fails) / chance if chance else float(retry.max_tries), 1.0 - fails, fails)
    return _hedged(grid, retry, lane, begun, over, chance, fails)


def backoffs(retry: Retry, grid: Grid, chance: float) -> Iterator[tuple[float, int, float]]:
    """The backoffs of a retry rule: (backoff [s], number of the first try before it, how many follow each other).

    `chance`: the share of calls that work. Backoffs that differ by less than a cell of the grid, or by less than a
    hundredth, are given as one: the shortest, the mean or the longest of them, as the grid rounds. So a rule whose
    backoffs grow slowly has few of them, and the grid's bounds stay bounds. The last count is infinite where the tries
    have no limit. The backoffs of tries that one order in 10^16 reaches are not told apart from the longest.
    """
    last = retry.max_tries - 1 if retry.max_tries else math.inf
    number = 1
    while number <= last:
        low = retry.backoff(number, 1.0)
        count: float
        if number == 1:
            # A server's first retry is unlike the others.
            high, count = low, 1
        elif low >= retry.max_backoff or low <= 0.0 or retry.multiplier <= 1.0:
            high, count = low, last - number + 1
        elif (1.0 - chance) ** number < _NOBODY:
            high, count = retry.max_backoff, last - number + 1
        else:
            count = min(_alike(low, retry.multiplier, grid.dt), last - number + 1)
            high = retry.backoff(number + int(count) - 1, 1.0)
        yield {"down": low, "mid": (low + high) / 2, "up": high}[grid.side], number, count
        if math.isinf(count):
            return
        number += int(count)


def _alike(low: float, multiplier: float, cell: float) -> int:
    """How many backoffs, from `low` [s] on, differ by less than a cell of the grid or a hundredth."""
    span = max(cell, 0.01 * low)
    return max(1, math.floor(math.log1p(span / low) / math.log(multiplier)))


def _losses(grid: Grid, retry: Retry, raises: Any, cut: float, overhead: Overhead) -> Any:
    """A function of n and a backoff [s]: the transform of the time of the n-th try, which failed, and of the backoff
    after it. For n=0 there is no backoff."""
    server = retry.placement is Placement.SERVER
    again = overhead.execution if server else 0.0
    waited = max(retry.try_timeout, SHORTEST_TIMER) if server else retry.try_timeout
    raised = grid.of_pieces([(share, seconds + again) for share, seconds in raises])
    hung = cut * grid.at(waited + again)

    def lost(number: int, most: float) -> Any:
        if number == 0:
            return raised + hung
        if not server:
            return (raised + hung) * (grid.uniform(0.0, most) if retry.jitter is Jitter.FULL else grid.at(most))
        if most >= SHORTEST_TIMER:
            return (raised + hung) * grid.at(most)
        late = grid.at(SHORTEST_TIMER)
        share_at = most / SHORTEST_TIMER
        early = grid.at(most) * share_at + grid.uniform(most, SHORTEST_TIMER) * (1 - share_at)
        return sum(
            part * (late * (1 - share) + early * share)
            for part, share in (
                (raised, EARLY_AFTER_RAISE if number > 1 else 0.0),
                (hung, min(EARLIEST, EARLY_AFTER_HANG * retry.try_timeout)),
            )
        )

    return lost


def _hedged(grid: Grid, retry: Retry, lane: Any, begun: Any, over: Any, chance: float, fails: float) -> StepTime:
    """Several lanes at once: the first success ends the step. The step gives up when the last lane gives up."""
    survival = np.clip(1.0 - np.cumsum(grid.back(lane)), 0.0, 1.0)
    before = np.concatenate(([1.0], survival[:-1]))
    winner = before**retry.hedge - survival**retry.hedge
    starts = grid.back(begun)
    # The first try of every lane begins. A later try begins only while no other lane has won. Within one cell of the
    # grid either may be first, except where lanes move in step because no jitter spreads their backoffs.
    starts[0] -= 1.0
    alone, after = before ** (retry.hedge - 1), survival ** (retry.hedge - 1)
    if retry.jitter is Jitter.FULL:
        alone = np.concatenate((after[:1], (alone[1:] + after[1:]) / 2))
    if chance > 0.0:
        # Beyond the end of the grid the lanes are alike: each has the same share of the calls that are still to come.
        seen = 1.0 + float(np.sum(starts))
        beyond = max(0.0, (1.0 - fails) / chance - seen) * survival[-1] ** (retry.hedge - 1) / retry.hedge
        tries = retry.hedge * (1.0 + float(np.sum(starts * alone)) + beyond)
    else:
        tries = float(retry.hedge * retry.max_tries)
    last = np.diff(np.cumsum(grid.back(over)) ** retry.hedge, prepend=0.0)
    fails = fails**retry.hedge
    return StepTime(grid.of(winner), grid.of(last), tries, 1.0 - fails, fails)

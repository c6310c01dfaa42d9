"""How long one step takes under its retry rule, as a distribution: until it succeeds, or until its tries are used up.

A step's time is a geometric sum. Each failed try costs its own time (the timeout, where the call hangs) and a backoff.
Then one call works. The lanes of a hedge are independent, so the step's survival function is the lane's survival
function to the power of the number of lanes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trellis.insight.calls import Calls, Overhead
from trellis.insight.grid import Grid, Pieces, powers, total
from trellis.insight.server_timers import PRECISION, SET_AND_RUN, Tries, waits
from trellis.policies import Jitter, Placement, Retry

_STEPS_OF_AN_ORDER = 7
"""An order's overhead is spread over this many gaps between its steps. The server's timers depend on such a gap."""

_NEVER = 1e-16
"""Tries that a smaller share of the orders than this reaches are not told apart by their backoffs."""


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
    works, _, _ = calls.under(retry.try_timeout)
    chance = min(1.0, total(works))
    nothing = np.zeros(grid.size // 2 + 1)
    if chance <= 0.0 and not retry.max_tries:
        return StepTime(nothing, nothing, math.inf, 0.0, 0.0)
    lost = _losses(grid, retry, calls, overhead)
    # begun: the transform of "a try begins at", summed over all tries. reached: the same for the latest try alone.
    begun: Any = 1.0
    reached: Any = 1.0
    for backoff, number, count in backoffs(retry, grid, chance):
        one = lost(number, backoff)
        if count == 1:
            reached = reached * one
            begun = begun + reached
        elif math.isinf(count):
            begun = begun + reached * one / (1.0 - one)
        else:
            starts, last = powers(one, int(count))
            begun = begun + reached * one * starts
            reached = reached * last
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
        if number <= 2:
            # A server's first two retries are unlike the others: see `server_timers.waits`.
            high, count = low, 1
        elif low >= retry.max_backoff or low <= 0.0 or retry.multiplier <= 1.0:
            high, count = low, last - number + 1
        elif (1.0 - chance) ** number < _NEVER:
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


def _losses(grid: Grid, retry: Retry, calls: Calls, overhead: Overhead) -> Any:
    """A function of n and a backoff [s]: the transform of the time of the n-th try, which failed, and of the backoff
    after it. For n=0 there is no backoff."""
    _, raises, cut = calls.under(retry.try_timeout)
    if retry.placement is Placement.SERVER:
        return _server_losses(grid, retry, calls, overhead)
    failed = grid.of_pieces(raises) + cut * grid.at(retry.try_timeout)

    def lost(number: int, most: float) -> Any:
        if number == 0:
            return failed
        return failed * (grid.uniform(0.0, most) if retry.jitter is Jitter.FULL else grid.at(most))

    return lost


def _server_losses(grid: Grid, retry: Retry, calls: Calls, overhead: Overhead) -> Any:
    """`_losses` where the server repeats the step: its timer queue decides when a timeout and a backoff end."""
    works, raises, cut = calls.under(retry.try_timeout)
    wait = waits(
        Tries(
            retry.try_timeout, retry.first_backoff, retry.multiplier, retry.max_backoff,
            round(total(raises), 2), round(cut, 2), _mean(raises), _mean(works),
            round(overhead.execution / 2, 3), round(overhead.order / _STEPS_OF_AN_ORDER, 3), overhead.shard,
        )
    )  # fmt: skip
    raised = grid.of_pieces(raises)
    hung = cut * grid.of_pieces(_equally_likely([retry.try_timeout + late + PRECISION for late in wait.late]))

    def lost(number: int, most: float) -> Any:
        if number == 0:
            return (raised + hung) * grid.at(overhead.execution)
        after_raise, after_cut = (
            grid.of_pieces(_equally_likely([max(most, one) + SET_AND_RUN + overhead.execution for one in earliest]))
            for earliest in (wait.after("raised", number), wait.after("cut", number))
        )
        return raised * after_raise + hung * after_cut

    return lost


def _equally_likely(seconds: list[float]) -> Pieces:
    """Times that are equally likely."""
    return [(count / len(seconds), one) for one, count in Counter(seconds).items()]


def _mean(pieces: Pieces) -> float:
    """The mean time, to the millisecond."""
    return round(sum(share * seconds for share, seconds in pieces) / max(total(pieces), 1e-12), 3)


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
    if not retry.max_tries:
        return StepTime(grid.of(winner), over, tries, 1.0, 0.0)
    last = np.diff(np.cumsum(grid.back(over)) ** retry.hedge, prepend=0.0)
    fails = fails**retry.hedge
    return StepTime(grid.of(winner), grid.of(last), tries, 1.0 - fails, fails)

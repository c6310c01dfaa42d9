"""How long a chain of steps takes when calls fail and are tried again: the whole distribution, by convolution.

A step is a geometric sum. Each failed try costs its own time (nothing for a call that raises, the timeout for one that
hangs) and a backoff; then one call works. Steps add up. Both are products of transforms on a grid of time, and so is
the sum over "how many tries failed", whose backoffs are alike from the largest on. Lanes of a hedge race: the step's
survival is the lane's, to the power of the lanes.

The grid's error is bounded, not guessed: all times rounded down give a distribution that is nowhere later than the
true one, all rounded up one that is nowhere earlier (`Prediction.bounds`). Probabilities below about 1e-12 are noise
of the transform. Tilting the grid keeps what lies beyond its end from being folded back onto its beginning
(Grübel and Hermesmeier, "Computation of compound distributions", ASTIN Bulletin 29, 1999).

Not in the model: tries that wait for a slot of a busy worker, a review that nobody ends, rounds of shipping that fail
for good, and a try that outlives its worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.model import Step
from trellis.policies import Jitter, Placement, Policy, Retry

Array = np.ndarray[Any, np.dtype[np.float64]]
Side = Literal["down", "mid", "up"]

STEPS = (Step.RECEIVE, Step.VALIDATE, Step.CHARGE, Step.PREPARE, Step.DISPATCH, Step.SHIP)
"""The outside steps of an order that completes."""

TIMER_FLOOR = 0.993
"""Seconds that a Temporal server's timer takes at least. Measured with 24 timers each of 0.02 to 0.9 s: medians of
0.992 to 0.994 s; timers of 1 s and more came 2 to 3 ms late."""

_LOSES_REPLIES = (Step.CHARGE, Step.REFUND, Step.DISPATCH)
_TILT = 1e-7


@dataclass(frozen=True)
class Overhead:
    """What an order takes when nothing fails [s], and what each further execution of an activity adds to that."""

    order: float = 0.12
    execution: float = 0.01


@dataclass(frozen=True)
class Prediction:
    """The completion time of an order under a policy. `pmf` is on the grid 0, dt, 2 dt, ... [s].

    Its sum falls short of 1 by what lies beyond the grid and by the orders whose tries are used up.
    `calls_per_step`: expected tries of a step until it succeeds or gives up, those of hedge lanes that lost among them.
    """

    policy: Policy
    plan: FaultPlan
    dt: float
    pmf: Array
    calls_per_step: float
    steps: tuple[Step, ...]
    overhead: Overhead

    @property
    def times(self) -> Array:
        times: Array = np.arange(len(self.pmf), dtype=np.float64) * np.float64(self.dt)
        return times

    @cached_property
    def cdf_values(self) -> Array:
        """P(completed by t) on the grid."""
        values: Array = np.minimum(np.cumsum(self.pmf), 1.0).astype(np.float64)
        return values

    @property
    def calls_per_order(self) -> float:
        return self.calls_per_step * len(self.steps)

    def cdf(self, seconds: float) -> float:
        """P(completed within so many seconds)."""
        return float(np.interp(seconds, self.times, self.cdf_values))

    def p_miss(self, deadline: float) -> float:
        """P(not completed by the deadline [s])."""
        return max(0.0, 1.0 - self.cdf(deadline))

    def percentile(self, share: float) -> float:
        """Seconds within which that share (0 to 1) of all orders completes; infinite where that many never do."""
        at = int(np.searchsorted(self.cdf_values, share))
        return float("inf") if at >= len(self.pmf) else at * self.dt

    def bounds(self, deadline: float) -> tuple[float, float]:
        """P(missed) lies between these two, whatever the grid."""
        made = [
            1.0 - float(np.interp(deadline, self.times, np.cumsum(_order(self, side)[0]))) for side in ("down", "up")
        ]
        return max(0.0, made[0]), min(1.0, made[1])


def predict(
    policy: Policy,
    faults: FaultPlan | None = None,
    *,
    steps: Sequence[Step] = STEPS,
    overhead: Overhead = Overhead(),
    dt: float = 0.002,
    horizon: float = 120.0,
) -> Prediction:
    """The distribution of an order's completion time, approved at once. `faults` None: the canonical thirds.

    `dt` is the grid's step and `horizon` its end [s]. Raises BadInput for a plan by script, which has no
    probabilities, and for a grid that makes no sense.
    """
    plan = FaultPlan.canonical() if faults is None else faults
    if plan.script:
        raise BadInput("A script says what happens, not how likely it is. Give a plan of probabilities.")
    if not 0 < dt < horizon or horizon / dt > 2**22 or not steps:
        raise BadInput("The grid must have a step above 0, below its end, and at most four million points.")
    size = 1 << int(np.ceil(np.log2(horizon / dt)))
    empty = Prediction(policy.check(), plan, dt, np.zeros(size), 0.0, tuple(steps), overhead)
    pmf, calls = _order(empty, "mid")
    return replace(empty, pmf=pmf, calls_per_step=calls)


def sweep(
    policies: Iterable[Policy], faults: FaultPlan | None = None, *, deadline: float = 15.0, **grid: Any
) -> pd.DataFrame:
    """Many policies on a coarse grid (10 ms, 40 s unless told): one row each, in their order.

    Columns: name, try_timeout, first_backoff, max_backoff, hedge, placement, p_miss, p50, p99 [s], calls_per_step.
    """
    rows = []
    for policy in policies:
        found = predict(policy, faults, **{"dt": 0.01, "horizon": 40.0, **grid})
        retry = policy.retry
        rows.append({
            "name": policy.name, "try_timeout": retry.try_timeout, "first_backoff": retry.first_backoff,
            "max_backoff": retry.max_backoff, "hedge": retry.hedge, "placement": str(retry.placement),
            "p_miss": found.p_miss(deadline), "p50": found.percentile(0.5), "p99": found.percentile(0.99),
            "calls_per_step": found.calls_per_step,
        })  # fmt: skip
    return pd.DataFrame(rows)


def marginal(policy: Policy, faults: FaultPlan | None = None, *, deadline: float = 15.0) -> pd.DataFrame:
    """What each knob is worth: P(missed) and calls with that knob alone halved, and doubled.

    Index: knob. Columns: p_miss, calls_per_step (as they are), p_miss_half, p_miss_double, calls_half, calls_double.
    """
    base = predict(policy, faults)
    rows: dict[str, dict[str, float]] = {}
    for knob in ("try_timeout", "first_backoff", "max_backoff", "hedge"):
        row = {"p_miss": base.p_miss(deadline), "calls_per_step": base.calls_per_step}
        for word, factor in (("half", 0.5), ("double", 2.0)):
            changed = _turned(policy, knob, factor)
            found = None if changed is None else predict(changed, faults)
            row[f"p_miss_{word}"] = float("nan") if found is None else found.p_miss(deadline)
            row[f"calls_{word}"] = float("nan") if found is None else found.calls_per_step
        rows[knob] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _turned(policy: Policy, knob: str, factor: float) -> Policy | None:
    """The policy with one knob turned, or None where that makes no sense."""
    retry = policy.retry
    value = getattr(retry, knob) * factor
    if knob == "hedge":
        if value != int(value) or value < 1 or retry.placement is Placement.SERVER:
            return None
        value = int(value)
    turned = replace(retry, **{knob: value})
    if turned.first_backoff > turned.max_backoff:
        return None
    return replace(policy, retry=turned)


# --- on the grid ---------------------------------------------------------------------------------------------


def _order(given: Prediction, side: Side) -> tuple[Array, float]:
    """(the order's pmf, expected calls a step), every time rounded to the grid by `side`."""
    grid = _Grid(len(given.pmf), given.dt, side)
    total = grid.at(given.overhead.order)
    calls = 0.0
    known: dict[Mix, tuple[Any, float]] = {}
    for step in given.steps:
        mix = given.plan.mix_of(step)
        if step not in _LOSES_REPLIES:
            mix = replace(mix, reply_lost=0.0)
        if mix not in known:
            known[mix] = _step(grid, given.policy.retry, mix, given.overhead)
        transform, of_step = known[mix]
        total = total * transform
        calls += of_step
    return grid.back(total), calls / len(given.steps)


def _step(grid: _Grid, retry: Retry, mix: Mix, overhead: Overhead) -> tuple[Any, float]:
    """(the transform of a step's time, expected calls)."""
    server = retry.placement is Placement.SERVER
    works = 1.0 - mix.error - mix.hang - mix.reply_lost
    hangs, lost = mix.hang, mix.reply_lost
    if mix.latency >= retry.try_timeout:
        # A good call that takes longer than the timeout is one that hangs.
        hangs, works, lost = hangs + works + lost, 0.0, 0.0
    again = overhead.execution if server else 0.0
    waited = max(retry.try_timeout, TIMER_FLOOR) if server else retry.try_timeout
    failed = mix.error * grid.at(again) + hangs * grid.at(waited + again) + lost * grid.at(mix.latency + again)

    def backoff(number: int) -> Any:
        most = min(retry.max_backoff, retry.first_backoff * retry.multiplier ** (number - 1))
        if server:
            return grid.at(max(most, TIMER_FLOOR))
        return grid.uniform(most) if retry.jitter is Jitter.FULL else grid.at(most)

    # begun: the transform of "a try begins at", summed over all tries. From the largest backoff on they are alike.
    begun: Any = 1.0
    reached: Any = 1.0
    number = 1
    while retry.first_backoff * retry.multiplier ** (number - 1) < retry.max_backoff and number < 60:
        if retry.max_tries and number >= retry.max_tries:
            break
        reached = reached * failed * backoff(number)
        begun = begun + reached
        number += 1
    if not retry.max_tries or number < retry.max_tries:
        ratio = failed * backoff(number)
        rest = 1.0 if not retry.max_tries else 1.0 - ratio ** (retry.max_tries - number)
        begun = begun + reached * ratio * rest / (1.0 - ratio)
    lane = works * grid.at(mix.latency) * begun
    if retry.hedge == 1:
        tries = _tries(works, retry.max_tries)
        return lane, tries
    lane_pmf = grid.back(lane * np.ones(grid.size // 2 + 1))
    survival = np.clip(1.0 - np.cumsum(lane_pmf), 0.0, 1.0)
    before = np.concatenate(([1.0], survival[:-1]))
    winner = before**retry.hedge - survival**retry.hedge
    starts = grid.back(begun * np.ones(grid.size // 2 + 1))
    # A try begins while no other lane has won.
    calls = retry.hedge * float(np.sum(starts * before ** (retry.hedge - 1)))
    return grid.of(winner), calls


def _tries(works: float, most: int) -> float:
    """Expected tries of one lane: geometric, cut off at `most` (0: never)."""
    if works == 0.0:
        return float(most) if most else float("inf")
    return (1.0 - (1.0 - works) ** most) / works if most else 1.0 / works


class _Grid:
    """Distributions of time as transforms, tilted so that what lies beyond the end does not come round again."""

    def __init__(self, size: int, dt: float, side: Side) -> None:
        self.size = size
        self.dt = dt
        self._side = side
        self._tilt = _TILT ** (np.arange(size) / size)

    def of(self, pmf: Array) -> Any:
        return np.fft.rfft(pmf * self._tilt)

    def back(self, transform: Any) -> Array:
        pmf: Array = np.fft.irfft(transform, self.size) / self._tilt
        return np.maximum(pmf, 0.0)

    def at(self, seconds: float) -> Any:
        """A time that is always the same."""
        pmf = np.zeros(self.size)
        whole = int(seconds / self.dt + 1e-9)
        part = max(0.0, seconds / self.dt - whole)
        part = 0.0 if part < 1e-6 else part
        part = {"down": 0.0, "mid": part, "up": float(part > 0)}[self._side]
        for index, weight in ((whole, 1.0 - part), (whole + 1, part)):
            if index < self.size:
                pmf[index] += weight
        return self.of(pmf)

    def uniform(self, most: float) -> Any:
        """Anything from 0 to `most`, all equally likely."""
        if most <= 0:
            return self.at(0.0)
        pmf = np.zeros(self.size)
        cells = min(self.size - 1, int(np.ceil(most / self.dt - 1e-9)))
        edges = np.minimum(np.arange(cells + 1) * self.dt, most)
        mass = np.diff(edges) / most
        up = {"down": 0.0, "mid": 0.5, "up": 1.0}[self._side]
        pmf[:cells] += mass * (1.0 - up)
        pmf[1 : cells + 1] += mass * up
        return self.of(pmf)

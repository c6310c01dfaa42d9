"""How long a chain of steps takes when calls fail and are tried again: the whole distribution, by convolution.

A step is a geometric sum. Each failed try costs its own time (nothing for a call that raises, the timeout for one that
hangs) and a backoff; then one call works. Steps add up. Both are products of transforms on a grid of time, and so is
the sum over "how many tries failed", whose backoffs are alike from the largest on. Lanes of a hedge race: the step's
survival is the lane's, to the power of the lanes.

The grid's error is bounded, not guessed: all times rounded down give a distribution that is nowhere later than the
true one, all rounded up one that is nowhere earlier (`Prediction.bounds`). What the transforms cannot tell from zero
is given as RESOLUTION. Tilting the grid keeps what lies beyond its end from being folded back onto its beginning
(Grübel and Hermesmeier, "Computation of compound distributions", ASTIN Bulletin 29, 1999).

Not in the model: a review that nobody ends, rounds of shipping that fail for good, and a try that outlives its worker.
Orders that wait for a core are in `queued`, apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.model import OUTSIDE_WAY, REPLY_CAN_BE_LOST
from trellis.policies import Jitter, Placement, Policy, Retry

Array = np.ndarray[Any, np.dtype[np.float64]]
Side = Literal["down", "mid", "up"]

STEPS = OUTSIDE_WAY
"""The outside steps of an order that completes."""

TIMER_FLOOR = 0.993
"""Seconds that a Temporal server's timer takes at least. Measured with 24 timers each of 0.02 to 0.9 s on an idle
server: medians of 0.992 to 0.994 s; timers of 1 s and more came 2 to 3 ms late."""

EARLY_AFTER_RAISE, EARLY_AFTER_HANG, EARLIEST = 0.13, 0.18, 0.4
"""When other timers are about, some of the server's retries come sooner, at any time within the floor: a timer that is
set while the server's window of timers is open fires with that window. A try that raises leaves it so in this share,
but for the first of a step, which opens a window itself; one that was cut off in this share for each second of its
timeout, up to the last figure. From the gaps after some 4,000 tries of `patient`, `compact`, `warehouse` and `classic`,
40 orders at a time: 0.92 to 0.95 s after a raise (the first 1.00), 0.93, 0.76 to 0.85 and 0.86 s after timeouts of 1, 2
and 3 s."""

RESOLUTION = 1e-12
"""The smallest share that can be told from zero."""

_UNSEEN = 1e-9
# What lies beyond the grid comes round again times the tilt; rounding errors at its end grow by one over it.
_TILT_WHOLE, _TILT_CUT = 1e-4, 1e-7
_MOST_POINTS = 2**20


@dataclass(frozen=True)
class Calls:
    """How the calls of one step behave. What neither raises, hangs nor loses its reply works.

    `latency` and `error_s` hold equally likely values [s] of good calls and of calls that raise. `hang_s`: how long a
    hang lasts; one shorter than the timeout is a slow good call.
    """

    error: float = 0.0
    hang: float = 0.0
    reply_lost: float = 0.0
    latency: tuple[float, ...] = (0.0,)
    error_s: tuple[float, ...] = (0.0,)
    hang_s: float = math.inf

    def check(self) -> Calls:
        """Itself, or BadInput with a sentence."""
        shares = (self.error, self.hang, self.reply_lost)
        if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise BadInput("Shares of calls are from 0 to 1 and add up to at most 1.")
        times = (*self.latency, *self.error_s)
        if not self.latency or not self.error_s or not all(math.isfinite(one) and one >= 0 for one in times):
            raise BadInput("Latencies are numbers of seconds, 0 or more, and there is at least one.")
        return self

    @classmethod
    def planned(cls, plan: FaultPlan, step: str) -> Calls:
        """What a plan makes of a step's calls. Raises BadInput for a script, which has no probabilities."""
        if plan.script:
            raise BadInput("A script says what happens, not how likely it is. Give a plan of probabilities.")
        mix = plan.check().mix_of(step)
        lost = mix.reply_lost if step in REPLY_CAN_BE_LOST else 0.0
        return cls(mix.error, mix.hang, lost, (mix.latency,), hang_s=plan.hang_seconds)


Faults = FaultPlan | Mapping[str, Calls] | None
"""A plan, or each step's calls by its name (the chain is then those steps); None: the canonical thirds."""


@dataclass(frozen=True)
class Overhead:
    """What an order takes when nothing fails [s], and what each further execution of an activity adds to that."""

    order: float = 0.12
    execution: float = 0.01


@dataclass(frozen=True)
class Prediction:
    """The completion time of an order under a policy. `pmf` is on the grid 0, dt, 2 dt, ... [s].

    `never`: the share of orders that complete never, because their tries are used up. `calls_per_step`: expected tries
    of a step until it succeeds or gives up, those of hedge lanes that lost among them.
    """

    policy: Policy
    calls: tuple[Calls, ...]
    dt: float
    pmf: Array
    calls_per_step: float
    never: float
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

    def cdf(self, seconds: float) -> float:
        """P(completed within so many seconds). Raises BadInput beyond a grid that does not hold nearly all of it."""
        return self._by(self.cdf_values, seconds)

    def _by(self, values: Array, seconds: float) -> float:
        at = int(seconds / self.dt + 1e-9)
        if at < 0 or seconds < 0:
            return 0.0
        if at >= len(values):
            if 1.0 - self.never - values[-1] > _UNSEEN:
                raise BadInput(f"The grid ends at {len(values) * self.dt:g} s. Give predict a longer horizon.")
            at = len(values) - 1
        return float(values[at])

    def p_miss(self, deadline: float) -> float:
        """P(not completed by the deadline [s]), at least RESOLUTION. Raises BadInput as `cdf` does."""
        return max(RESOLUTION, 1.0 - self.cdf(deadline))

    def percentile(self, share: float) -> float:
        """Seconds within which that share (0 to 1) of all orders completes.

        Infinite where that many never do, NaN where it lies beyond the grid.
        """
        at = int(np.searchsorted(self.cdf_values, share))
        if at < len(self.pmf):
            return at * self.dt
        return math.inf if share > 1.0 - self.never else math.nan

    def bounds(self, deadline: float) -> tuple[float, float]:
        """P(missed) lies between these two, whatever the grid."""
        tilt = _TILT_WHOLE if 1.0 - self.never - float(self.pmf.sum()) <= _UNSEEN else _TILT_CUT
        low, high = (
            1.0 - self._by(np.minimum(np.cumsum(_order(self, side, tilt)[0]), 1.0), deadline) for side in ("down", "up")
        )
        return max(0.0, low), min(1.0, high)


def predict(
    policy: Policy,
    faults: Faults = None,
    *,
    steps: Sequence[str] = STEPS,
    overhead: Overhead = Overhead(),
    dt: float | None = None,
    horizon: float | None = None,
) -> Prediction:
    """The distribution of an order's completion time, approved at once.

    `dt` is the grid's step [s]; None: 2 ms, and in proportion longer for what takes over a minute. `horizon` is its
    end [s]; None: long enough to hold all but a billionth, within a million points. Raises BadInput for a plan by
    script, for shares that are none, and for a grid that makes no sense, and ConfigError for a policy or plan that
    contradicts itself.
    """
    if isinstance(faults, Mapping):
        calls = tuple(one.check() for one in faults.values())
    else:
        plan = FaultPlan.canonical() if faults is None else faults
        calls = tuple(Calls.planned(plan, step) for step in steps)
    policy.check()
    reach = _reach(policy.retry, calls, overhead) if calls else 0.0
    dt = 0.002 * max(1.0, reach / 60) if dt is None else dt
    if not calls or not 0 < dt < math.inf or (horizon is not None and not dt < horizon <= dt * 2**22):
        raise BadInput("The grid must have a step above 0, below its end, and at most four million points.")
    size = 1 << math.ceil(math.log2(horizon / dt if horizon else min(max(reach / dt, 4096), _MOST_POINTS)))
    while True:
        empty = Prediction(policy, calls, dt, np.zeros(size), 0.0, _never(policy.retry, calls), overhead)
        pmf, per_step = _order(empty, "mid", _TILT_WHOLE if horizon is None else _TILT_CUT)
        if not np.all(np.isfinite(pmf)):
            raise BadInput("These faults under this policy are beyond what can be computed.")
        unseen = 1.0 - empty.never - float(pmf.sum())
        if horizon is not None or unseen <= _UNSEEN or size >= _MOST_POINTS:
            return replace(empty, pmf=pmf, calls_per_step=per_step)
        size *= 2


def queued(found: Prediction, *, at_once: int, cpu: float, cores: float) -> Overhead:
    """The overhead of `found` when `at_once` orders share `cores`, each needing `cpu` seconds of them.

    `cores` need not be whole: what other programs take is not there.

    The machine repairman's model (Kleinrock, "Queueing Systems" I, section 3.8): an order waits out its timeouts and
    backoffs, then for a core. Exact in the mean for any distribution of either when the cores are shared in turns.
    Raises BadInput where no order completes, and for numbers that are none.
    """
    mass = float(found.pmf.sum())
    if at_once < 1 or not 0 < cores < math.inf or not 0 < cpu < math.inf or mass <= _UNSEEN:
        raise BadInput("A queue needs an order that completes, a core, and some CPU seconds per order.")
    away = max(float(found.times @ found.pmf) / mass - found.overhead.order, 1e-6)
    # log P(n orders want a core), up to a constant.
    weight = [0.0]
    for n in range(at_once):
        weight.append(weight[-1] + math.log((at_once - n) / away) - math.log(min(n + 1, cores) / cpu))
    share = np.exp(np.array(weight) - max(weight))
    share /= share.sum()
    rate = float(share @ np.minimum(np.arange(at_once + 1), cores)) / cpu
    return replace(found.overhead, order=found.overhead.order + max(0.0, at_once / rate - away - cpu))


def sweep(policies: Iterable[Policy], faults: Faults = None, *, deadline: float = 15.0, **grid: Any) -> pd.DataFrame:
    """Many policies on a coarse grid (10 ms unless told; for long deadlines, a 4,000th of them): a row each.

    Columns: name, try_timeout, first_backoff, max_backoff, hedge, placement, p_miss, p50, p99 [s], calls_per_step.
    """
    rows = []
    for policy in policies:
        found = predict(policy, faults, **{"dt": max(0.01, deadline / 4000), **grid})
        retry = policy.retry
        rows.append({
            "name": policy.name, "try_timeout": retry.try_timeout, "first_backoff": retry.first_backoff,
            "max_backoff": retry.max_backoff, "hedge": retry.hedge, "placement": str(retry.placement),
            "p_miss": found.p_miss(deadline), "p50": found.percentile(0.5), "p99": found.percentile(0.99),
            "calls_per_step": found.calls_per_step,
        })  # fmt: skip
    return pd.DataFrame(rows)


def marginal(policy: Policy, faults: Faults = None, *, deadline: float = 15.0) -> pd.DataFrame:
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


# --- one call under a timeout --------------------------------------------------------------------------------

Pieces = list[tuple[float, float]]
"""(share, seconds) of each way that something can go."""


def _split(calls: Calls, timeout: float) -> tuple[Pieces, Pieces, float]:
    """What becomes of a call that is cut off after `timeout`: (works, raises, share cut off)."""
    works: Pieces = []
    raises: Pieces = []
    cut = 0.0
    good = max(0.0, 1.0 - calls.error - calls.hang - calls.reply_lost)
    for share, seconds, into in (
        *((good / len(calls.latency), one, works) for one in calls.latency),
        *((calls.reply_lost / len(calls.latency), one, raises) for one in calls.latency),
        *((calls.error / len(calls.error_s), one, raises) for one in calls.error_s),
        (calls.hang, calls.hang_s, works),
    ):
        if seconds < timeout:
            into.append((share, seconds))
        else:
            cut += share
    return works, raises, cut


def _total(pieces: Pieces) -> float:
    return sum(share for share, _ in pieces)


def _never(retry: Retry, calls: Sequence[Calls]) -> float:
    """The share of orders one of whose steps uses its tries up."""
    complete = 1.0
    for one in calls:
        fails = 1.0 - min(1.0, _total(_split(one, retry.try_timeout)[0]))
        used_up = (fails**retry.max_tries if retry.max_tries else float(fails >= 1.0)) ** retry.hedge
        complete *= 1.0 - used_up
    return 1.0 - complete


def _reach(retry: Retry, calls: Sequence[Calls], overhead: Overhead) -> float:
    """Seconds that a grid should be long, from the means: a geometric tail falls to a billionth in some 25 of them."""
    server = retry.placement is Placement.SERVER
    pause = max(retry.max_backoff, TIMER_FLOOR) if server else retry.max_backoff
    lost = max(retry.try_timeout, TIMER_FLOOR) if server else retry.try_timeout
    means = []
    for one in calls:
        works, raises, cut = _split(one, retry.try_timeout)
        good = max(_total(works), 1e-3)
        most = max(seconds for _, seconds in (*works, *raises, (0.0, 0.0)))
        means.append((cut * lost + (1 - good) * (pause + overhead.execution)) / good + most)
    return overhead.order + sum(means) + 22 * max(means)


# --- on the grid ---------------------------------------------------------------------------------------------


def _order(given: Prediction, side: Side, tilt: float) -> tuple[Array, float]:
    """(the order's pmf, expected calls a step), every time rounded to the grid by `side`."""
    grid = _Grid(len(given.pmf), given.dt, side, tilt)
    total = grid.at(given.overhead.order)
    tries = 0.0
    known: dict[Calls, tuple[Any, float]] = {}
    for calls in given.calls:
        if calls not in known:
            known[calls] = _step(grid, given.policy.retry, calls, given.overhead)
        transform, of_step = known[calls]
        total = total * transform
        tries += of_step
    return grid.back(total), tries / len(given.calls)


def _step(grid: _Grid, retry: Retry, calls: Calls, overhead: Overhead) -> tuple[Any, float]:
    """(the transform of a step's time, expected calls)."""
    works, raises, cut = _split(calls, retry.try_timeout)
    chance = _total(works)
    if chance <= 0.0:
        return grid.at(math.inf), float(retry.max_tries * retry.hedge) if retry.max_tries else math.inf
    server = retry.placement is Placement.SERVER
    again = overhead.execution if server else 0.0
    waited = max(retry.try_timeout, TIMER_FLOOR) if server else retry.try_timeout
    raised = grid.of_pieces([(share, seconds + again) for share, seconds in raises])
    hung = cut * grid.at(waited + again)

    def lost(number: int) -> Any:
        """A try that failed, and the backoff after it."""
        most = min(retry.max_backoff, retry.first_backoff * retry.multiplier ** (number - 1))
        if not server:
            return (raised + hung) * (grid.uniform(0.0, most) if retry.jitter is Jitter.FULL else grid.at(most))
        if most >= TIMER_FLOOR:
            return (raised + hung) * grid.at(most)
        late = grid.at(TIMER_FLOOR)
        early = grid.at(most) * (most / TIMER_FLOOR) + grid.uniform(most, TIMER_FLOOR) * (1 - most / TIMER_FLOOR)
        return sum(
            part * (late * (1 - share) + early * share)
            for part, share in (
                (raised, EARLY_AFTER_RAISE if number > 1 else 0.0),
                (hung, min(EARLIEST, EARLY_AFTER_HANG * retry.try_timeout)),
            )
        )

    # begun: the transform of "a try begins at", summed over all tries. From the largest backoff on they are alike.
    begun: Any = 1.0
    reached: Any = 1.0
    number = 1
    # The first is unlike the others anyway when the server retries.
    while (retry.first_backoff * retry.multiplier ** (number - 1) < retry.max_backoff or number == 1) and number < 60:
        if retry.max_tries and number >= retry.max_tries:
            break
        reached = reached * lost(number)
        begun = begun + reached
        number += 1
    if not retry.max_tries or number < retry.max_tries:
        ratio = lost(number)
        rest = 1.0 if not retry.max_tries else 1.0 - ratio ** (retry.max_tries - number)
        begun = begun + reached * ratio * rest / (1.0 - ratio)
    lane = grid.of_pieces(works) * begun
    if retry.hedge == 1:
        return lane, (1.0 - (1.0 - chance) ** retry.max_tries) / chance if retry.max_tries else 1.0 / chance
    survival = np.clip(1.0 - np.cumsum(grid.back(lane * np.ones(grid.size // 2 + 1))), 0.0, 1.0)
    before = np.concatenate(([1.0], survival[:-1]))
    winner = before**retry.hedge - survival**retry.hedge
    starts = grid.back(begun * np.ones(grid.size // 2 + 1))
    # Every lane's first try begins; a later one while no other lane has won, and within one cell of the grid either may
    # be first, but for lanes that go in step because nothing spreads their backoffs.
    starts[0] -= 1.0
    alone, after = before ** (retry.hedge - 1), survival ** (retry.hedge - 1)
    if retry.jitter is Jitter.FULL:
        alone = np.concatenate((after[:1], (alone[1:] + after[1:]) / 2))
    tries = retry.hedge * (1.0 + float(np.sum(starts * alone)))
    return grid.of(winner), tries


class _Grid:
    """Distributions of time as transforms, tilted so that what lies beyond the end does not come round again."""

    def __init__(self, size: int, dt: float, side: Side, tilt: float) -> None:
        self.size = size
        self.dt = dt
        self._side = side
        self._tilt = tilt ** (np.arange(size) / size)

    def of(self, pmf: Array) -> Any:
        return np.fft.rfft(pmf * self._tilt)

    def back(self, transform: Any) -> Array:
        pmf: Array = np.fft.irfft(transform, self.size) / self._tilt
        return np.maximum(pmf, 0.0)

    def at(self, seconds: float) -> Any:
        """A time that is always the same; an infinite one never comes."""
        return self.of_pieces([(1.0, seconds)])

    def of_pieces(self, pieces: Pieces) -> Any:
        """One of several times, each with its share."""
        pmf = np.zeros(self.size)
        for share, seconds in pieces:
            if seconds >= self.size * self.dt:
                continue
            whole = int(seconds / self.dt + 1e-9)
            part = max(0.0, seconds / self.dt - whole)
            part = 0.0 if part < 1e-6 else part
            part = {"down": 0.0, "mid": part, "up": float(part > 0)}[self._side]
            pmf[whole] += share * (1.0 - part)
            if whole + 1 < self.size:
                pmf[whole + 1] += share * part
        return self.of(pmf)

    def uniform(self, least: float, most: float) -> Any:
        """Anything from `least` to `most`, all equally likely."""
        first, last = int(least / self.dt + 1e-9), min(self.size - 1, math.ceil(most / self.dt - 1e-9))
        if most - least <= 0 or last <= first:
            return self.at(most)
        edges = np.clip(np.arange(first, last + 1) * self.dt, least, most)
        mass = np.diff(edges) / (most - least)
        up = {"down": 0.0, "mid": 0.5, "up": 1.0}[self._side]
        pmf = np.zeros(self.size)
        pmf[first:last] += mass * (1.0 - up)
        pmf[first + 1 : last + 1] += mass * up
        return self.of(pmf)

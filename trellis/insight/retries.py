"""How long a chain of steps takes when calls fail and are tried again: the whole distribution, by convolution.

Steps add up (`step_time` gives one step's time under its own retry rule), and sums of times are products of transforms
on a grid of time. The steps of the shipping workflow are repeated together. A round ends without success when one of
its steps uses up its tries, or when the child's run timeout is over. Then a new round begins, at most
`dispatch_retries` times. After that the order fails.

The grid's error is bounded, not guessed. With all times rounded down the distribution is nowhere later than the true
one; with all rounded up it is nowhere earlier (`Prediction.bounds`). A share too small for the transforms to tell from
zero is reported as RESOLUTION. The grid is tilted, so that what lies beyond its end is not folded back onto its
beginning (Grübel and Hermesmeier, "Computation of compound distributions", ASTIN Bulletin 29, 1999).

Not in the model: a review that nobody ends, the order's budget, and a try that goes on after its worker ended.
`queued` computes the wait of orders for a core.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Faults, Overhead
from trellis.insight.chain import IN_ROUNDS
from trellis.insight.grid import Array, Grid, Side, total
from trellis.insight.step_time import SHORTEST_TIMER, StepTime, step_time
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import Placement, Policy, Retry

RESOLUTION = 1e-12
"""The smallest share that the computation can tell from zero."""

_OVERHEAD = Overhead()
_UNSEEN = 1e-9
# What lies beyond the grid's end is folded back, multiplied by the tilt. Rounding errors at the end grow by 1/tilt.
_TILT_WHOLE, _TILT_CUT = 1e-4, 1e-7
_MOST_POINTS = 2**20


@dataclass(frozen=True)
class Link:
    """One step of a chain: its name, how its calls behave, and its retry rule."""

    step: str
    calls: Calls
    retry: Retry


@dataclass(frozen=True)
class Prediction:
    """The completion time of an order under a policy. `pmf` is on the grid 0, dt, 2 dt, ... [s].

    `never`: the share of orders that never complete, because a step's tries or the rounds of shipping are used up.
    `rounds_used_up`: the share of orders that fail because the rounds are used up. `tries`: expected calls of each
    step, until it succeeds or gives up, over all rounds and all hedge lanes. A round that the child's run timeout cuts
    off counts with the calls that it would have made.
    """

    policy: Policy
    chain: tuple[Link, ...]
    dt: float
    overhead: Overhead
    pmf: Array
    tries: tuple[float, ...] = ()
    never: float = 0.0
    rounds_used_up: float = 0.0

    @property
    def calls_per_step(self) -> float:
        """The mean of `tries`."""
        return sum(self.tries) / len(self.tries)

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
        """P(completed within `seconds`). Raises BadInput beyond the grid's end, unless nearly all end before it."""
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

    def p_late(self, deadline: float) -> float:
        """P(completed after the deadline [s]). Orders that never complete are not counted here."""
        return max(0.0, 1.0 - self.never - self.cdf(deadline))

    def percentile(self, share: float) -> float:
        """Seconds within which that share (0 to 1) of all orders completes.

        Infinite where fewer orders than that ever complete. NaN where the time lies beyond the grid.
        """
        at = int(np.searchsorted(self.cdf_values, share))
        if at < len(self.pmf):
            return at * self.dt
        return math.inf if share > 1.0 - self.never else math.nan

    def bounds(self, deadline: float) -> tuple[float, float]:
        """The true P(missed) lies between these two, however coarse the grid is."""
        tilt = _TILT_WHOLE if 1.0 - self.never - float(self.pmf.sum()) <= _UNSEEN else _TILT_CUT
        low, high = (
            1.0 - self._by(np.minimum(np.cumsum(_order(self, side, tilt).pmf), 1.0), deadline)
            for side in ("down", "up")
        )
        return max(0.0, low), min(1.0, high)


def predict(
    policy: Policy,
    faults: Faults = None,
    *,
    steps: Sequence[str] = FORWARD_OUTSIDE_STEPS,
    overhead: Overhead = _OVERHEAD,
    dt: float | None = None,
    horizon: float | None = None,
) -> Prediction:
    """The distribution of the completion time of an order that is approved at once. Each step has its own retry rule.

    `dt`: the grid's step [s]. None: 2 ms, and more, in proportion, for what takes over a minute. `horizon`: the grid's
    end [s]. None: all but a billionth lies before it, within a million points. Raises BadInput for a plan with a
    script, for shares that are not from 0 to 1, and for a grid that makes no sense. Raises ConfigError for a policy or
    plan that contradicts itself.
    """
    policy.check()
    if isinstance(faults, Mapping):
        calls = {str(step): one.check() for step, one in faults.items()}
        steps = tuple(calls)
    else:
        plan = FaultPlan.canonical() if faults is None else faults
        calls = {str(step): Calls.planned(plan, step) for step in steps}
    chain = tuple(Link(str(step), calls[str(step)], policy.retry_of(str(step))) for step in steps)
    needed = grid_length([(link.retry, link.calls) for link in chain], overhead) if chain else 0.0
    dt = 0.002 * max(1.0, needed / 60) if dt is None else dt
    if not chain or not 0 < dt < math.inf or (horizon is not None and not dt < horizon <= dt * 2**22):
        raise BadInput("The grid must have a step above 0, below its end, and at most four million points.")
    size = 1 << math.ceil(math.log2(horizon / dt if horizon else min(max(needed / dt, 4096), _MOST_POINTS)))
    while True:
        empty = Prediction(policy, chain, dt, overhead, np.zeros(size))
        found = _order(empty, "mid", _TILT_WHOLE if horizon is None else _TILT_CUT)
        if not np.all(np.isfinite(found.pmf)):
            raise BadInput("These faults under this policy are beyond what can be computed.")
        unseen = 1.0 - found.never - float(found.pmf.sum())
        if horizon is not None or unseen <= _UNSEEN or size >= _MOST_POINTS:
            return found
        size *= 2


def queued(found: Prediction, *, at_once: int, cpu: float, cores: float) -> Overhead:
    """The overhead of `found` when `at_once` orders share `cores`, and each order needs `cpu` seconds of a core.

    `cores` need not be a whole number: subtract what other programs use.

    The machine repairman's model (Kleinrock, "Queueing Systems" I, section 3.8): an order alternates between its
    timeouts and backoffs, which need no core, and work, for which it waits for a core. The mean is exact for any
    distribution of the two, if the cores are shared in turns. Raises BadInput where no order completes, and for numbers
    that make no sense.
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
    """One row for each policy, computed on a coarse grid (steps of 10 ms; for long deadlines 1/4,000 of the deadline).

    Columns: name, try_timeout, first_backoff, max_backoff, hedge, placement (of the policy's general retry rule),
    p_miss, p_never (share of orders that never complete), p50, p99 [s], calls_per_step.
    """
    rows = []
    for policy in policies:
        found = predict(policy, faults, **{"dt": max(0.01, deadline / 4000), **grid})
        retry = policy.retry
        rows.append({
            "name": policy.name, "try_timeout": retry.try_timeout, "first_backoff": retry.first_backoff,
            "max_backoff": retry.max_backoff, "hedge": retry.hedge, "placement": str(retry.placement),
            "p_miss": found.p_miss(deadline), "p_never": found.never, "p50": found.percentile(0.5),
            "p99": found.percentile(0.99), "calls_per_step": found.calls_per_step,
        })  # fmt: skip
    return pd.DataFrame(rows)


def marginal(policy: Policy, faults: Faults = None, *, deadline: float = 15.0) -> pd.DataFrame:
    """The effect of each field of a retry rule: P(missed) and calls when it alone is halved, or doubled, for all steps.

    Index: knob. Columns: p_miss, calls_per_step (as they are), p_miss_half, p_miss_double, calls_half, calls_double.
    """
    base = predict(policy, faults)
    rows: dict[str, dict[str, float]] = {}
    for knob in ("try_timeout", "first_backoff", "max_backoff", "hedge"):
        row = {"p_miss": base.p_miss(deadline), "calls_per_step": base.calls_per_step}
        for word, factor in (("half", 0.5), ("double", 2.0)):
            changed = _scaled(policy, knob, factor)
            found = None if changed is None else predict(changed, faults)
            row[f"p_miss_{word}"] = float("nan") if found is None else found.p_miss(deadline)
            row[f"calls_{word}"] = float("nan") if found is None else found.calls_per_step
        rows[knob] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def _scaled(policy: Policy, knob: str, factor: float) -> Policy | None:
    """The policy with one field of its rules multiplied by `factor`, or None where that makes no sense."""
    general = _scaled_rule(policy.retry, knob, factor)
    rules = {step: _scaled_rule(rule, knob, factor) for step, rule in policy.steps.items()}
    if general is None or None in rules.values():
        return None
    return replace(policy, retry=general, steps={step: rule for step, rule in rules.items() if rule is not None})


def _scaled_rule(retry: Retry, knob: str, factor: float) -> Retry | None:
    value = getattr(retry, knob) * factor
    if knob == "hedge":
        if value != int(value) or value < 1 or retry.placement is Placement.SERVER:
            return None
        value = int(value)
    turned = replace(retry, **{knob: value})
    return None if turned.first_backoff > turned.max_backoff else turned


def grid_length(steps: Iterable[tuple[Retry, Calls]], overhead: Overhead) -> float:
    """A good length for the grid [s], from the means: a geometric tail falls to a billionth after about 25 means."""
    means = []
    for retry, calls in steps:
        server = retry.placement is Placement.SERVER
        pause = max(retry.max_backoff, SHORTEST_TIMER) if server else retry.max_backoff
        lost = max(retry.try_timeout, SHORTEST_TIMER) if server else retry.try_timeout
        works, raises, cut = calls.under(retry.try_timeout)
        good = max(total(works), 1e-3)
        most = max(seconds for _, seconds in (*works, *raises, (0.0, 0.0)))
        means.append((cut * lost + (1 - good) * (pause + overhead.execution)) / good + most)
    return overhead.order + sum(means) + 22 * max(means)


def _order(given: Prediction, side: Side, tilt: float) -> Prediction:
    """`given` with everything computed on its grid, every time rounded to the grid by `side`."""
    grid = Grid(len(given.pmf), given.dt, side, tilt)
    whole: Any = grid.at(given.overhead.order)
    known: dict[tuple[Retry, Calls], StepTime] = {}
    tries: list[float] = []
    succeeds, used_up = 1.0, 0.0
    for in_rounds, links in groupby(given.chain, key=lambda link: link.step in IN_ROUNDS):
        times = []
        for link in links:
            key = (link.retry, link.calls)
            if key not in known:
                known[key] = step_time(grid, *key, given.overhead)
            times.append(known[key])
        part = _in_a_row(times)
        if in_rounds:
            part, fails = _rounds(grid, part, given.policy, given.overhead)
            used_up += succeeds * fails
        whole = whole * part.works
        tries += [succeeds * one if succeeds else 0.0 for one in part.tries]
        succeeds *= part.succeeds
    return replace(given, pmf=grid.back(whole), tries=tuple(tries), never=1.0 - succeeds, rounds_used_up=used_up)


@dataclass(frozen=True)
class _Row:
    """Several steps one after the other. Fields as in `StepTime`, with the `tries` of each step."""

    works: Any
    gives_up: Any
    tries: list[float]
    succeeds: float
    fails: float


def _in_a_row(times: Sequence[StepTime]) -> _Row:
    works: Any = 1.0
    gives_up: Any = 0.0
    succeeds, fails = 1.0, 0.0
    tries = []
    for one in times:
        # A step that an order does not reach makes no calls.
        tries.append(succeeds * one.tries if succeeds else 0.0)
        gives_up = gives_up + works * one.gives_up
        fails += succeeds * one.fails
        works = works * one.works
        succeeds *= one.succeeds
    return _Row(works, gives_up, tries, succeeds, fails)


def _rounds(grid: Grid, one: _Row, policy: Policy, overhead: Overhead) -> tuple[_Row, float]:
    """(as many rounds as the policy allows, the share of orders that use them up). `one`: a single round."""
    if policy.child_run_timeout is not None:
        one = _cut_off(grid, one, policy.child_run_timeout)
    if one.fails <= 0.0:
        return one, 0.0
    # begun: the expected number of rounds; starts: the transform of "a round begins at", summed over all rounds.
    again = one.gives_up * grid.at(overhead.round)
    begun, failed = 1.0, one.fails
    starts: Any = 1.0
    last: Any = 1.0
    for _ in range(policy.dispatch_retries):
        last = last * again
        starts = starts + last
        begun += failed
        failed *= one.fails
    row = _Row(one.works * starts, last * one.gives_up, [n * begun for n in one.tries], one.succeeds * begun, failed)
    return row, failed


def _cut_off(grid: Grid, one: _Row, timeout: float) -> _Row:
    """A round that fails where it has not ended after `timeout` [s]."""
    end = int(timeout / grid.dt + 1e-9)
    if end >= grid.size:
        return one
    whole = np.ones(grid.size // 2 + 1)
    works, gives_up = grid.back(one.works * whole), grid.back(one.gives_up * whole)
    works[end:] = gives_up[end:] = 0.0
    succeeds = min(1.0, float(works.sum()))
    gives_up[end] = max(0.0, 1.0 - succeeds - float(gives_up.sum()))
    return _Row(grid.of(works), grid.of(gives_up), one.tries, succeeds, 1.0 - succeeds)

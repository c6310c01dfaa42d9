"""How long a chain of steps takes when calls fail and are tried again: the whole distribution, by convolution.

Sums of times are products of transforms on a grid of time: `step_time` gives one step's time under its own retry rule,
`chain_time` puts the steps together.

One grid cannot hold milliseconds and hours. So a prediction is computed on several grids, each four times as coarse and
as long as the one before. A time is looked up in the finest grid that holds it. What matters at a deadline is then
resolved in proportion to that deadline, however long the tail is.

The grid's error is bounded, not guessed. With all times rounded down the distribution is nowhere later than the true
one; with all rounded up it is nowhere earlier (`Prediction.bounds`). A share too small for the transforms to tell from
zero is reported as RESOLUTION. The grid is tilted, so that what lies beyond its end is not folded back onto its
beginning (Grübel and Hermesmeier, "Computation of compound distributions", ASTIN Bulletin 29, 1999).

Not in the model: a review that nobody ends, the order's budget, and a try that goes on after its worker ended.
`queued` computes the wait of orders for a core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Faults, Overhead
from trellis.insight.chain import ORDER, Part, check_part, executions, in_a_row, steps_of
from trellis.insight.chain_time import ChainTime, PartTime, chain_length, in_series
from trellis.insight.grid import COARSER, TILT_CUT, TILT_LONG, TILT_WHOLE, Array, Grid, Side, Spacing
from trellis.insight.load import Load, shard_under
from trellis.model import OUTSIDE_STEPS
from trellis.policies import Placement, Policy, Retry

RESOLUTION = 1e-12
"""The smallest share that the computation can tell from zero."""

EXECUTION_WORK = 0.1
"""The CPU time of a further execution of an activity, as a share of that of an order without failures."""

TIGHT = 0.1
"""Bounds are tight if they differ by at most this share of the upper one."""

_OVERHEAD = Overhead()
_UNSEEN = 1e-9
_POINTS = 2**14
_SWEPT_POINTS = 2**12
_MOST_GRIDS = 16
_MOST_FINER = 4


@dataclass(frozen=True)
class Problem:
    """What is predicted: a chain, the calls of its steps, the policy with its retry rules, and the overhead."""

    policy: Policy
    chain: Part
    calls: Mapping[str, Calls]
    overhead: Overhead

    def on(self, grid: Grid) -> PartTime:
        """The whole order on one grid."""
        alone = PartTime(works=grid.at(self.overhead.order))
        return in_series([alone, ChainTime(grid, self.calls, self.overhead).of(self.chain, self.policy)])

    def cdf(self, grid: Grid) -> tuple[Array, PartTime]:
        """P(completed by t) on a grid."""
        whole = self.on(grid)
        values: Array = np.maximum.accumulate(np.clip(np.cumsum(grid.back(whole.works)), 0.0, 1.0))
        if not np.all(np.isfinite(values)):
            raise BadInput("These faults under this policy are beyond what can be computed.")
        return values, whole


@dataclass(frozen=True)
class Prediction:
    """The completion time of an order, or of any workflow, under a policy.

    `times` [s] and `pmf`: the distribution. The times stand `dt` apart at first, and farther apart in the tail.
    `never`: the share of orders that never complete, because a step's tries or the rounds of shipping are used up.
    `rounds_used_up`: the share of orders that fail because the rounds are used up. `tries`: expected calls of each
    step, until it succeeds or gives up, over all its repetitions, rounds and hedge lanes. A round that the child's run
    timeout cuts off counts with the calls that it would have made.
    """

    problem: Problem
    spacings: tuple[Spacing, ...]
    times: Array
    cdf_values: Array
    tries: Mapping[str, float]
    never: float
    rounds_used_up: float

    @property
    def policy(self) -> Policy:
        return self.problem.policy

    @property
    def overhead(self) -> Overhead:
        return self.problem.overhead

    @property
    def dt(self) -> float:
        """The step of the finest grid [s]."""
        return self.spacings[0].dt

    @cached_property
    def pmf(self) -> Array:
        """P(completed at t) on the grid."""
        values: Array = np.diff(self.cdf_values, prepend=0.0)
        return values

    @property
    def calls_per_step(self) -> float:
        """Calls for each time that a step has to succeed."""
        return sum(self.tries.values()) / max(1e-12, executions(self.problem.chain))

    def cdf(self, seconds: float) -> float:
        """P(completed within `seconds`). Raises BadInput beyond the grid's end, unless nearly all end before it."""
        at = int(np.searchsorted(self.times, seconds + 1e-9 * self.dt, side="right")) - 1
        if at < 0 or seconds < 0:
            return 0.0
        self._spacing(seconds)
        return float(self.cdf_values[at])

    def _spacing(self, seconds: float) -> Spacing:
        """The finest grid that holds a time. Raises BadInput where there is none."""
        for one in self.spacings:
            if seconds < one.end - 1e-9 * one.dt:
                return one
        if 1.0 - self.never - self.cdf_values[-1] > _UNSEEN:
            raise BadInput(f"The grid ends at {self.spacings[-1].end:g} s. Give predict a longer horizon.")
        return self.spacings[-1]

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
        if at < len(self.times):
            return float(self.times[at])
        return math.inf if share > 1.0 - self.never else math.nan

    def bounds(self, deadline: float) -> tuple[float, float]:
        """The true P(missed) lies between these two, however coarse the grid is."""
        spacing = self._spacing(deadline)
        at = min(int(max(0.0, deadline) / spacing.dt + 1e-9), spacing.size - 1)
        # What a tilted grid folds back makes the upper bound too small by at most this factor.
        folded = 1.0 + 20 * spacing.tilt
        low, high = (1.0 - float(self.problem.cdf(spacing.grid(side))[0][at]) for side in _SIDES)
        return max(0.0, low - RESOLUTION), min(1.0, high * folded + RESOLUTION)

    def tight(self, deadline: float) -> bool:
        """Whether the bounds of P(missed) differ by less than a tenth, or both are below a billionth."""
        low, high = self.bounds(deadline)
        return high - low <= max(TIGHT * high, _UNSEEN)

    def doubt(self, deadline: float) -> str:
        """The bounds of P(missed) in words. Empty where the bounds are tight."""
        low, high = self.bounds(deadline)
        return "" if self.tight(deadline) else f"computed to between {low:.2g} and {high:.2g}"


_SIDES: tuple[Side, Side] = ("down", "up")


def predict(
    policy: Policy,
    faults: Faults = None,
    *,
    steps: Sequence[str] | Part | None = None,
    overhead: Overhead = _OVERHEAD,
    deadline: float | None = None,
    load: Load | None = None,
    dt: float | None = None,
    horizon: float | None = None,
) -> Prediction:
    """The distribution of the completion time of an order that is approved at once, or of another chain of steps.

    Each step has its own retry rule, found by its name in the policy. `steps`: names of steps in a row, where those of
    shipping run in rounds, or a chain. None: the steps of `faults` where it names them, else an order.

    `load`: how many such orders share the server, which decides how early its timers fire. None: as `overhead` says, by
    default one order alone. `deadline`: the time [s] at which the bounds should be tight. If they are not, the grids
    are made up to four times finer (`Prediction.tight` says whether that was enough). `dt`: the finest grid's step [s].
    None: 2 ms, and less where a run takes less than a tenth of a second. `horizon`: the end [s] of the grid, which is
    then the only one. None: further grids are added until all but a billionth of the orders have ended.
    Raises BadInput for a plan with a script, for shares that are not from 0 to 1, for a step without calls, and for a
    grid that makes no sense. Raises ConfigError for a policy or plan that contradicts itself.
    """
    problem = _problem(policy, faults, steps, overhead, load)
    finest = 0.002 if dt is None else dt
    if not 0 < finest < math.inf or (horizon is not None and not finest < horizon <= finest * 2**22):
        raise BadInput("The grid must have a step above 0, below its end, and at most four million points.")
    if horizon is not None:
        return _predicted(problem, [Spacing(finest, 1 << math.ceil(math.log2(horizon / finest)), TILT_CUT)])
    found = _predicted(problem, _begin(problem, finest, _POINTS))
    while dt is None and finest > 1e-5 and 0 < found.percentile(0.5 * (1.0 - found.never)) < 50 * finest:
        finest /= COARSER
        found = _predicted(problem, _begin(problem, finest, _POINTS))
    if deadline is None or found.tight(deadline):
        return found
    # The bounds differ in proportion to the grid's step.
    low, high = found.bounds(deadline)
    finer = min(_MOST_FINER, 1 << math.ceil(math.log2((high - low) / (0.9 * TIGHT * high))))
    return _predicted(problem, _begin(problem, finest / finer, _POINTS * finer))


def _problem(
    policy: Policy, faults: Faults, steps: Sequence[str] | Part | None, overhead: Overhead, load: Load | None
) -> Problem:
    """What is to be predicted, checked. Raises BadInput and ConfigError."""
    if steps is None:
        chain: Part = in_a_row(faults) if isinstance(faults, Mapping) else ORDER
    else:
        chain = in_a_row(steps) if isinstance(steps, Sequence) else steps
    names = list(dict.fromkeys(step.name for step in steps_of(chain)))
    if isinstance(faults, Mapping):
        calls = {str(step): one.check() for step, one in faults.items()}
        if missing := [name for name in names if name not in calls]:
            raise BadInput(f"It is not known how the calls of {missing[0]!r} behave. Known are {', '.join(calls)}.")
    else:
        plan = FaultPlan.canonical() if faults is None else faults
        if plan.outages or plan.capacity:
            raise BadInput(
                "Outages and a provider of finite capacity make the calls of all orders depend on one another, which "
                "no prediction covers. Play such a plan with insight.simulate or insight.storms."
            )
        calls = {name: Calls.planned(plan, name) for name in names}
    policy.check(tuple(dict.fromkeys((*OUTSIDE_STEPS, *names, *calls))))
    check_part(chain)
    if load is not None:
        tried = [(policy.retry_of(step.name), calls[step.name]) for step in steps_of(chain)]
        overhead = replace(overhead, shard=shard_under(load, tried, overhead))
    return Problem(policy, chain, calls, overhead)


def _begin(problem: Problem, dt: float, most: int) -> list[Spacing]:
    """The first grid: as long as the times probably are, with at most so many points."""
    rules = {step.name: problem.policy.retry_of(step.name) for step in steps_of(problem.chain)}
    needed = chain_length(problem.chain, rules, problem.calls, problem.overhead) / dt
    size = 1 << math.ceil(math.log2(min(max(needed, 4096), most)))
    return [Spacing(dt, size, TILT_WHOLE if needed <= size else TILT_LONG)]


def _predicted(
    problem: Problem,
    spacings: list[Spacing],
    grid: Callable[[Spacing], Grid] = Spacing.grid,
    enough: Callable[[float, float], bool] = lambda _end, unseen: unseen <= _UNSEEN,
) -> Prediction:
    """The prediction on these grids, and on as many coarser ones as are needed.

    `grid`: makes a grid, or takes one that was used before. `enough(end, unseen)`: whether no further grid is needed,
    given the end of the last one [s] and the share of orders that complete after it.
    """
    cut = spacings[0].tilt == TILT_CUT
    values, first = problem.cdf(grid(spacings[0]))
    times = spacings[0].times
    never = 1.0 - first.succeeds
    while not cut and not enough(spacings[-1].end, 1.0 - never - values[-1]) and len(spacings) < _MOST_GRIDS:
        spacings.append(spacings[-1].coarser)
        more, _ = problem.cdf(grid(spacings[-1]))
        later = spacings[-1].times
        begin = int(np.searchsorted(later, times[-1], side="right"))
        times = np.concatenate((times, later[begin:]))
        values = np.maximum.accumulate(np.concatenate((values, more[begin:])))
    return Prediction(problem, tuple(spacings), times, values, first.tries, never, first.rounds_used_up)


def queued(found: Prediction, *, at_once: int, cpu: float, cores: float) -> Overhead:
    """The overhead of `found` when `at_once` orders share `cores`, and each order needs `cpu` seconds of a core.

    `cores` need not be a whole number: subtract what other programs use.

    The machine repairman's model (Kleinrock, "Queueing Systems" I, section 3.8): an order alternates between its
    timeouts and backoffs, which need no core, and work, for which it waits for a core. The mean is exact for any
    distribution of the two, if the cores are shared in turns. The wait is added where the work is: to the order, and to
    each further execution of an activity. So orders with many failed tries wait longer. Raises BadInput
    where no order completes, and for numbers that make no sense.
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
    wait = max(0.0, at_once / rate - away - cpu)
    server = found.policy.retry.placement is Placement.SERVER
    again = (found.calls_per_step - 1) * len(found.tries) if server and math.isfinite(found.calls_per_step) else 0.0
    wait /= 1 + again * EXECUTION_WORK
    order = found.overhead.order + wait
    return replace(found.overhead, order=order, execution=found.overhead.execution + wait * EXECUTION_WORK)


def sweep(
    policies: Iterable[Policy],
    faults: Faults = None,
    *,
    deadline: float = 15.0,
    steps: Sequence[str] | Part | None = None,
    overhead: Overhead = _OVERHEAD,
    load: Load | None = None,
) -> pd.DataFrame:
    """One row for each policy, computed on coarse grids (steps of 10 ms; for short deadlines 1/100 of the deadline).

    Columns: name, try_timeout, first_backoff, max_backoff, hedge, placement (of the policy's general retry rule),
    p_miss, p_never (share of orders that never complete), p50, p99 [s] (NaN where they are far beyond the deadline),
    calls_per_step.
    """
    rows = []
    grids = cache(Spacing.grid)

    def enough(end: float, unseen: float) -> bool:
        return end > deadline and (unseen < 0.001 or end > 8 * deadline)

    for policy in policies:
        problem = _problem(policy, faults, steps, overhead, load)
        found = _predicted(problem, _begin(problem, min(0.01, deadline / 100), _SWEPT_POINTS), grids, enough)
        retry = policy.retry
        rows.append({
            "name": policy.name, "try_timeout": retry.try_timeout, "first_backoff": retry.first_backoff,
            "max_backoff": retry.max_backoff, "hedge": retry.hedge, "placement": str(retry.placement),
            "p_miss": found.p_miss(deadline), "p_never": found.never, "p50": found.percentile(0.5),
            "p99": found.percentile(0.99), "calls_per_step": found.calls_per_step,
        })  # fmt: skip
    return pd.DataFrame(rows)


def marginal(
    policy: Policy,
    faults: Faults = None,
    *,
    deadline: float = 15.0,
    steps: Sequence[str] | Part | None = None,
    overhead: Overhead = _OVERHEAD,
) -> pd.DataFrame:
    """The effect of each field of a retry rule: P(missed) and calls when it alone is halved, or doubled, for all steps.

    Index: knob. Columns: p_miss, calls_per_step (as they are), p_miss_half, p_miss_double, calls_half, calls_double.
    """
    base = predict(policy, faults, steps=steps, overhead=overhead)
    rows: dict[str, dict[str, float]] = {}
    for knob in ("try_timeout", "first_backoff", "max_backoff", "hedge"):
        row = {"p_miss": base.p_miss(deadline), "calls_per_step": base.calls_per_step}
        for word, factor in (("half", 0.5), ("double", 2.0)):
            changed = _scaled(policy, knob, factor)
            found = None if changed is None else predict(changed, faults, steps=steps, overhead=overhead)
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

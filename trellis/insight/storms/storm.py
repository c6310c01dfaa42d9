"""One outage played: what a policy does while a provider is out, and whether the orders recover afterwards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Overhead
from trellis.insight.chain import ORDER, Part, in_a_row, steps_of
from trellis.insight.simulate.world import Setting, World
from trellis.insight.storms.recovery import NEXT, Times, Usual, drained_at
from trellis.model import OUTSIDE_STEPS
from trellis.outages import Outage
from trellis.policies import Policy

SLOTS = 400
"""How many activities of a queue a worker runs at a time (`trellis.workers.SLOTS`)."""

BEFORE = 20.0
"""The shortest time before an outage, in which orders settle [s]. See `outage`."""

DAY = 86_400.0

_USUAL_ORDERS = 240
_WINDOW_ORDERS = 40
_WINDOW_CYCLES = 10
_BAD_WINDOWS = 4
_MOST_WINDOWS = 60
_STARVED = 0.9


@dataclass(frozen=True)
class Storm:
    """What happened. Times in seconds since the beginning; the outages lasted from `broken` to `healed`.

    `timeline`: a row for each second. Columns: t [s], backlog (open orders), calls, arrived, completed (per second).
    `times_normal`: calls of the steps that were out in a second of outage, as a multiple of their usual calls.
    `drained_s`: seconds from the end of the outage until the backlog was what it is usually, and new orders were as
    quick as usual (`recovery.drained_at`). None: never. `alone`: whether orders keep up without any outage; where they
    do not, no outage is needed. `usual`: what is usual without an outage. `completed`, `failed`: orders that ended.
    """

    policy: Policy
    rate: float
    broken: float
    healed: float
    timeline: pd.DataFrame
    usual: Usual
    times_normal: float
    drained_s: float | None
    alone: bool
    completed: int
    failed: int

    @classmethod
    def calm(cls, policy: Policy, rate: float, usual: Usual) -> Storm:
        """No outage: nothing to recover from."""
        return cls(policy, rate, 0.0, 0.0, pd.DataFrame(), usual, 1.0, 0.0, True, 0, 0)

    @property
    def recovers(self) -> bool:
        return self.drained_s is not None

    def words(self) -> str:
        """What happened, in two sentences."""
        out = self.healed - self.broken
        calls = f"While the provider was out for {out:g} s, it got {self.times_normal:.3g} times its usual calls."
        if not self.alone:
            return f"At {self.rate:.3g} orders/s the orders do not keep up, without any outage. {calls}"
        if self.drained_s is None:
            return (
                f"{calls} The orders never recovered: after the outage the retries alone kept the provider so busy "
                f"that fewer orders completed than arrived."
            )
        return f"{calls} The orders recovered {self.drained_s:.1f} s after its end."


def outage(seconds: float, *, how: str = "error", step: str | None = None, rate: float = 1.0) -> Outage:
    """One outage that begins when orders have settled: after 20 s, and not before 20 orders have begun at `rate`.

    Raises BadInput for an outage of no length and for one that is longer than a day.
    """
    if not 0 < seconds <= DAY:
        raise BadInput("An outage lasts more than 0 s and at most a day. Give its seconds.")
    return Outage(max(BEFORE, 20 / rate), seconds, how, step)


def storm(
    policy: Policy,
    plan: FaultPlan,
    *,
    rate: float,
    calls: Mapping[str, Calls] | None = None,
    steps: Sequence[str] | Part = ORDER,
    seconds: float | None = None,
    seed: int = 0,
    even: bool = False,
    workers: int = 1,
    shards: int = 1,
    overhead: Overhead | None = None,
    usual: Usual | None = None,
) -> Storm:
    """Play orders that arrive at `rate` a second through the outages of `plan`, until it is clear how it ends.

    `calls`: how the calls of each step behave, in place of the plan's probabilities. `seconds`: the longest time that
    is played after the outage [s]; what has not recovered by then counts as never. None: as long as it takes to know.
    `even`: orders arrive at equal distances, not at random. `usual`: what is usual, where it was played before.

    *Never* is a state that keeps itself up. An outage leaves a backlog. If the backlog's retries fill the provider's
    queue until every answer comes later than the timeout, the provider works for callers that gave up, few orders
    complete, and the backlog stays (a metastable failure: Bronson, Aghayev, Charapko and Zhu, "Metastable failures in
    distributed systems", HotOS 2021). So *never* is not a limit of time. It is said when, in four windows in a row,
    fewer than nine tenths as many orders completed as arrived, although the provider was there, and the backlog either
    did not shrink in the window, or none of the orders of the backlog has met the outage: those that did have ended,
    and what remains is the work of the retries. A window is as long as ten times the longest time between two tries,
    and as 40 arrivals. A larger backlog makes more calls, so what has not recovered with it does not recover later; but
    near the border chance can end such a state after a long time. What does neither for 60 windows counts as never.

    The budget ends orders, as on the real stack. Not simulated: compensations, and the stack's own capacity. Raises
    BadInput where no outage has a fixed end, and where the provider could not serve the orders without any outage.
    """
    if not 0 < rate < math.inf:
        raise BadInput("Give a rate above 0: orders that arrive in a second.")
    fixed = [one for one in plan.outages if isinstance(one, Outage)]
    if not fixed or len(fixed) < len(plan.outages):
        raise BadInput("A storm needs outages with a fixed beginning and end: random ones come again and again.")
    policy.check(tuple(dict.fromkeys((*OUTSIDE_STEPS, *(step for step in calls or ())))))
    need_room(plan, rate, calls, steps)
    scene = _scene(policy, plan, rate, calls, steps, seed, even, workers, shards, overhead)
    broken, healed = min(one.begins for one in fixed), max(one.ends for one in fixed)
    known = scene.usual() if usual is None else usual
    return scene.played(broken, healed, known, math.inf if seconds is None else seconds)


def usually(
    policy: Policy,
    plan: FaultPlan,
    *,
    rate: float,
    calls: Mapping[str, Calls] | None = None,
    steps: Sequence[str] | Part = ORDER,
    seed: int = 0,
    even: bool = False,
    workers: int = 1,
    shards: int = 1,
    overhead: Overhead | None = None,
) -> Usual:
    """What is usual without the plan's outages. `seconds` is infinite where orders do not keep up."""
    return _scene(policy, plan, rate, calls, steps, seed, even, workers, shards, overhead).usual()


def _scene(
    policy: Policy, plan: FaultPlan, rate: float, calls: Mapping[str, Calls] | None, steps: Sequence[str] | Part,
    seed: int, even: bool, workers: int, shards: int, overhead: Overhead | None,
) -> _Scene:  # fmt: skip
    chain = steps if isinstance(steps, Part) else in_a_row(steps)
    setting = Setting(Overhead() if overhead is None else overhead, shards, workers, SLOTS, budget=True)
    return _Scene(policy, plan, rate, calls, chain, seed, even, setting)


def places_per_order(
    plan: FaultPlan, step: str, calls: Mapping[str, Calls] | None = None, steps: Sequence[str] | Part = ORDER
) -> float:
    """How many places at its provider an order takes, until each call of the step was answered once.

    Calls that raise or hang take none. A lost reply takes one as a good call does, and the call must be made again. 0
    where the chain has no such step, or where no call of it ever succeeds.
    """
    chain = steps if isinstance(steps, Part) else in_a_row(steps)
    times = sum(one.name == step for one in steps_of(chain))
    mix = calls[step] if calls is not None and step in calls else Calls.planned(plan, step)
    good = 1.0 - mix.error - mix.hang - mix.reply_lost
    return times * (good + mix.reply_lost) / good if good > 0 else 0.0


def need_room(
    plan: FaultPlan, rate: float, calls: Mapping[str, Calls] | None = None, steps: Sequence[str] | Part = ORDER
) -> None:
    """Raise BadInput where orders at this rate need more of a provider than it can serve, even if none is retried."""
    for step, capacity in plan.capacity.items():
        needed = rate * places_per_order(plan, step, calls, steps)
        if needed >= capacity.per_second:
            raise BadInput(
                f"No policy can: {rate:g} orders a second need {needed:.3g} calls of {step} a second, and its provider "
                f"serves {capacity.per_second:.3g}. Lower the rate, or raise the capacity."
            )


@dataclass(frozen=True)
class _Scene:
    """A policy, its orders and their provider."""

    policy: Policy
    plan: FaultPlan
    rate: float
    calls: Mapping[str, Calls] | None
    chain: Part
    seed: int
    even: bool
    setting: Setting

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys(step.name for step in steps_of(self.chain)))

    def _world(self, plan: FaultPlan) -> World:
        faults = plan if self.calls is None else self.calls
        world = World(self.policy, faults, self.chain, self.seed, self.setting, plan)
        world.open(world.gaps(self.rate, even=self.even))
        return world

    def usual(self) -> Usual:
        """What is usual without an outage. `seconds` is infinite where orders do not keep up: where clearly fewer
        complete than with a provider that serves any number of calls."""
        calm = replace(self.plan, outages=())
        found = self._alone(calm)
        if not calm.capacity:
            return found
        unlimited = self._alone(replace(calm, capacity={}))
        return found if found.share >= _STARVED * unlimited.share else replace(found, seconds=math.inf)

    def _alone(self, plan: FaultPlan) -> Usual:
        world = self._world(plan)
        end = BEFORE + max(_USUAL_ORDERS / self.rate, 2 * self._window)
        world.run_to(end)
        world.close()
        times = _times(world)
        found, half = Usual.of(times, BEFORE, end), (BEFORE + end) / 2
        # Orders that are open at the end are in the backlog of both halves, if all is well.
        share = times.completed(half, end) / max(1, times.begun(half, end))
        return replace(found, share=min(1.0, share))

    @property
    def _window(self) -> float:
        """The length of a window [s], as `storm` says."""
        rules = [self.policy.retry_of(name) for name in self._names]
        cycle = max(rule.try_timeout + max(rule.max_backoff, rule.slow_backoff, 0.1) for rule in rules)
        return max(_WINDOW_CYCLES * cycle, _WINDOW_ORDERS / self.rate)

    def played(self, broken: float, healed: float, usual: Usual, most: float) -> Storm:
        world = self._world(self.plan)
        world.run_to(healed)
        drained, alone = None, math.isfinite(usual.seconds)
        begin, bad = healed, 0
        # New orders must begin and end before one can say that they are quick again.
        settle = (NEXT + 5) / self.rate + (usual.seconds if alone else 0.0)
        for number in range(_MOST_WINDOWS if alone else 1):
            end = min(begin + self._window + settle * (number == 0), healed + most)
            world.run_to(end)
            times = _times(world)
            drained = drained_at(times, healed, usual)
            if drained is not None or end >= healed + most:
                break
            bad = bad + 1 if self._starved(times, begin, end, healed, usual) else 0
            if bad >= _BAD_WINDOWS:
                break
            begin = end
        world.close()
        drained = None if not alone else drained
        out = {one.step for one in self.plan.outages}
        return Storm(
            self.policy, self.rate, broken, healed, _timeline(world), usual,
            self._times_normal(world, out, broken, healed), None if drained is None else drained - healed, alone,
            sum(run.state == "COMPLETED" for run in world.runs), sum(run.state == "FAILED" for run in world.runs),
        )  # fmt: skip

    def _starved(self, times: Times, begin: float, end: float, healed: float, usual: Usual) -> bool:
        """Whether a window keeps the bad state up, as `storm` says."""
        if times.completed(begin, end) >= _STARVED * usual.share * times.begun(begin, end):
            return False
        before, after = times.open_at(np.array([begin, end]))
        return bool(after >= before) or begin >= healed + self.policy.budget

    def _times_normal(self, world: World, out: set[str | None], broken: float, healed: float) -> float:
        made = [np.array(at) for step, at in world.tries.begun.items() if step in out or None in out]
        if not made:
            return math.nan
        calls = np.concatenate(made)
        # Before an outage the first orders are still on their way to the step. So the second half is counted.
        half = broken / 2
        usual = float(((calls >= half) & (calls < broken)).sum()) / (broken - half)
        during = float(((calls >= broken) & (calls < healed)).sum()) / (healed - broken)
        return during / usual if usual else math.nan


def _times(world: World) -> Times:
    return Times.of([(run.began, run.ended, run.state == "COMPLETED") for run in world.runs])


def _timeline(world: World) -> pd.DataFrame:
    times, end = _times(world), max(1, math.ceil(world.now))
    edges = np.arange(end + 1, dtype=float)

    def each_second(at: Iterable[float]) -> Any:
        return np.histogram(np.fromiter(at, dtype=float), edges)[0]

    return pd.DataFrame({
        "t": edges[:-1], "backlog": times.open_at(edges[:-1]),
        "calls": each_second(at for ats in world.tries.begun.values() for at in ats),
        "arrived": each_second(times.began), "completed": each_second(times.ended[times.good]),
    })  # fmt: skip

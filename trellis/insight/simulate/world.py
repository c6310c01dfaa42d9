"""Orders as processes on one clock: they arrive, and each goes through its chain, shipping in rounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from random import Random

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Faults, Overhead
from trellis.insight.chain import (
    Choice,
    Measured,
    Parallel,
    Part,
    Repeat,
    Rounds,
    Series,
    Step,
    in_a_row,
    steps_of,
)
from trellis.insight.server_timers import STICKY_TIMEOUT, WORKFLOW_TASK_TIMEOUT, TimerQueue
from trellis.insight.simulate.loop import Event, Loop, Process
from trellis.insight.simulate.provider import Provider
from trellis.insight.simulate.tries import Order, Tries, about, all_of, pass_on
from trellis.policies import Placement, Policy


@dataclass(frozen=True)
class Setting:
    """What orders run on. `shards`: the server's history shards; a development server has one. `workers`: worker
    processes, each with `slots` activities of a queue at a time (None: no limit). `budget`: whether an order that used
    up its policy's budget ends FAILED."""

    overhead: Overhead = field(default_factory=Overhead)
    shards: int = 1
    workers: int = 1
    slots: int | None = None
    budget: bool = False


@dataclass
class Run:
    """One order's run. `state` and `ended` [s] are None while it is open."""

    order_id: str
    began: float
    ended: float | None = None
    state: str | None = None


class _GaveUp(Exception):
    """A step used up its tries, or a round of shipping ran out of time."""


class World:
    """The clock, the shards, the provider, the orders, and what was recorded of them.

    `runs`: one for each order that has begun, in the order of their beginnings. `tries`: what was tried. Times are in
    seconds since the beginning, when the plan came into force.
    """

    def __init__(
        self,
        policy: Policy,
        faults: Faults,
        steps: Sequence[str] | Part,
        seed: int,
        setting: Setting,
        under: FaultPlan | None = None,
    ) -> None:
        """`under`: the plan whose outages and capacity apply, where `faults` are calls. Raises BadInput."""
        self._policy, self._seed, self._setting = policy, seed, setting
        self._overhead = setting.overhead
        self._loop = Loop()
        lags = Random(f"lags-{seed}")
        self._shards = [
            TimerQueue(self._loop.call_at, partial(about, self._overhead.execution / 2, lags))
            for _ in range(setting.shards)
        ]
        if not isinstance(steps, Part):
            if not steps:
                raise BadInput("A chain needs at least one step.")
            steps = in_a_row(faults if isinstance(faults, Mapping) else steps)
        self._chain = steps
        names = sorted({step.name for step in steps_of(steps)})
        if under is None and isinstance(faults, FaultPlan):
            under = faults
        self._provider = Provider(_calls(policy, faults, names), under)
        self.tries = Tries(self._loop, policy, self._provider, self._overhead, setting.slots)
        # An order's overhead is spent where its workflow runs: at its start and after each step.
        self._pause = self._overhead.order / (1 + sum(1 for _ in steps_of(steps)))
        # Where the server retries nothing and cuts nothing off, its timers wake nobody, and need not be played.
        self._timed = policy.child_run_timeout is not None or any(
            policy.retry_of(name).placement is Placement.SERVER for name in names
        )
        self.runs: list[Run] = []

    @property
    def now(self) -> float:
        return self._loop.now

    # --- arrivals --------------------------------------------------------------------------------------------

    def play(self, orders: int, at_once: int) -> None:
        """Run `orders` orders, so many at a time, to their ends."""
        left = iter(range(orders))
        self._loop.run(all_of([self._loop.start(self._one_by_one(left)) for _ in range(min(at_once, orders))]))
        self._loop.close()

    def play_at(self, rate: float, orders: int) -> None:
        """Run `orders` orders that begin at random times, so many a second, to their ends."""
        over = Event()
        self._loop.start(self._arriving(self.gaps(rate, orders), over))
        self._loop.run(over)
        self._loop.close()

    def open(self, gaps: Iterable[float]) -> None:
        """Let orders begin: each so many seconds after the one before. Time passes in `run_to`."""
        self._loop.start(self._arriving(gaps, Event()))

    def run_to(self, end: float) -> None:
        """Let time pass until `end` [s]."""
        self._loop.run(end=end)

    def close(self) -> None:
        """The orders that are open stay open for ever."""
        self._loop.close()

    def gaps(self, rate: float, orders: int | None = None, *, even: bool = False) -> Iterator[float]:
        """The times between beginnings of orders, so many a second: random, or `even`. `orders`: None for no end."""
        arrivals = Random(f"arrivals-{self._seed}")
        for _ in repeat(None) if orders is None else range(orders):
            yield 1 / rate if even else arrivals.expovariate(rate)

    def _arriving(self, gaps: Iterable[float], over: Event) -> Process:
        tasks = []
        for number, gap in enumerate(gaps):
            yield gap
            tasks.append(self._loop.start(self._order(number)))
        all_of(tasks).then(over.set)

    def _one_by_one(self, left: Iterator[int]) -> Process:
        for number in left:
            yield from self._order(number)

    # --- an order --------------------------------------------------------------------------------------------

    def _order(self, number: int) -> Process:
        order = Order(
            f"order-{number:06d}", Random(f"{self._seed}-{number}"), Random(f"{self._seed}-{number}-other"),
            worker=number % self._setting.workers,
        )  # fmt: skip
        shard = self._shard(order)
        run = Run(order.id, self._loop.now)
        self.runs.append(run)
        if self._setting.budget:
            done = yield from self._within_budget(order, shard)
        else:
            done = yield from self._whole(order, shard)
        # The closed workflow's task is read, too.
        shard.read(self._loop.now)
        run.ended, run.state = self._loop.now, "COMPLETED" if done else "FAILED"

    def _whole(self, order: Order, shard: TimerQueue) -> Process:
        """All that an order does. Whether it completes."""
        yield from self._workflow_task(order, shard)
        return (yield from self._branch(order, self._chain, shard))

    def _within_budget(self, order: Order, shard: TimerQueue) -> Process:
        """The same, until the budget ends. What goes on then is stopped, as far as it is not the provider's."""
        ended = Event()
        task = self._loop.start(self._whole(order, shard))
        task.then(partial(pass_on, task, ended))
        self._loop.call_at(self._loop.now + self._policy.budget, ended.set)
        try:
            yield ended
        finally:
            task.cancel()
        return bool(ended.value)

    def _shard(self, order: Order) -> TimerQueue:
        """A workflow's id decides its shard. Each round of shipping is a workflow of its own."""
        return order.other_luck.choice(self._shards)

    def _workflow_task(self, order: Order, shard: TimerQueue) -> Process:
        """The workflow takes its next turn. The server sets two timers for the task, and a queue of the shard reads it.

        The wait comes before the read: on a busy machine all processes wait for a core, the server's queue too.
        """
        if self._timed:
            now = self._loop.now
            shard.add(now + STICKY_TIMEOUT, _nothing)
            shard.add(now + WORKFLOW_TASK_TIMEOUT, _nothing)
        yield about(self._pause, order.other_luck)
        shard.read(self._loop.now)

    def _part(self, order: Order, part: Part, shard: TimerQueue) -> Process:
        match part:
            case Step():
                if not (yield from self.tries.step(order, part, shard)):
                    raise _GaveUp
                yield from self._workflow_task(order, shard)
            case Measured(_, seconds):
                yield order.luck.choice(seconds)
            case Series(parts):
                for one in parts:
                    yield from self._part(order, one, shard)
            case Rounds(body):
                yield from self._rounds(order, body, shard)
            case Choice(options, shares):
                (one,) = order.luck.choices(options, shares)
                yield from self._part(order, one, shard)
            case Repeat(body, times):
                for _ in range(order.luck.choice(times)):
                    yield from self._part(order, body, shard)
            case Parallel(branches):
                yield from self._side_by_side(order, branches, shard)

    def _side_by_side(self, order: Order, branches: Sequence[Part], shard: TimerQueue) -> Process:
        tasks = [self._loop.start(self._branch(order, one, shard)) for one in branches]
        try:
            yield all_of(tasks)
        finally:
            for task in tasks:
                task.cancel()
        if not all(task.value for task in tasks):
            raise _GaveUp

    def _branch(self, order: Order, part: Part, shard: TimerQueue) -> Process:
        """Whether a part succeeds."""
        try:
            yield from self._part(order, part, shard)
        except _GaveUp:
            return False
        return True

    def _rounds(self, order: Order, body: Part, parent: TimerQueue) -> Process:
        for order.round in range(1, self._policy.dispatch_retries + 2):
            child = self._shard(order)
            # The parent's task starts the child, and the child's start is a task for the parent.
            parent.read(self._loop.now)
            child.read(self._loop.now)
            ended = Event()
            task = self._loop.start(self._branch(order, body, child))
            task.then(partial(pass_on, task, ended))
            if self._policy.child_run_timeout is not None:
                child.add(self._loop.now + self._policy.child_run_timeout, ended.set)
            try:
                yield ended
            finally:
                task.cancel()
            if ended.value:
                order.round = 0
                return
            parent.read(self._loop.now)
            yield self._overhead.round if order.round <= self._policy.dispatch_retries else 0.0
        raise _GaveUp


def _calls(policy: Policy, faults: Faults, names: Sequence[str]) -> Mapping[str, Calls]:
    """The calls of these steps. Raises BadInput where a step has none, or its orders would never end."""
    if isinstance(faults, Mapping):
        calls = {str(step): one.check() for step, one in faults.items()}
        if missing := [name for name in names if name not in calls]:
            raise BadInput(f"There are no calls for step {missing[0]!r}.")
    else:
        plan = FaultPlan.canonical() if faults is None else faults
        calls = {name: Calls.planned(plan, name) for name in names}
    for name in names:
        works, _, _ = calls[name].under(policy.retry_of(name).try_timeout)
        if sum(share for share, _ in works) <= 0 and not policy.retry_of(name).max_tries:
            raise BadInput(f"No call of {name} ever works, and its tries have no limit: no order would end.")
    return calls


def _nothing() -> None:
    """A timer for something that ended before it."""

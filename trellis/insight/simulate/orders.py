"""Orders as processes on one clock: the steps of their chain, each tried under its retry rule, shipping in rounds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from random import Random
from typing import Any

import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Faults, Overhead
from trellis.insight.chain import (
    ORDER,
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
from trellis.insight.frames import OUTCOMES
from trellis.insight.server_timers import STICKY_TIMEOUT, WORKFLOW_TASK_TIMEOUT, TimerQueue
from trellis.insight.simulate.loop import Event, Loop, Process, Task
from trellis.insight.simulate.provider import Outcome, Provider
from trellis.outages import HOW
from trellis.policies import Placement, Policy, Retry

_EPOCH = pd.Timestamp("2000-01-01", tz="UTC")
_OVERHEAD = Overhead()


@dataclass(frozen=True)
class Simulated:
    """`attempts`: a row for each try, with the columns of `insight.attempts`. `runs`: a row for each order.

    Columns of `runs`: order_id [string], state [category: COMPLETED or FAILED], policy [category], policy_json [string
    of JSON], created_at, ended_at [UTC], seconds, waited [float; nobody waits for a person here, so 0].
    """

    attempts: pd.DataFrame
    runs: pd.DataFrame


def simulate(
    policy: Policy,
    faults: Faults = None,
    *,
    orders: int,
    at_once: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    shards: int = 1,
    steps: Sequence[str] | Part = ORDER,
    overhead: Overhead = _OVERHEAD,
) -> Simulated:
    """Play `orders` orders, each approved at once, call by call.

    `at_once`: so many run at a time, and a new one begins when one ends. `rate`: instead of that, orders begin at
    random times, so many a second. Neither: one at a time. `shards`: the server's history shards; a development server
    has one. `steps` as for `predict`: names in a row, where those of the shipping workflow run in rounds, or a chain.

    The same seed gives each order the same luck, whatever the policy. Not simulated: the order's budget, a review, and
    the wait for a core (see `queued`, which turns it into overhead). Raises BadInput and ConfigError as `predict` does.
    """
    if (
        orders < 1
        or shards < 1
        or (at_once is not None and at_once < 1)
        or (rate is not None and not 0 < rate < math.inf)
    ):
        raise BadInput("A simulation needs at least one order and one shard, and a rate above 0.")
    if at_once is not None and rate is not None:
        raise BadInput("Give at_once or rate, not both: orders begin when others end, or at random times.")
    policy.check()
    world = _World(policy, faults, steps, shards, seed, overhead)
    return world.play(orders, at_once or 1, rate)


class _GaveUp(Exception):
    """A step used up its tries, or a round of shipping ran out of time."""


@dataclass
class _Order:
    id: str
    luck: Random
    other_luck: Random
    round: int = 0


class _World:
    """The clock, the shards, the provider, and what was recorded."""

    def __init__(
        self, policy: Policy, faults: Faults, steps: Sequence[str] | Part, shards: int, seed: int, overhead: Overhead
    ) -> None:
        self._policy, self._seed, self._overhead = policy, seed, overhead
        self._loop = Loop()
        lags = Random(f"lags-{seed}")
        self._shards = [
            TimerQueue(self._loop.call_at, partial(_about, overhead.execution / 2, lags)) for _ in range(shards)
        ]
        if not isinstance(steps, Part):
            if not steps:
                raise BadInput("A chain needs at least one step.")
            steps = in_a_row(faults if isinstance(faults, Mapping) else steps)
        self._chain = steps
        names = {step.name for step in steps_of(steps)}
        if isinstance(faults, Mapping):
            calls = {str(step): one.check() for step, one in faults.items()}
            if missing := sorted(names - calls.keys()):
                raise BadInput(f"There are no calls for step {missing[0]!r}.")
        else:
            plan = FaultPlan.canonical() if faults is None else faults
            calls = {name: Calls.planned(plan, name) for name in names}
        for name in sorted(names):
            works, _, _ = calls[name].under(policy.retry_of(name).try_timeout)
            if sum(share for share, _ in works) <= 0 and not policy.retry_of(name).max_tries:
                raise BadInput(f"No call of {name} ever works, and its tries have no limit: no order would end.")
        self._provider = Provider(calls)
        # An order's overhead is spent where its workflow runs: at its start and after each step.
        self._pause = overhead.order / (1 + sum(1 for _ in steps_of(steps)))
        self._tries: list[tuple[Any, ...]] = []
        self._runs: list[tuple[Any, ...]] = []

    # --- arrivals --------------------------------------------------------------------------------------------

    def play(self, orders: int, at_once: int, rate: float | None) -> Simulated:
        arrivals = Random(f"arrivals-{self._seed}")
        if rate is not None:
            begin = 0.0
            tasks = []
            for number in range(orders):
                begin += arrivals.expovariate(rate)
                tasks.append(self._loop.start(self._later(begin, number)))
        else:
            left = iter(range(orders))
            tasks = [self._loop.start(self._lane(left)) for _ in range(min(at_once, orders))]
        self._loop.run(_all(tasks))
        return self._recorded()

    def _later(self, begin: float, number: int) -> Process:
        yield begin
        yield from self._order(number)

    def _lane(self, left: Iterator[int]) -> Process:
        for number in left:
            yield from self._order(number)

    # --- an order --------------------------------------------------------------------------------------------

    def _order(self, number: int) -> Process:
        order = _Order(f"order-{number:06d}", Random(f"{self._seed}-{number}"), Random(f"{self._seed}-{number}-other"))
        shard = self._shard(order)
        began = self._loop.now
        state = "COMPLETED"
        try:
            yield from self._workflow_task(order, shard)
            yield from self._part(order, self._chain, shard)
        except _GaveUp:
            state = "FAILED"
        # The closed workflow's task is read, too.
        shard.read(self._loop.now)
        self._runs.append((order.id, state, began, self._loop.now))

    def _shard(self, order: _Order) -> TimerQueue:
        """A workflow's id decides its shard. Each round of shipping is a workflow of its own."""
        return order.other_luck.choice(self._shards)

    def _workflow_task(self, order: _Order, shard: TimerQueue) -> Process:
        """The workflow takes its next turn. The server sets two timers for the task, and a queue of the shard reads it.

        The wait comes before the read: on a busy machine all processes wait for a core, the server's queue too.
        """
        now = self._loop.now
        shard.add(now + STICKY_TIMEOUT, _nothing)
        shard.add(now + WORKFLOW_TASK_TIMEOUT, _nothing)
        yield self._about(self._pause, order)
        shard.read(self._loop.now)

    def _about(self, mean: float, order: _Order) -> float:
        return _about(mean, order.other_luck)

    def _part(self, order: _Order, part: Part, shard: TimerQueue) -> Process:
        match part:
            case Step():
                if not (yield from self._step(order, part, shard)):
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
                tasks = [self._loop.start(self._branch(order, one, shard)) for one in branches]
                yield _all(tasks)
                if not all(task.value for task in tasks):
                    raise _GaveUp

    def _branch(self, order: _Order, part: Part, shard: TimerQueue) -> Process:
        try:
            yield from self._part(order, part, shard)
        except _GaveUp:
            return False
        return True

    def _rounds(self, order: _Order, body: Part, parent: TimerQueue) -> Process:
        for order.round in range(1, self._policy.dispatch_retries + 2):
            child = self._shard(order)
            # The parent's task starts the child, and the child's start is a task for the parent.
            parent.read(self._loop.now)
            child.read(self._loop.now)
            ended = Event()
            task = self._loop.start(self._branch(order, body, child))
            task.then(partial(_pass_on, task, ended))
            if self._policy.child_run_timeout is not None:
                child.add(self._loop.now + self._policy.child_run_timeout, ended.set)
            yield ended
            task.cancel()
            if ended.value:
                order.round = 0
                return
            parent.read(self._loop.now)
            yield self._overhead.round if order.round <= self._policy.dispatch_retries else 0.0
        raise _GaveUp

    # --- a step ----------------------------------------------------------------------------------------------

    def _step(self, order: _Order, step: Step, shard: TimerQueue) -> Process:
        """Whether the step succeeds."""
        retry = self._policy.retry_of(step.name)
        if retry.placement is Placement.SERVER:
            return (yield from self._executions(order, step, retry, shard))
        if retry.hedge == 1:
            return (yield from self._lane_of_tries(order, step, retry, 0, []))
        return (yield from self._hedged(order, step, retry))

    def _call(self, order: _Order, step: Step, retry: Retry) -> tuple[Outcome, float]:
        """(how a call that begins now ends if nobody cuts it off, seconds it takes)."""
        outcome, seconds = self._provider.call(step.name, self._loop.now, order.luck)
        if step.only_retries and outcome is Outcome.SUCCEEDED and seconds < retry.try_timeout:
            # The time of good calls is in another part of the chain.
            return outcome, 0.0
        return outcome, seconds

    def _executions(self, order: _Order, step: Step, retry: Retry, shard: TimerQueue) -> Process:
        """The server repeats the step: each try is an execution, and its timeout and its backoff are server timers."""
        execution = 0
        while True:
            execution += 1
            began = self._loop.now
            outcome, seconds = self._call(order, step, retry)
            timed_out = Event()
            # The timer stays in the queue when the try ends before it.
            shard.add(began + retry.try_timeout, timed_out.set)
            if seconds < retry.try_timeout:
                yield seconds
            else:
                outcome = Outcome.TIMED_OUT
                yield timed_out
            ended = began + min(seconds, retry.try_timeout)
            self._tries.append((order.id, step.name, order.round, execution, 1, 0, outcome, began, ended))
            if outcome is Outcome.SUCCEEDED:
                return True
            if execution == retry.max_tries:
                return False
            # The failure is on its way to the server, and then the retry on its way to the worker. The server notices a
            # timeout itself.
            way = self._overhead.execution / 2
            yield self._about(way, order) if outcome is Outcome.FAILED else 0.0
            again = Event()
            shard.add(self._loop.now + max(retry.backoff(execution, 1.0), _SHORTEST_BACKOFF), again.set)
            yield again
            yield self._about(way if outcome is Outcome.FAILED else 2 * way, order)

    def _lane_of_tries(
        self, order: _Order, step: Step, retry: Retry, lane: int, running: list[tuple[int, int, float]]
    ) -> Process:
        """The worker repeats the step. `running` holds the try in progress: (number, lane, its beginning)."""
        number = 0
        while True:
            number += 1
            began = self._loop.now
            outcome, seconds = self._call(order, step, retry)
            if seconds >= retry.try_timeout:
                outcome, seconds = Outcome.TIMED_OUT, retry.try_timeout
            running.append((number, lane, began))
            yield seconds
            running.remove((number, lane, began))
            self._tries.append((order.id, step.name, order.round, 1, number, lane, outcome, began, self._loop.now))
            if outcome is Outcome.SUCCEEDED:
                return True
            if number == retry.max_tries:
                return False
            yield retry.backoff(number, order.luck.random())

    def _hedged(self, order: _Order, step: Step, retry: Retry) -> Process:
        """Several lanes at once. The first success ends the step and the tries of the others."""
        running: list[tuple[int, int, float]] = []
        over = Event()
        lanes = [
            self._loop.start(self._lane_of_tries(order, step, retry, lane, running)) for lane in range(retry.hedge)
        ]
        for one in lanes:
            one.then(partial(_pass_on_success, one, over))
        _all(lanes).then(lambda: over.set(False))
        yield over
        for one in lanes:
            one.cancel()
        for number, lane, began in running:
            tried = (order.id, step.name, order.round, 1, number, lane, Outcome.ABANDONED, began, self._loop.now)
            self._tries.append(tried)
        return over.value

    # --- frames ----------------------------------------------------------------------------------------------

    def _recorded(self) -> Simulated:
        names = ["order_id", "step", "round", "execution", "try", "lane", "outcome", "began", "ended"]
        tries = pd.DataFrame(self._tries, columns=names).sort_values(["order_id", "began"], kind="stable")
        tries["attempt"] = tries.groupby(["order_id", "step"]).cumcount() + 1
        attempts = pd.DataFrame({
            "order_id": tries["order_id"].astype(pd.StringDtype("pyarrow")), "step": tries["step"].astype("category"),
            **{name: tries[name].astype("Int32") for name in ("attempt", "round", "execution", "try", "lane")},
            "outcome": pd.Categorical(tries["outcome"].map(str), categories=OUTCOMES),
            "started_at": _times(tries["began"]), "ended_at": _times(tries["ended"]),
            "duration_ms": (tries["ended"] - tries["began"]) * 1000,
            "error": pd.Series(pd.NA, index=tries.index, dtype=pd.StringDtype("pyarrow")),
            "worker": pd.Categorical(["simulated"] * len(tries)), "skewed": False,
            "outage": pd.Categorical([None] * len(tries), categories=list(HOW)), "queued": math.nan,
        }).reset_index(drop=True)  # fmt: skip
        runs = pd.DataFrame(self._runs, columns=["order_id", "state", "began", "ended"]).sort_values("order_id")
        return Simulated(attempts, pd.DataFrame({
            "order_id": runs["order_id"].astype(pd.StringDtype("pyarrow")), "state": runs["state"].astype("category"),
            "policy": pd.Categorical([self._policy.name] * len(runs)),
            "policy_json": json.dumps(asdict(self._policy)),
            "created_at": _times(runs["began"]), "ended_at": _times(runs["ended"]),
            "seconds": runs["ended"] - runs["began"], "waited": 0.0,
        }).reset_index(drop=True))  # fmt: skip


_SHORTEST_BACKOFF = 0.001
"""The shortest backoff that a workflow asks the server for [s]."""


def _all(tasks: Sequence[Task]) -> Event:
    """The event that the last of these has ended."""
    over, left = Event(), len(tasks)

    def one() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            over.set()

    for task in tasks:
        task.then(one)
    return over


def _times(seconds: pd.Series[Any]) -> pd.Series[Any]:
    return (_EPOCH + pd.to_timedelta(seconds, unit="s")).astype("datetime64[us, UTC]")


def _about(mean: float, luck: Random) -> float:
    """A time with this mean. If it were constant, orders that began together would never drift apart."""
    return luck.expovariate(1 / mean) if mean > 0 else 0.0


def _pass_on(task: Task, to: Event) -> None:
    to.set(task.value)


def _pass_on_success(task: Task, to: Event) -> None:
    if task.value:
        to.set(True)


def _nothing() -> None:
    """A timer for something that ended before it."""

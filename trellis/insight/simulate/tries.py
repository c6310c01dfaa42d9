"""The tries of one step, repeated as its retry rule says: by the server, by the worker, or by the worker in lanes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from trellis.governor import Governor
from trellis.insight.calls import Overhead
from trellis.insight.chain import Step
from trellis.insight.server_timers import TimerQueue
from trellis.insight.simulate.loop import Event, Loop, Places, Process, Task
from trellis.insight.simulate.provider import Call, Outcome, Provider
from trellis.model import STEPS
from trellis.policies import Placement, Policy, Retry

SHORTEST_BACKOFF = 0.001
"""The shortest backoff that a workflow asks the server for [s]."""

FIELDS = (
    "order_id", "step", "round", "execution", "try", "lane", "outcome", "began", "ended", "outage", "queued",
)  # fmt: skip
"""What is recorded of a try. `began`, `ended`: simulated time [s]."""

_QUEUES: Mapping[str, str] = {str(step): info.queue for step, info in STEPS.items()}


@dataclass
class Order:
    """An order under way. `luck`: how its calls end. `other_luck`: all else that is random. `worker`: who serves it."""

    id: str
    luck: Random
    other_luck: Random
    round: int = 0
    worker: int = 0


class Tries:
    """Tries each step, and keeps what was tried: `recorded` holds `FIELDS` for each try that ended, and `begun` the
    times at which the calls of each step began."""

    def __init__(self, loop: Loop, policy: Policy, provider: Provider, overhead: Overhead, slots: int | None) -> None:
        """`slots`: how many activities of a queue a worker runs at a time; None for no limit."""
        self._loop, self._policy, self._provider, self._overhead = loop, policy, provider, overhead
        self._slots = slots
        self._places: dict[tuple[str, int], Places] = {}
        self._governors: dict[tuple[str, int], Governor] = {}
        self._probing: set[Governor] = set()
        self.recorded: list[tuple[Any, ...]] = []
        self.begun: dict[str, list[float]] = {}

    def step(self, order: Order, step: Step, shard: TimerQueue) -> Process:
        """Whether the step succeeds."""
        retry = self._policy.retry_of(step.name)
        if retry.placement is Placement.SERVER:
            return (yield from self._executions(order, step, retry, shard))
        if retry.hedge == 1:
            return (yield from self._in_a_slot(order, step, self._lane(order, step, retry, 0, [])))
        return (yield from self._in_a_slot(order, step, self._hedged(order, step, retry)))

    def _in_a_slot(self, order: Order, step: Step, process: Process) -> Process:
        """An activity holds a slot of its worker from its start to its end."""
        queue = _QUEUES.get(step.name)
        if self._slots is None or queue is None:
            return (yield from process)
        if (places := self._places.get((queue, order.worker))) is None:
            places = self._places[queue, order.worker] = Places(self._slots)
        yield from places.enter()
        try:
            return (yield from process)
        finally:
            places.leave()

    def _call(self, order: Order, step: Step, retry: Retry) -> Call:
        """A call that begins now."""
        self.begun.setdefault(step.name, []).append(self._loop.now)
        call = self._provider.call(step.name, self._loop.now, order.luck)
        if step.only_retries and call.outcome is Outcome.SUCCEEDED and call.seconds < retry.try_timeout:
            # The time of good calls is in another part of the chain.
            return call._replace(seconds=0.0)
        return call

    def _record(
        self, order: Order, step: Step, which: tuple[int, int, int], outcome: Outcome, began: float, ended: float,
        call: Call,
    ) -> None:  # fmt: skip
        """Keep a try. `which`: (execution, try, lane)."""
        self.recorded.append(
            (order.id, step.name, order.round, *which, outcome, began, ended, call.outage, call.queued)
        )

    # --- by the server ---------------------------------------------------------------------------------------

    def _executions(self, order: Order, step: Step, retry: Retry, shard: TimerQueue) -> Process:
        """The server repeats the step: each try is an execution, and its timeout and its backoff are server timers."""
        execution = 0
        while True:
            execution += 1
            outcome = yield from self._in_a_slot(order, step, self._execution(order, step, retry, shard, execution))
            if outcome is Outcome.SUCCEEDED:
                return True
            if execution == retry.max_tries:
                return False
            # The failure is on its way to the server, and then the retry on its way to the worker. The server notices a
            # timeout itself.
            way = self._overhead.execution / 2
            yield about(way, order.other_luck) if outcome is Outcome.FAILED else 0.0
            again = Event()
            shard.add(self._loop.now + max(retry.backoff(execution, 1.0), SHORTEST_BACKOFF), again.set)
            yield again
            yield about(way if outcome is Outcome.FAILED else 2 * way, order.other_luck)

    def _execution(self, order: Order, step: Step, retry: Retry, shard: TimerQueue, execution: int) -> Process:
        """One try. How it ended."""
        began = self._loop.now
        call = self._call(order, step, retry)
        outcome, seconds = call.outcome, call.seconds
        timed_out = Event()
        # The timer stays in the queue when the try ends before it.
        shard.add(began + retry.try_timeout, timed_out.set)
        if seconds < retry.try_timeout:
            yield seconds
        else:
            outcome = Outcome.TIMED_OUT
            yield timed_out
        ended = began + min(seconds, retry.try_timeout)
        self._record(order, step, (execution, 1, 0), outcome, began, ended, call)
        return outcome

    # --- by the worker ---------------------------------------------------------------------------------------

    def _lane(
        self, order: Order, step: Step, retry: Retry, lane: int, running: list[tuple[int, int, float, Call]]
    ) -> Process:
        """The worker repeats the step. `running` holds the try in progress: (number, lane, its beginning, its call)."""
        governor = self._governor(order, step, retry)
        number = 0
        while True:
            number += 1
            if governor is not None:
                # Only the first call of the first lane is free, as in a worker.
                if number == 1 and lane == 0:
                    governor.first(self._loop.now)
                else:
                    yield from self._turn(governor)
            began = self._loop.now
            call = self._call(order, step, retry)
            outcome, seconds = call.outcome, call.seconds
            if seconds >= retry.try_timeout:
                outcome, seconds = Outcome.TIMED_OUT, retry.try_timeout
            mine = (number, lane, began, call)
            running.append(mine)
            yield seconds
            running.remove(mine)
            self._record(order, step, (1, number, lane), outcome, began, self._loop.now, call)
            if outcome is Outcome.SUCCEEDED:
                if governor is not None:
                    governor.succeeded(self._loop.now, retried=number > 1 or lane > 0)
                return True
            if governor is not None:
                governor.failed(self._loop.now)
            if number == retry.max_tries:
                return False
            draw = order.luck.random()
            yield retry.backoff(number, draw) if governor is None else governor.pause(retry, number, draw)

    def _governor(self, order: Order, step: Step, retry: Retry) -> Governor | None:
        """The governor of the step in the order's worker. None: the rule has no use for one."""
        if not retry.governed:
            return None
        key = step.name, order.worker
        if key not in self._governors:
            self._governors[key] = Governor(retry)
        return self._governors[key]

    def _turn(self, governor: Governor) -> Process:
        """Wait until the retry budget lets a retry begin."""
        go = Event()
        turn = governor.ask(self._loop.now, go.set)
        if turn is None:
            return
        if governor not in self._probing:
            self._probe_later(governor)
        try:
            yield go
        except GeneratorExit:
            governor.leave(turn, self._loop.now)
            raise

    def _probe_later(self, governor: Governor) -> None:
        """Let the governor probe for as long as somebody waits."""
        if (at := governor.probe_at) is not None:
            self._probing.add(governor)
            self._loop.call_at(at, partial(self._probe, governor))

    def _probe(self, governor: Governor) -> None:
        self._probing.discard(governor)
        governor.probe(self._loop.now)
        self._probe_later(governor)

    def _hedged(self, order: Order, step: Step, retry: Retry) -> Process:
        """Several lanes at once. The first success ends the step and the tries of the others."""
        running: list[tuple[int, int, float, Call]] = []
        over = Event()
        lanes = [self._loop.start(self._lane(order, step, retry, lane, running)) for lane in range(retry.hedge)]
        for one in lanes:
            one.then(partial(_pass_on_success, one, over))
        all_of(lanes).then(lambda: over.set(False))
        try:
            yield over
        finally:
            # Also when the order's time is up: nobody else ends the lanes.
            for one in lanes:
                one.cancel()
        for number, lane, began, call in running:
            self._record(order, step, (1, number, lane), Outcome.ABANDONED, began, self._loop.now, call)
        return over.value


def about(mean: float, luck: Random) -> float:
    """A time with this mean. If it were constant, orders that began together would never drift apart."""
    return luck.expovariate(1 / mean) if mean > 0 else 0.0


def all_of(tasks: list[Task]) -> Event:
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


def pass_on(task: Task, to: Event) -> None:
    to.set(task.value)


def _pass_on_success(task: Task, to: Event) -> None:
    if task.value:
        to.set(True)

"""A small discrete-event simulator of workflows: programs, retries, hedged lanes, and calls that fail.

It uses none of the package's formulas, so that advice can be judged by it. A program is a generator that works with its
`Run`, as workflow code works with Temporal: `yield from run.activity("charge")`. How calls behave is one function,
`calls(world, run, step, attempt)`, which returns ("ok" or "error", seconds); endless seconds are a call that hangs.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

SERVER_FLOOR = 1.0
"""The shortest timer of Temporal's server [s], as measured on a real one."""

AFTER_TIMEOUT = (0.7, 1.0)
"""After a timeout the server's next timer is set when its queue has just been read, and fires earlier [s]. The means
measured on a real one were 0.74 to 0.88 (docs/benchmarks.md)."""

Wait = Generator[Any, Any, Any]
Calls = Callable[["World", "Run", str, int], tuple[str, float]]
Program = Callable[["Run"], Wait]


@dataclass(frozen=True)
class Rule:
    """A retry rule. Times in seconds. `max_tries` 0: no limit. `by_server`: Temporal retries, else a loop does."""

    timeout: float
    first: float
    most: float
    multiplier: float = 2.0
    jitter: bool = False
    max_tries: int = 0
    by_server: bool = False
    lanes: int = 1


SWIFT = Rule(0.25, 0.005, 0.05, jitter=True)
PATIENT = Rule(2.0, 0.005, 0.2, by_server=True)


class GaveUp(Exception):
    """A step used up its tries."""


class Latch:
    """Something to wait for. `open` lets all go on that wait."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: list[Wait] = []
        self.is_open = False
        self.value: Any = None

    def open(self, value: Any = None) -> None:
        if self.is_open:
            return
        self.is_open, self.value = True, value
        for one in self._waiting:
            self._world.later(0.0, one)

    def add(self, one: Wait) -> None:
        if self.is_open:
            self._world.later(0.0, one)
        else:
            self._waiting.append(one)


@dataclass
class Try:
    """One attempt, as it truly was. `needed`: the seconds after which its call would have ended by itself."""

    run: Run
    step: str
    item: Item
    number: int
    lane: int
    started: float
    ended: float
    outcome: str
    worker: str
    needed: float = 0.0


@dataclass
class Item:
    """What a history shows of an activity, a timer, a signal and so on. `tries`: the attempts of an activity."""

    run: Run
    kind: str
    name: str
    event: int
    task: int | None
    scheduled: float
    ended: float = math.inf
    outcome: str = "open"
    rule: Rule | None = None
    tries: list[Try] = field(default_factory=list)


class World:
    """Runs of one program, with a clock of their own.

    `rules`: the retry rule of each step by name; `rule` is that of the others. `gap`: mean seconds between two steps of
    a run. `at_once` or `rate`: how many runs are open at a time, or how many begin each second.
    """

    def __init__(
        self,
        program: Program,
        calls: Calls,
        rule: Rule,
        rules: dict[str, Rule] | None = None,
        *,
        seed: int = 0,
        gap: float = 0.02,
    ) -> None:
        self.program, self.calls, self.rule, self.rules = program, calls, rule, rules or {}
        self.random = random.Random(seed)
        self.gap = gap
        self.now = 0.0
        self.runs: list[Run] = []
        self.state: dict[str, Any] = {}
        self._events: list[tuple[float, int, Wait]] = []
        self._numbers = count()

    def simulate(self, runs: int, *, at_once: int | None = None, rate: float | None = None) -> World:
        """`runs` runs until all have ended. Where they overload the provider for ever, the world ends with runs open:
        one minute after the last arrival."""
        end = math.inf
        if rate is not None:
            end = runs / rate + 60.0
            self.later(0.0, self._arrivals(runs, rate))
        else:
            left = iter(range(runs))
            for _ in range(min(runs, at_once or 10)):
                self.later(0.0, self._one_after_another(left))
        while self._events and self._events[0][0] <= end:
            self.now, _, one = heapq.heappop(self._events)
            self.resume(one)
        return self

    def rule_of(self, step: str) -> Rule:
        return self.rules.get(step, self.rule)

    def later(self, seconds: float, one: Wait) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), one))

    def resume(self, one: Wait) -> None:
        try:
            found = next(one)
        except StopIteration:
            return
        if isinstance(found, Latch):
            found.add(one)
        elif not math.isinf(found):
            self.later(found, one)

    def start(self, program: Program, kind: str = "Workflow", parent: Run | None = None) -> Run:
        run = Run(self, len(self.runs), kind, parent)
        self.runs.append(run)
        self.later(0.0, run.live(program))
        return run

    def _arrivals(self, runs: int, rate: float) -> Wait:
        for _ in range(runs):
            self.start(self.program)
            yield self.random.expovariate(rate)

    def _one_after_another(self, left: Iterable[int]) -> Wait:
        for _ in left:
            run = self.start(self.program)
            yield run.over


class Run:
    """One workflow run. `traits`: whatever calls or programs note about it."""

    def __init__(self, world: World, number: int, kind: str, parent: Run | None) -> None:
        self.world, self.number, self.kind, self.parent = world, number, kind, parent
        self.over = Latch(world)
        self.started = world.now
        self.ended = math.inf
        self.outcome = "open"
        self.items: list[Item] = []
        self.traits: dict[str, Any] = {}
        self._event = 1
        self._task: int | None = None

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    @property
    def tries(self) -> list[Try]:
        return [one for item in self.items for one in item.tries]

    def live(self, program: Program) -> Wait:
        try:
            yield from self._workflow_task()
            yield from program(self)
            self.outcome = "succeeded"
        except GaveUp:
            self.outcome = "failed"
        self.ended = self.world.now
        self.over.open()

    def _workflow_task(self) -> Wait:
        """The wait between what happened and the commands that follow from it."""
        yield self.world.random.uniform(0.5, 1.5) * self.world.gap
        self._event += 3
        self._task = self._event

    def _item(self, kind: str, name: str, **more: Any) -> Item:
        self._event += 1
        item = Item(self, kind, name, self._event, self._task, self.world.now, **more)
        self.items.append(item)
        return item

    def _end(self, item: Item, outcome: str = "succeeded") -> None:
        item.ended, item.outcome = self.world.now, outcome
        self._event += 2

    def activity(self, name: str, rule: Rule | None = None) -> Wait:
        """Run an activity until it works. Raises GaveUp when its tries are used up."""
        found = rule or self.world.rule_of(name)
        item = self._item("activity", name, rule=found)
        race = _Race(self.world, found.lanes)
        for lane in range(found.lanes):
            self.world.resume(self._lane(item, name, found, lane, race))
        yield race.over
        self._end(item, "succeeded" if race.over.value else "failed")
        yield from self._workflow_task()
        if not race.over.value:
            raise GaveUp(name)

    def _lane(self, item: Item, name: str, rule: Rule, lane: int, race: _Race) -> Wait:
        world = self.world
        for number in count(1):
            started = world.now
            worker = f"worker-{world.random.randrange(4)}"
            self.traits["worker"] = worker
            kind, seconds = world.calls(world, self, name, number)
            attempt = Try(self, name, item, number, lane, started, math.inf, "open", worker, seconds)
            item.tries.append(attempt)
            race.flying[lane] = attempt
            cut = seconds >= rule.timeout
            limit = max(rule.timeout, SERVER_FLOOR) if rule.by_server else rule.timeout
            yield limit if cut else seconds
            if race.over.is_open:
                return
            attempt.ended = world.now
            attempt.outcome = "timed out" if cut else "succeeded" if kind == "ok" else "failed"
            del race.flying[lane]
            if attempt.outcome == "succeeded":
                race.won()
                return
            if rule.max_tries and number >= rule.max_tries:
                race.lost()
                return
            pause = min(rule.most, rule.first * rule.multiplier ** min(number - 1, 200))
            if rule.by_server:
                pause = max(pause, world.random.uniform(*AFTER_TIMEOUT) if cut else SERVER_FLOOR)
            yield pause * world.random.random() if rule.jitter else pause
            if race.over.is_open:
                return

    def together(self, *branches: Wait) -> Wait:
        """Branches that run side by side; goes on after the last one."""
        left = [len(branches)]
        done = Latch(self.world)
        broken: list[GaveUp] = []
        task = self._task

        def one(branch: Wait) -> Wait:
            # All first commands of the branches belong to the workflow task that began them.
            self._task = task
            try:
                yield from branch
            except GaveUp as error:
                broken.append(error)
            left[0] -= 1
            if not left[0]:
                done.open()

        for branch in branches:
            self.world.resume(one(branch))
        yield done
        if broken:
            raise broken[0]

    def timer(self, seconds: float, name: str = "1") -> Wait:
        item = self._item("timer", name)
        yield max(seconds, SERVER_FLOOR)
        self._end(item)
        yield from self._workflow_task()

    def signal(self, seconds: float, name: str = "go") -> Wait:
        """Wait for a signal that comes after `seconds`."""
        yield seconds
        item = Item(self, "signal", name, self._event + 1, None, self.world.now)
        self.items.append(item)
        self._event += 1
        self._end(item)
        yield from self._workflow_task()

    def local(self, name: str, attempts: int = 1) -> Wait:
        """A local activity: it runs inside the workflow task, and is shown with its last attempt."""
        item = self._item("local activity", name)
        for number in range(1, attempts + 1):
            started = self.world.now
            kind, seconds = self.world.calls(self.world, self, name, number)
            yield seconds
            ended, outcome = self.world.now, "succeeded" if kind == "ok" else "failed"
            item.tries.append(Try(self, name, item, number, 0, started, ended, outcome, "worker-0"))
            if kind == "ok":
                break
        self._end(item)

    def child(self, name: str, program: Program) -> Wait:
        item = self._item("child", name)
        run = self.world.start(program, name, self)
        yield run.over
        self._end(item, run.outcome)
        yield from self._workflow_task()
        if run.outcome != "succeeded":
            raise GaveUp(name)


class _Race:
    """The lanes of one activity: the first success ends it, and so does the last lane that gives up."""

    def __init__(self, world: World, lanes: int) -> None:
        self._world, self._left = world, lanes
        self.over = Latch(world)
        self.flying: dict[int, Try] = {}

    def won(self) -> None:
        for attempt in self.flying.values():
            attempt.ended, attempt.outcome = self._world.now, "abandoned"
        self.over.open(True)

    def lost(self) -> None:
        self._left -= 1
        if not self._left:
            self.over.open(False)

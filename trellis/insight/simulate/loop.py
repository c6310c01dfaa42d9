"""Processes that wait in simulated time: generators that yield the seconds or the event that they wait for."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Generator
from itertools import count
from typing import Any


class Event:
    """Something that happens once. `value` is what came with it."""

    def __init__(self) -> None:
        self.happened = False
        self.value: Any = None
        self._then: list[Callable[[], None]] = []

    def set(self, value: Any = None) -> None:
        """Let it happen. Only the first call counts."""
        if self.happened:
            return
        self.happened, self.value = True, value
        for do in self._then:
            do()

    def then(self, do: Callable[[], None]) -> None:
        """Call `do` when it happens, or now if it has happened."""
        if self.happened:
            do()
        else:
            self._then.append(do)


Process = Generator[float | Event, None, Any]
"""Yields seconds to wait, or an event to wait for. What it returns is the value of its end."""


class Task(Event):
    """A process that runs. The event is its end."""

    def __init__(self, loop: Loop, process: Process) -> None:
        super().__init__()
        self._loop, self._process, self._cancelled = loop, process, False
        self._resume()

    def cancel(self) -> None:
        """Stop it where it is. Its end does not happen."""
        self._cancelled = True
        self._process.close()

    def _resume(self) -> None:
        if self._cancelled or self._loop.over:
            return
        try:
            wait = next(self._process)
        except StopIteration as end:
            self.set(end.value)
            return
        if isinstance(wait, Event):
            wait.then(self._resume)
        else:
            self._loop.call_at(self._loop.now + wait, self._resume)


class Loop:
    """The simulated time [s], and what happens next. Two things at the same time happen in the order they were asked
    for, so that a run depends on its seed alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.over = False
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def call_at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (max(when, self.now), next(self._order), do))

    def start(self, process: Process) -> Task:
        return Task(self, process)

    def run(self, until: Event | None = None, end: float = math.inf) -> None:
        """Let time pass until `until` happens, until the time `end`, or until nothing is left that could happen."""
        while self._due and (until is None or not until.happened):
            if self._due[0][0] > end:
                self.now = end
                return
            self.now, _, do = heapq.heappop(self._due)
            do()

    def close(self) -> None:
        """Nothing happens any more. Without it, processes that are thrown away would wake those that wait for them."""
        self.over = True
        self._due.clear()


class Places:
    """So many processes may be inside at a time. The others wait in the order in which they came."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: deque[Event] = deque()

    def enter(self) -> Process:
        """Wait for a place, and take it. Give it back with `leave`."""
        if self._free:
            self._free -= 1
            return
        turn = Event()
        self._waiting.append(turn)
        try:
            yield turn
        except GeneratorExit:
            # Whoever waits here was cancelled. A place that it has just been given goes to the next.
            if turn.happened:
                self.leave()
            else:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1

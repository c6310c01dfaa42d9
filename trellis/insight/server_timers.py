"""How early and how late a timer of Temporal's server fires: the timer queue of one history shard.

A shard keeps its timers in a queue: retries of activities, timeouts of activities and of workflow tasks, timers of
workflows. It reads them from the database in ranges. A range that was read up to a time L can hold no new timer before
L, so a timer that is asked for an earlier time fires at L + 1 ms. L moves whenever one of the shard's queues reads its
tasks, not only the timer queue. It then becomes the time of the read + `timerProcessorMaxTimeShift` (1 s).

Two things follow. A timer shorter than a second fires one second after the shard's latest read, if that is later than
it asked for: an idle shard has just read the task that led to the timer, a busy shard reads many times a second, so
both fire after nearly 1 s. A shard in between fires it earlier. And each timer that fires outside of the range that was
read causes a read itself.

Source: temporalio/temporal 1.32, service/history/shard/task_key_manager.go (getExclusiveReaderHighWatermark moves L for
every category of tasks), task_key_generator.go (setTaskKeys), and service/history/queues/queue_scheduled.go.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from trellis.messages import TASK_TIMEOUT

MAX_TIME_SHIFT = 1.0
"""`history.timerProcessorMaxTimeShift` [s], as every server has it that nobody changed."""

PRECISION = 0.001
"""Timers are kept in whole milliseconds (`ScheduledTaskMinPrecision`)."""


STICKY_TIMEOUT = 1.0
WORKFLOW_TASK_TIMEOUT = TASK_TIMEOUT.total_seconds()
"""How long a workflow task may wait in its worker's own queue, and how long it may take [s]. The server sets a timer
for each, and the timer fires although the task is done. Both are what Trellis asks for."""


class TimerQueue:
    """The timers of one history shard. Its owner says what time it is, and calls `fires` for each timer in turn.

    `min_scheduled_time`: the earliest time that a new timer can have. `high_watermark`: the end of the range of timers
    that was read from the database. The names are those of the server's source.
    """

    def __init__(
        self, call_at: Callable[[float, Callable[[], None]], None], delay: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`call_at(when, do)`: calls `do` at the time `when` [s]. `delay()`: how late the gate opens [s]."""
        self._call_at = call_at
        self._delay = delay
        self.min_scheduled_time = -math.inf
        self.high_watermark = -math.inf

    def read(self, now: float) -> None:
        """One of the shard's queues reads its tasks."""
        self.min_scheduled_time = max(self.min_scheduled_time, now + MAX_TIME_SHIFT)

    def add(self, at: float, do: Callable[[], None]) -> None:
        """Ask for `do` at the time `at`. It is called then or later."""
        fires = (math.floor(at / PRECISION + 1e-6) + 1) * PRECISION
        if fires < self.min_scheduled_time:
            fires = self.min_scheduled_time + PRECISION
        self._call_at(fires, lambda: self._fire(fires, do))

    def _fire(self, now: float, do: Callable[[], None]) -> None:
        if now >= self.high_watermark:
            # The timer was not read yet: the gate opens, and the queue reads all timers of the next second.
            now += self._delay()
            self.read(now)
            self.high_watermark = self.min_scheduled_time
        # The queue runs a timer when its millisecond is over.
        self._call_at(now + PRECISION, do)


@dataclass(frozen=True)
class Shard:
    """What the other workflows of a history shard do in a second: `reads` of its queues, and `timers` that fire.

    A step's own workflow is not part of it. The default is a shard that has nothing else to do.
    """

    reads: float = 0.0
    timers: float = 0.0


ALONE = Shard()


@dataclass(frozen=True)
class Tries:
    """How the server repeats a step, as far as its timers are concerned. Times in seconds, shares from 0 to 1.

    `raises`, `cut`: the shares of tries that raise, and that the timeout cuts off. `after`: until a call raises.
    `works`: until a call works. `way`: from worker to server, and back. `between`: from the end of a step to the
    beginning of the next.
    """

    timeout: float
    first_backoff: float
    multiplier: float
    max_backoff: float
    raises: float
    cut: float
    after: float
    works: float
    way: float
    between: float
    shard: Shard

    def backoff(self, number: Any) -> Any:
        """The pause that is asked for after the n-th failed try."""
        return np.minimum(self.max_backoff, self.first_backoff * self.multiplier ** np.minimum(number - 1, 64))


@dataclass(frozen=True)
class Waits:
    """From the moment at which the server learns that a try failed, to the earliest moment of its retry [s].

    Equally likely values, by the number of the failed try (1, 2, and 3 or more). `late`: how much later than the
    timeout the server notices it [s], equally likely values.
    """

    raised: tuple[tuple[float, ...], ...]
    cut: tuple[tuple[float, ...], ...]
    late: tuple[float, ...]

    def after(self, kind: Literal["raised", "cut"], number: int) -> tuple[float, ...]:
        """The waits after the n-th failed try, which raised or was cut off."""
        return (self.raised if kind == "raised" else self.cut)[min(number, _NUMBERS) - 1]


SET_AND_RUN = 2 * PRECISION
"""A timer is set for the next whole millisecond, and runs when that is over."""

_NUMBERS = 3
_VALUES = 40
_SHARES = (np.arange(_VALUES) + 0.5) / _VALUES
_LANES, _ROUNDS = 320, 16
_LEAST_SHARE = 0.15
_OWN = 8


@lru_cache(maxsize=4096)
def waits(tries: Tries) -> Waits:
    """The timer queue played for one workflow among others. The same question always gets the same answer.

    The workflow runs one step after another, and all that it does to its shard is played: reads, timeouts, retries, the
    timers of its workflow tasks. What the others do comes at random times, as often as `tries.shard` says.
    """
    return _Played(tries).waits()


class _Played:
    """`_LANES` workflows, each on a shard of its own, so that arrays hold all of them. Names are as in `TimerQueue`."""

    def __init__(self, tries: Tries) -> None:
        self._tries = tries
        self._rng = np.random.default_rng(1)
        self._min_scheduled_time = np.full(_LANES, -np.inf)
        self._high_watermark = np.full(_LANES, -np.inf)
        # Timers of this workflow for something that ended before them. They open the gate as any others do.
        self._own = np.full((_OWN, _LANES), -np.inf)
        self._slot = 0
        self._seen: list[tuple[Any, Any, Any, Any]] = []

    def waits(self) -> Waits:
        one = self._tries
        now = self._workflow_task(np.zeros(_LANES))
        number = np.ones(_LANES)
        # Rare failures are played more often than they are, or there would be none to look at.
        raises, cut = (max(share, _LEAST_SHARE) if share > 0 else 0.0 for share in (one.raises, one.cut))
        scale = min(1.0, 0.9 / max(raises + cut, 1e-9))
        raises, cut = raises * scale, cut * scale
        for _ in range(_ROUNDS):
            draw = self._rng.random(_LANES)
            hung = (draw >= raises) & (draw < raises + cut)
            worked = draw >= raises + cut
            timeout = self._fires(now + one.timeout)
            noticed = np.where(hung, timeout, now + np.where(worked, one.works, one.after + self._about(one.way)))
            noticed = self._pass(now, noticed, hung)
            self._keep(np.where(hung, -np.inf, timeout))
            failed = noticed + np.where(hung, PRECISION, 0.0)
            self._seen.append(
                (
                    number.copy(),
                    hung,
                    ~worked,
                    np.stack([self._min_scheduled_time - failed, timeout - now - one.timeout]),
                )
            )
            again = self._fires(failed + one.backoff(number))
            again = self._pass(failed, np.where(worked, failed, again), ~worked)
            after = self._workflow_task(failed, worked)
            now = np.where(worked, after, again + PRECISION + self._about(one.way))
            number = np.where(worked, 1, number + 1)
        return self._found()

    def _found(self) -> Waits:
        number = np.concatenate([one[0] for one in self._seen])
        hung = np.concatenate([one[1] for one in self._seen])
        failed = np.concatenate([one[2] for one in self._seen])
        wait, late = np.concatenate([one[3] for one in self._seen], axis=1)
        kinds = []
        for kind in (failed & ~hung, failed & hung):
            by_number = []
            for n in range(1, _NUMBERS + 1):
                chosen = kind & (np.minimum(number, _NUMBERS) == n)
                by_number.append(_equally_likely(wait[chosen if chosen.any() else kind]))
            kinds.append(tuple(by_number))
        return Waits(kinds[0], kinds[1], _equally_likely(late[hung]))

    def _fires(self, at: Any) -> Any:
        return np.maximum(at, self._min_scheduled_time) + PRECISION

    def _keep(self, timers: Any) -> None:
        self._own[self._slot % _OWN] = timers
        self._slot += 1

    def _workflow_task(self, now: Any, which: Any = True) -> Any:
        """The workflow takes its next turn: as in `simulate`, a queue reads the task after the wait."""
        self._keep(np.where(which, now + STICKY_TIMEOUT + PRECISION, -np.inf))
        begins = now + self._about(self._tries.between)
        self._pass(now, np.where(which, begins, now), False)
        self._min_scheduled_time = np.where(
            which, np.maximum(self._min_scheduled_time, begins + MAX_TIME_SHIFT), self._min_scheduled_time
        )
        return begins

    def _about(self, mean: float) -> Any:
        return self._rng.exponential(mean, _LANES) if mean > 0 else np.zeros(_LANES)

    def _pass(self, begin: Any, end: Any, fires: Any) -> Any:
        """Time goes on from `begin` to `end`. Where `fires`, a timer of this workflow fires at the end: then its time
        is returned, which is later if the gate opens for it."""
        shard, now = self._tries.shard, begin
        while True:
            outside = np.maximum(self._high_watermark, now)
            own = np.where(self._own >= outside, self._own, np.inf).min(axis=0)
            other = outside + self._rng.exponential(1 / shard.timers, _LANES) if shard.timers else np.inf
            gate = np.minimum(own, other)
            opens = gate < end
            if not opens.any():
                break
            now = np.where(opens, gate, now)
            self._high_watermark = np.where(
                opens, gate + self._about(self._tries.way) + MAX_TIME_SHIFT, self._high_watermark
            )
            self._min_scheduled_time = np.maximum(self._min_scheduled_time, self._high_watermark)
        if shard.reads:
            last = end - self._rng.exponential(1 / shard.reads, _LANES)
            self._min_scheduled_time = np.where(
                last > begin, np.maximum(self._min_scheduled_time, last + MAX_TIME_SHIFT), self._min_scheduled_time
            )
        opens = fires & (end >= self._high_watermark)
        end = np.where(opens, end + self._about(self._tries.way), end)
        self._high_watermark = np.where(opens, end + MAX_TIME_SHIFT, self._high_watermark)
        self._min_scheduled_time = np.maximum(self._min_scheduled_time, self._high_watermark)
        return end


def _equally_likely(values: Any) -> tuple[float, ...]:
    """A sample as a few equally likely values."""
    if not len(values):
        return (MAX_TIME_SHIFT,)
    return tuple(np.round(np.quantile(values, _SHARES), 4).tolist())

"""Made evidence for the doctor: apps whose activities are played, as a frame of a history and as a book of attempts.

Nothing here runs. An attempt's length and end are drawn; timeouts, retry policy and pauses act on it as Temporal's do,
its timers' floor of one second included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.doctor.evidence import QUEUES
from trellis.insight.history.frames import made

BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Call:
    """How one attempt goes, if nothing stops it: it works after `seconds`, or raises `error` then."""

    seconds: float
    error: str | None = None
    beats: float | None = None
    """The longest gap between its heartbeats [s]; None: it sends none."""


Behaviour = Callable[[np.random.Generator, int, float, int], Call]
"""(draws, number of the workflow, seconds since the beginning, attempt) -> how the attempt goes."""


@dataclass(frozen=True)
class App:
    """`runs` workflows that begin one every `every` seconds, with `calls` activities each, one after another."""

    behaviour: Behaviour
    name: str = "app"
    runs: int = 40
    calls: int = 1
    every: float = 0.5
    lasts: float = 600.0
    """When the evidence is read [s]."""
    floor: float = 1.0
    slots: int = 1000
    start_to_close_timeout: float | None = 10.0
    schedule_to_close_timeout: float | None = None
    heartbeat_timeout: float | None = None
    initial_interval: float = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval: float = 100.0
    maximum_attempts: int = 0
    nobody: bool = False
    queue: str = "q"
    tasks: str | None = None
    """The cause of workflow tasks that fail, where they do."""


@dataclass
class Made:
    history: pd.DataFrame
    book: pd.DataFrame
    queues: pd.DataFrame
    now: datetime


@dataclass
class _Ward:
    app: App
    rng: np.random.Generator
    slots: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    book: list[dict[str, Any]] = field(default_factory=list)

    def options(self) -> dict[str, Any]:
        app = self.app
        return {
            "start_to_close_timeout": app.start_to_close_timeout or app.schedule_to_close_timeout,
            "schedule_to_close_timeout": app.schedule_to_close_timeout, "heartbeat_timeout": app.heartbeat_timeout,
            "initial_interval": app.initial_interval, "backoff_coefficient": app.backoff_coefficient,
            "maximum_interval": app.maximum_interval, "maximum_attempts": app.maximum_attempts,
        }  # fmt: skip

    def run(self, number: int) -> None:
        app, at = self.app, number * self.app.every
        run = {"workflow_id": f"{app.name}-{number}", "run_id": f"{app.name}-run-{number}", "workflow_type": app.name}
        row = {
            **run, "event": 1, "kind": "workflow", "name": app.name, "outcome": "open", "attempt": 1,
            "queue": app.queue, "scheduled_at": when(at), "started_at": when(at), "copied": False,
        }  # fmt: skip
        self.history.append(row)
        if app.tasks:
            task = {**run, "kind": "workflow task", "queue": app.queue, "copied": False, "scheduled_at": when(at)}
            failed = {"attempt": 1, "outcome": "failed", "error": "KeyError: 'colour'", "failure_type": "KeyError"}
            times = {"started_at": when(at), "ended_at": when(at + 0.1)}
            self.history.append({**task, "event": 2, "name": app.tasks, **failed, **times})
            self.history.append({**task, "event": None, "name": "retried", "attempt": 7, "outcome": "open"})
            return
        for call in range(app.calls):
            ended, outcome = self.activity(run, number, call, at)
            if ended is None:
                return
            at = ended
            if outcome != "succeeded":
                row |= {"outcome": "failed", "ended_at": when(at)}
                return
        row |= {"outcome": "succeeded", "ended_at": when(at)}

    def activity(self, run: dict[str, Any], number: int, call: int, at: float) -> tuple[float | None, str]:
        """Play one activity; (when it ended, how). None: it is open."""
        app = self.app
        base = {
            **run, "event": 5 + 6 * call, "kind": "activity", "name": f"{app.name}-call", "queue": app.queue,
            "copied": False, **self.options(),
        }  # fmt: skip
        noted = {
            **run, "activity_id": str(call + 1), "activity_type": f"{app.name}-call", "queue": app.queue,
            "local": False, "scheduled_at": when(at), **self.options(),
        }  # fmt: skip
        if app.nobody:
            self.history.append({**base, "attempt": 1, "outcome": "open", "scheduled_at": when(at)})
            return None, "open"
        scheduled, attempt, last = at, 0, None
        while True:
            attempt += 1
            start = self.begin(at)
            if start >= app.lasts:
                self.rows(base, attempt, scheduled, last, {"outcome": "open"})
                return None, "open"
            done = app.behaviour(self.rng, number, start, attempt)
            end, outcome, error = self.ended(done, start, scheduled)
            self.slots.append(end)
            if end >= app.lasts:
                known = {"outcome": "open", "started_at": when(start), "worker": "w"}
                self.rows(base, attempt, scheduled, last, known)
                self.book.append({**noted, "attempt": attempt, **known})
                return None, "open"
            type_ = "timeout" if outcome == "timed out" else error
            known = {"outcome": outcome, "started_at": when(start), "ended_at": when(end), "worker": "w"}
            if outcome != "succeeded":
                known |= {"failure_type": type_, "error": error}
            self.book.append({**noted, "attempt": attempt, **known})
            pause = min(app.maximum_interval, app.initial_interval * app.backoff_coefficient ** (attempt - 1))
            again = end + max(pause, app.floor)
            whole = app.schedule_to_close_timeout
            over = attempt == app.maximum_attempts or (whole is not None and again > scheduled + whole)
            if outcome == "succeeded" or over:
                self.rows(base, attempt, scheduled, last, known)
                return end, outcome
            last, at = {"outcome": outcome, "failure_type": type_, "error": error}, again

    def begin(self, at: float) -> float:
        """When a worker takes a task that is there at this time."""
        busy = sorted(one for one in self.slots if one > at)
        self.slots = busy
        return at if len(busy) < self.app.slots else busy[len(busy) - self.app.slots]

    def ended(self, call: Call, start: float, scheduled: float) -> tuple[float, str, str | None]:
        app, ends = self.app, [(call.seconds, "failed" if call.error else "succeeded", call.error)]
        limit = app.start_to_close_timeout or app.schedule_to_close_timeout
        if limit is not None:
            ends.append((max(limit, app.floor), "timed out", "activity StartToClose timeout"))
        beat = app.heartbeat_timeout
        if beat is not None and (call.beats is None or call.beats > beat):
            ends.append((max(beat, app.floor), "timed out", "activity Heartbeat timeout"))
        if app.schedule_to_close_timeout is not None:
            left = scheduled + app.schedule_to_close_timeout - start
            ends.append((left, "timed out", "activity ScheduleToClose timeout"))
        took, outcome, error = min(ends)
        return start + took, outcome, error

    def rows(
        self, base: dict[str, Any], attempt: int, scheduled: float, last: dict[str, Any] | None, known: dict[str, Any]
    ) -> None:
        """What a history holds of an activity: its last attempt, and the failure of the one before."""
        for number in range(1, attempt):
            more = last if number == attempt - 1 and last else {"outcome": "unknown"}
            at = when(scheduled) if number == 1 else None
            self.history.append({**base, "attempt": number, "scheduled_at": at, **more})
        at = when(scheduled) if attempt == 1 else None
        self.history.append({**base, "attempt": attempt, "scheduled_at": at, **known})


def when(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=float(seconds))


def play(app: App, seed: int = 0) -> Made:
    """What an app leaves behind."""
    ward = _Ward(app, np.random.default_rng(seed))
    for number in range(app.runs):
        ward.run(number)
    waits = sum(row["kind"] == "activity" and row["outcome"] == "open" for row in ward.history)
    pollers = 0 if app.nobody else 1
    row = [app.queue, "activity", pollers, waits if app.nobody else 0, 60.0 if app.nobody else 0.0]
    columns = ["workflow_id", "run_id", "workflow_type", "activity_id", "activity_type", "attempt", "outcome", "queue",
               "local", "scheduled_at", "started_at", "ended_at", "worker", "failure_type", "error",
               *ward.options()]  # fmt: skip
    book = pd.DataFrame(ward.book, columns=columns)
    return Made(made(ward.history), book, pd.DataFrame([row], columns=QUEUES), when(app.lasts))


def mixed(good: Callable[[np.random.Generator], float], fails: float = 0.0, hangs: float = 0.0) -> Behaviour:
    """Calls that work, raise and hang with these probabilities."""

    def behaviour(rng: np.random.Generator, number: int, at: float, attempt: int) -> Call:
        draw = rng.random()
        if draw < hangs:
            return Call(1e6)
        return Call(0.02, "Unavailable") if draw < hangs + fails else Call(good(rng))

    return behaviour


def quick(rng: np.random.Generator) -> float:
    return float(rng.lognormal(np.log(0.05), 0.4))


def about(seconds: float, width: float = 0.3) -> Callable[[np.random.Generator], float]:
    """Lognormal durations around a median."""
    return lambda rng: float(rng.lognormal(np.log(seconds), width))


def poison(share: float, error: str = "BadAddress") -> Behaviour:
    """The calls of some workflows fail for ever, with the same error."""

    def behaviour(rng: np.random.Generator, number: int, at: float, attempt: int) -> Call:
        bad = np.random.default_rng(number + 1000).random() < share
        return Call(0.02, error) if bad else Call(quick(rng))

    return behaviour


def outage(begin: float, end: float, fails: float = 0.02) -> Behaviour:
    """Every call fails from `begin` to `end` [s], and some do at other times."""

    def behaviour(rng: np.random.Generator, number: int, at: float, attempt: int) -> Call:
        failed = begin <= at < end or rng.random() < fails
        return Call(0.02, "Unavailable") if failed else Call(quick(rng))

    return behaviour


def beating(seconds: Callable[[np.random.Generator], float], gap: float | None) -> Behaviour:
    """Calls of this length, which send heartbeats with gaps up to `gap` [s]; None: none."""
    return lambda rng, number, at, attempt: Call(seconds(rng), beats=gap)


QUICK = App(mixed(quick))
BEATING = replace(QUICK, start_to_close_timeout=60.0, every=3)

PLANTED: dict[str, list[App]] = {
    "timeout kills good calls": [
        replace(QUICK, behaviour=mixed(about(1.5, 0.35)), start_to_close_timeout=2.0, runs=60),
        replace(QUICK, behaviour=mixed(about(0.8, 0.5)), start_to_close_timeout=1.2, runs=60),
        replace(QUICK, behaviour=mixed(about(3.0, 0.3), fails=0.1), start_to_close_timeout=4.0, runs=60),
        replace(QUICK, behaviour=mixed(about(5.0, 0.1)), start_to_close_timeout=2.0, maximum_attempts=4),
    ],
    "timeout far above the slowest good call": [
        replace(QUICK, behaviour=mixed(quick, hangs=0.12), start_to_close_timeout=30.0, runs=60),
        replace(QUICK, behaviour=mixed(about(0.3), hangs=0.2), start_to_close_timeout=60.0, runs=50),
        replace(QUICK, behaviour=mixed(quick), start_to_close_timeout=3600.0),
    ],
    "retries without limit": [
        replace(QUICK, behaviour=poison(0.15)),
        replace(QUICK, behaviour=poison(0.3, "ValueError"), backoff_coefficient=1.0),
    ],
    "retry interval below the server's timers": [
        replace(QUICK, behaviour=mixed(quick, fails=0.4), initial_interval=0.02, runs=50),
        replace(QUICK, behaviour=mixed(quick, fails=0.3), initial_interval=0.1, maximum_interval=0.2, runs=60),
    ],
    "long activity without heartbeat": [
        replace(QUICK, behaviour=mixed(about(8.0)), start_to_close_timeout=600.0, runs=20),
        replace(QUICK, behaviour=mixed(about(3.0)), start_to_close_timeout=90.0, runs=20),
    ],
    "heartbeat timeout shorter than the gaps between heartbeats": [
        replace(BEATING, behaviour=beating(about(5.0), None), heartbeat_timeout=2.0),
        replace(BEATING, behaviour=beating(about(6.0), 4.0), heartbeat_timeout=1.5),
    ],
    "tasks wait for a worker": [
        replace(QUICK, behaviour=mixed(about(0.8)), slots=2, every=0.2, runs=60),
        replace(QUICK, behaviour=mixed(about(2.0)), slots=5, every=0.3, runs=60),
    ],
    "failures in bursts": [
        replace(QUICK, behaviour=outage(20, 35), runs=120, maximum_attempts=3),
        replace(QUICK, behaviour=outage(10, 40), runs=100, maximum_attempts=4),
        replace(QUICK, behaviour=outage(15, 25, fails=0.05), runs=100),
    ],
    "nobody polls the queue": [replace(QUICK, nobody=True, runs=5, lasts=60)],
    "workflow tasks fail": [
        replace(QUICK, tasks="workflow worker unhandled failure", runs=4),
        replace(QUICK, tasks="non deterministic error", runs=4),
    ],
    "an error that no retry gets past is retried": [
        replace(QUICK, behaviour=poison(0.2, "BadCard"), maximum_attempts=6),
    ],
    "no room to retry": [
        replace(QUICK, behaviour=mixed(quick, hangs=0.15), start_to_close_timeout=10.0, schedule_to_close_timeout=10.0,
                runs=60),
    ],
}  # fmt: skip

SOUND: dict[str, App] = {
    "quick": QUICK,
    "flaky, rightly retried": replace(QUICK, behaviour=mixed(quick, fails=0.35), runs=80),
    "hangs, rightly limited": replace(QUICK, behaviour=mixed(quick, hangs=0.15), start_to_close_timeout=1.0, runs=60),
    "hangs and raises, rightly limited": replace(
        QUICK, behaviour=mixed(about(0.4), fails=0.2, hangs=0.1), start_to_close_timeout=3.0, runs=80
    ),
    "slow, rightly limited": replace(QUICK, behaviour=mixed(about(5.0, 0.2)), start_to_close_timeout=15.0),
    "two kinds of calls": replace(
        QUICK, behaviour=mixed(lambda rng: float(rng.choice([0.03, 0.5])), hangs=0.05), start_to_close_timeout=2.0,
        runs=80,
    ),
    "long with heartbeats": replace(
        QUICK, behaviour=beating(about(12.0), 1.0), heartbeat_timeout=5.0, start_to_close_timeout=600.0, runs=20
    ),
    "few samples": replace(QUICK, behaviour=mixed(about(3.0), fails=0.3, hangs=0.2), runs=4),
    "few failures, few attempts": replace(QUICK, behaviour=mixed(quick, fails=0.1), maximum_attempts=5),
    "a limit that is never reached": replace(QUICK, behaviour=mixed(quick, fails=0.3), maximum_attempts=30, runs=60),
    "many workers": replace(QUICK, behaviour=mixed(about(1.0)), slots=50, every=0.1, runs=80),
    "spread failures": replace(QUICK, behaviour=mixed(quick, fails=0.15), runs=150, every=0.3),
    "short intervals, seldom needed": replace(
        QUICK, behaviour=mixed(quick, fails=0.03), initial_interval=0.05, runs=60
    ),
    "short intervals of a quick server": replace(
        QUICK, behaviour=mixed(quick, fails=0.4), initial_interval=0.05, floor=0.01, runs=60
    ),
    "a deadline": replace(QUICK, behaviour=mixed(quick, hangs=0.1), start_to_close_timeout=2.0,
                          schedule_to_close_timeout=60.0, runs=60),
    "a poisoned few": replace(QUICK, behaviour=poison(0.1), maximum_attempts=3, runs=30),
}  # fmt: skip

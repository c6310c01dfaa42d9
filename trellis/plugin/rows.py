"""The rows that the plugin notes: one when an attempt begins, the same one again when it ends.

This is on the path of every activity, so a row is a dict and not yet a `FlightRow`.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from temporalio.activity import Info

from trellis.flaky import Marks
from trellis.flights import FlightRow, encoded

__all__ = ["Attempt", "FlightRow", "Taker"]

LONGEST = 1000
"""How many characters of an error are kept."""

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False, allow_nan=False, default=str).encode


class Taker(Protocol):
    """Where rows go."""

    def number(self) -> int:
        """A number for a row that no other row of this process has."""

    def add(self, line: bytes) -> None: ...


class Attempt:
    """One attempt while it runs, in this worker.

    `row`: its columns as JSON takes them. `began`: monotonic clock [s]. `marks`: what was injected. `hung`: it was left
    without an answer, so that the server times it out.
    """

    __slots__ = ("_beat_at", "_taker", "beats", "began", "hung", "local", "longest_gap", "marks", "row")

    def __init__(self, info: Info, worker: str | None, taker: Taker | None) -> None:
        retry = info.retry_policy
        self._taker = taker
        self.began = self._beat_at = time.monotonic()
        self.beats = 0
        self.longest_gap = 0.0
        self.local = info.is_local
        self.marks: Marks | None = None
        self.hung = False
        self.row: dict[str, Any] = {
            "n": taker.number() if taker else 0,
            "namespace": info.namespace,
            "workflow_id": info.workflow_id or "",
            "run_id": info.workflow_run_id or info.activity_run_id or "",
            "workflow_type": info.workflow_type or "",
            "activity_id": info.activity_id,
            "activity_type": info.activity_type,
            "attempt": info.attempt,
            "try": 0,
            "lane": 0,
            "queue": info.task_queue,
            "worker": worker,
            "local": info.is_local,
            "scheduled_at": info.scheduled_time.isoformat(),
            "attempt_scheduled_at": info.current_attempt_scheduled_time.isoformat(),
            "started_at": now(),
            "outcome": "open",
            "start_to_close_timeout": _seconds(info.start_to_close_timeout),
            "schedule_to_close_timeout": _seconds(info.schedule_to_close_timeout),
            "heartbeat_timeout": _seconds(info.heartbeat_timeout),
            "heartbeats": 0,
        }
        if retry is not None:
            self.row |= {
                "initial_interval": _seconds(retry.initial_interval),
                "backoff_coefficient": retry.backoff_coefficient,
                "maximum_interval": _seconds(retry.maximum_interval),
                "maximum_attempts": retry.maximum_attempts,
            }

    def beat(self) -> None:
        moment = time.monotonic()
        self.longest_gap = max(self.longest_gap, moment - self._beat_at)
        self._beat_at = moment
        self.beats += 1

    @property
    def silent(self) -> float:
        """The longest time without a heartbeat so far [s]."""
        return max(self.longest_gap, time.monotonic() - self._beat_at)

    def note(self, **changes: Any) -> None:
        """Write the row as it is now, with these columns changed."""
        if self._taker is None:
            return
        self.row.update(changes)
        if self.marks is not None:
            self.row.update(vars(self.marks))
        self.row["heartbeats"] = self.beats
        self._taker.add(line(self.row))

    def note_try(self, **columns: Any) -> None:
        """Write a row of its own for a try inside this attempt."""
        if self._taker is not None:
            self._taker.add(line({**self.row, "input": None, **columns, "n": self._taker.number()}))


def now() -> str:
    """The worker's clock. Both ends of an attempt are by the same clock, so that its duration is right."""
    return datetime.now(UTC).isoformat()


def line(row: dict[str, Any]) -> bytes:
    """The row as one line of JSON with its end. Text that Postgres cannot hold is replaced."""
    return encoded(_encode, {name: value for name, value in row.items() if value is not None}).encode() + b"\n"


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()

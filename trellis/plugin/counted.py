"""The attempts of a run as the server counts them, read from the run's history and from Describe.

A history holds of each activity how many attempts began, how the last one ended, and the failure of the one before.
A local activity is a marker with the number of its attempts. Of a running activity Describe says the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingActivityInfo

from trellis import event_fields as fields
from trellis.event_fields import time
from trellis.flights import ABANDONED, FAILED, SUCCEEDED, TIMED_OUT
from trellis.plugin.rows import LONGEST

_ENDS = {
    "ACTIVITY_TASK_COMPLETED": SUCCEEDED, "ACTIVITY_TASK_FAILED": FAILED, "ACTIVITY_TASK_TIMED_OUT": TIMED_OUT,
    "ACTIVITY_TASK_CANCELED": ABANDONED,
}  # fmt: skip

_CLOSES = {
    f"WORKFLOW_EXECUTION_{how}"
    for how in ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELED", "TERMINATED", "CONTINUED_AS_NEW")
}

_WAITING = (
    PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED,
)  # fmt: skip


@dataclass(frozen=True)
class End:
    """How an attempt ended, by the server's word."""

    outcome: str
    at: datetime | None = None
    failure_type: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, failure: Failure, at: datetime | None = None) -> End:
        """The end of an attempt with this failure."""
        type_, message = fields.failed(failure)
        # As long as in the rows that workers write. A server keeps far longer ones.
        message = message and message[:LONGEST]
        return cls(TIMED_OUT if fields.is_timeout(failure) else FAILED, at, type_ and type_[:LONGEST], message)


@dataclass
class Counted:
    """One activity of a run. Its attempts from `first` to `last` began; `last` is None where that is not known.

    `end`: of the attempt `last`; None while it runs, and where the server does not say. `before`: of the attempt before
    it. `started_at`, `worker`: of the attempt `last`. `closed_at`: when the activity ended, or its run did; None while
    it is open. `options`: its timeouts and retry policy, by the names of a row's fields.
    """

    activity_id: str
    activity_type: str
    queue: str
    scheduled_at: datetime
    local: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    first: int = 1
    last: int | None = 0
    end: End | None = None
    before: End | None = None
    started_at: datetime | None = None
    worker: str | None = None
    closed_at: datetime | None = None

    def end_of(self, attempt: int) -> End | None:
        """How an attempt ended, where the server says it."""
        if attempt == self.last:
            return self.end
        return self.before if attempt + 1 == self.last else None


@dataclass
class Run:
    """A run: its activities in the order of their scheduling, and when it ended (None: it has not)."""

    workflow_type: str = ""
    queue: str = ""
    activities: list[Counted] = field(default_factory=list)
    closed_at: datetime | None = None


def read(events: Iterable[HistoryEvent], pending: Iterable[PendingActivityInfo] = ()) -> Run:
    """What a history counts. `pending`: the running activities, as Describe tells them."""
    reader = _Reader()
    for event in events:
        reader.one(event)
    for one in pending:
        reader.pending(one)
    return reader.run


class _Reader:
    def __init__(self) -> None:
        self.run = Run()
        self._open: dict[int, Counted] = {}
        self._paused: dict[tuple[datetime, str], int] = {}

    def one(self, event: HistoryEvent) -> None:
        name = fields.name_of(event)
        which = event.WhichOneof("attributes")
        a: Any = getattr(event, which) if which else None
        at = time(event.event_time)
        if name == "WORKFLOW_EXECUTION_STARTED":
            self.run.workflow_type, self.run.queue = a.workflow_type.name, a.task_queue.name
        elif name == "ACTIVITY_TASK_SCHEDULED" and at is not None:
            self._scheduled(event.event_id, at, a)
        elif name == "ACTIVITY_TASK_STARTED" and a.scheduled_event_id in self._open:
            found = self._open[a.scheduled_event_id]
            found.last, found.started_at, found.worker = a.attempt, at, a.identity or None
            found.before = End.of(a.last_failure) if a.HasField("last_failure") else None
        elif name in _ENDS and a.scheduled_event_id in self._open:
            self._ended(self._open.pop(a.scheduled_event_id), at, name, a)
        elif name == "MARKER_RECORDED" and a.marker_name == fields.LOCAL_ACTIVITY:
            self._marker(at, a)
        elif name == "WORKFLOW_TASK_FAILED" and a.cause == fields.RESET:
            # What ended before was copied from the run that was reset, and is counted there. What is open begins anew.
            self.run.activities = list(self._open.values())
        elif name in _CLOSES:
            self._closed(at)

    def _scheduled(self, number: int, at: datetime, a: Any) -> None:
        options = fields.limits(a.start_to_close_timeout, a.schedule_to_close_timeout, fields.policy(a))
        options |= {
            "schedule_to_start_timeout": fields.seconds(a.schedule_to_start_timeout),
            "heartbeat_timeout": fields.seconds(a.heartbeat_timeout),
        }
        found = Counted(a.activity_id, a.activity_type.name, a.task_queue.name, at, options=options)
        self._open[number] = found
        self.run.activities.append(found)

    def _ended(self, found: Counted, at: datetime | None, name: str, a: Any) -> None:
        timed_out = name == "ACTIVITY_TASK_TIMED_OUT"
        failed = timed_out or name == "ACTIVITY_TASK_FAILED"
        found.closed_at = at
        found.end = End.of(a.failure, at) if failed else End(_ENDS[name], at)
        if a.started_event_id:
            return
        # The server writes that an attempt began only if the activity ends while it runs.
        if timed_out and not a.failure.HasField("cause"):
            found.last, found.end = 0, End(TIMED_OUT, at, fields.NEVER_STARTED, a.failure.message or None)
        else:
            # It ended in the pause after an attempt. How many there were, the history does not say.
            found.last = None
            if timed_out:
                found.end = End.of(a.failure.cause)

    def _closed(self, at: datetime | None) -> None:
        self.run.closed_at = at
        for found in self._open.values():
            found.last, found.closed_at = None, at
        self._open.clear()

    def _marker(self, at: datetime | None, a: Any) -> None:
        said = fields.local_activity(a)
        began = fields.time_in_json(said.get("original_schedule_time")) or at
        if not said.get("activity_id") or not said.get("attempt") or began is None:
            return
        done = fields.time_in_json(said.get("complete_time")) or at
        type_, last = str(said.get("activity_type", "")), int(said["attempt"])
        # Before a long pause between two attempts the SDK records a marker, and goes on under another id.
        first = self._paused.pop((began, type_), 0) + 1
        if said.get("backoff"):
            self._paused[began, type_] = last
        end = End.of(a.failure, done) if a.HasField("failure") else End(SUCCEEDED, done)
        self.run.activities.append(
            Counted(
                str(said["activity_id"]), type_, self.run.queue, began, local=True, first=first, last=last, end=end,
                closed_at=done,
            )
        )  # fmt: skip

    def pending(self, now: PendingActivityInfo) -> None:
        found = next((one for one in self._open.values() if one.activity_id == now.activity_id), None)
        if found is None:
            return
        failure = now.last_failure if now.HasField("last_failure") else None
        found.started_at, found.worker = time(now.last_started_time), now.last_worker_identity or None
        if now.state in _WAITING:
            # Between two attempts Describe has the number of the next one.
            found.last = now.attempt - 1
            found.end = End.of(failure, time(now.last_attempt_complete_time)) if failure else None
        else:
            found.last = now.attempt
            found.before = End.of(failure) if failure else None

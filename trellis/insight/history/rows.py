"""The rows of one history. Each event opens a row or ends one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingActivityInfo, PendingWorkflowTaskInfo
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse

from trellis import event_fields as fields
from trellis.event_fields import NEVER_STARTED, RESET, time

CLOSED = {
    "WORKFLOW_EXECUTION_COMPLETED": "succeeded", "WORKFLOW_EXECUTION_CONTINUED_AS_NEW": "succeeded",
    "WORKFLOW_EXECUTION_FAILED": "failed", "WORKFLOW_EXECUTION_TIMED_OUT": "timed out",
    "WORKFLOW_EXECUTION_CANCELED": "abandoned", "WORKFLOW_EXECUTION_TERMINATED": "abandoned",
}  # fmt: skip
"""How a run ended, by its last event."""

# Events that neither open a row nor end one.
_QUIET = (
    "WORKFLOW_EXECUTION_CANCEL_REQUESTED", "WORKFLOW_PROPERTIES_MODIFIED", "WORKFLOW_TASK_COMPLETED",
    "WORKFLOW_EXECUTION_OPTIONS_UPDATED", "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "ACTIVITY_TASK_CANCEL_REQUESTED",
    "ACTIVITY_PROPERTIES_MODIFIED_EXTERNALLY", "WORKFLOW_EXECUTION_PAUSED",
    "WORKFLOW_EXECUTION_UNPAUSED", "WORKFLOW_EXECUTION_TIME_SKIPPING_", "NEXUS_OPERATION_CANCEL_REQUEST",
)  # fmt: skip

_OF_ONE_ATTEMPT = ("started_at", "ended_at", "worker", "build_id", "failure_type", "error", "end_event")


def rows(
    workflow_id: str,
    events: Iterable[HistoryEvent],
    *,
    run_id: str | None = None,
    described: DescribeWorkflowExecutionResponse | None = None,
    namespace: str | None = None,
) -> list[dict[str, Any]]:
    """The rows of one history. An event of an unknown type becomes a row `unknown event`.

    `described`: what Describe says of a running workflow. It knows how far the running activities are.
    """
    reader = _Reader(workflow_id, run_id, namespace)
    reader.read(events)
    if described is not None:
        for activity in described.pending_activities:
            reader.pending(activity)
        if described.pending_workflow_task.attempt > 1:
            reader.pending_task(described.pending_workflow_task)
    return reader.rows()


class _Reader:
    def __init__(self, workflow_id: str, run_id: str | None, namespace: str | None) -> None:
        self._base: dict[str, Any] = {
            "workflow_id": workflow_id, "run_id": run_id, "namespace": namespace, "workflow_type": None, "parent": None,
            "reset_from": None,
        }  # fmt: skip
        self._rows: list[dict[str, Any]] = []
        self._open: dict[tuple[str, object], dict[str, Any]] = {}
        self._scheduled: dict[str, int] = {}
        self._earlier: dict[int, list[dict[str, Any]]] = {}
        self._updates: dict[object, str] = {}
        self._tasks: dict[int, dict[str, Any]] = {}
        self._task: int | None = None

    def _row(self, event: HistoryEvent, kind: str, name: str, **more: Any) -> dict[str, Any]:
        row = {
            **self._base, "event": event.event_id, "kind": kind, "name": name, "outcome": "open",
            "scheduled_at": time(event.event_time), "task": self._task, "copied": False, **more,
        }  # fmt: skip
        self._rows.append(row)
        return row

    def _end(self, key: tuple[str, object], event: HistoryEvent, outcome: str, failure: Failure | None = None) -> None:
        row = self._open.pop(key, None)
        if row is None:
            row = self._row(event, "unknown event", f"end of {key[0]} {key[1]}, whose beginning is missing")
        row |= {"outcome": outcome, "ended_at": time(event.event_time), "end_event": event.event_id}
        if failure is not None:
            row["failure_type"], row["error"] = fields.failed(failure)

    def read(self, events: Iterable[HistoryEvent]) -> None:
        for event in events:
            name = fields.name_of(event)
            if name is None:
                self._row(event, "unknown event", f"type {int(event.event_type)}", outcome="unknown")
                continue
            attributes = event.WhichOneof("attributes")
            a = getattr(event, attributes) if attributes else None
            self._task = getattr(a, "workflow_task_completed_event_id", 0) or None
            self._one(name, event, a)

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for row in self._rows:
            # The attempts before the last one can be counted only where the last one's number is known.
            found += [{**row, **earlier} for earlier in self._earlier.get(id(row), [])]
            found.append(row)
        # The run's first event fills in these fields. Rows that were made before it lack them.
        missing = [{key: value for key, value in self._base.items() if row[key] is None} for row in found]
        reset_from = {"reset_from": self._base["reset_from"]}
        return [{**row, **more, **reset_from} for row, more in zip(found, missing, strict=True)]

    def _one(self, name: str, event: HistoryEvent, a: Any) -> None:
        if name == "WORKFLOW_EXECUTION_STARTED":
            self._base["workflow_type"] = a.workflow_type.name
            self._base["run_id"] = self._base["run_id"] or a.original_execution_run_id
            self._base["parent"] = a.parent_workflow_execution.workflow_id or None
            self._open["workflow", None] = self._row(
                event, "workflow", a.workflow_type.name, queue=a.task_queue.name, started_at=time(event.event_time),
                attempt=a.attempt,
                **fields.limits(a.workflow_run_timeout, a.workflow_execution_timeout, fields.policy(a)),
            )  # fmt: skip
        elif name in CLOSED:
            workflow = self._open.get(("workflow", None))
            self._end(("workflow", None), event, CLOSED[name], a.failure if name.endswith("_FAILED") else None)
            if workflow and name.endswith("_TERMINATED"):
                workflow |= {"failure_type": "terminated", "error": a.reason or None}
        elif name.startswith("WORKFLOW_TASK_"):
            self._workflow_task(name, event, a)
        elif name == "ACTIVITY_TASK_SCHEDULED":
            self._scheduled[a.activity_id] = event.event_id
            self._open["activity", event.event_id] = self._row(
                event, "activity", a.activity_type.name, queue=a.task_queue.name, activity_id=a.activity_id,
                schedule_to_start_timeout=fields.seconds(a.schedule_to_start_timeout),
                heartbeat_timeout=fields.seconds(a.heartbeat_timeout),
                **fields.limits(a.start_to_close_timeout, a.schedule_to_close_timeout, fields.policy(a)),
            )  # fmt: skip
        elif name == "ACTIVITY_TASK_STARTED":
            self._activity_started(event, a)
        elif name.startswith("ACTIVITY_TASK_") and hasattr(a, "scheduled_event_id") and "CANCEL_REQ" not in name:
            self._activity_ended(name, event, a)
        elif name == "TIMER_STARTED":
            self._open["timer", event.event_id] = self._row(
                event, "timer", a.timer_id, started_at=time(event.event_time),
                **fields.limits(a.start_to_fire_timeout, None, None),
            )  # fmt: skip
        elif name in ("TIMER_FIRED", "TIMER_CANCELED"):
            outcome_ = "succeeded" if name == "TIMER_FIRED" else "abandoned"
            self._end(("timer", a.started_event_id), event, outcome_)
        elif name == "WORKFLOW_EXECUTION_SIGNALED":
            self._instant(event, "signal", a.signal_name, worker=a.identity or None)
        elif name.startswith("WORKFLOW_EXECUTION_UPDATE_"):
            self._update(name, event, a)
        elif name == "MARKER_RECORDED":
            self._marker(event, a)
        elif not name.startswith(_QUIET) and not self._other(name, event, a):
            self._row(event, "unknown event", name, outcome="unknown")

    def _update(self, name: str, event: HistoryEvent, a: Any) -> None:
        if name.endswith("_ADMITTED"):
            self._updates |= dict.fromkeys((event.event_id, a.request.meta.update_id), a.request.input.name)
        elif name.endswith("_ACCEPTED"):
            self._open["update", event.event_id] = self._row(
                event, "update", self._update_name(a), started_at=time(event.event_time)
            )
        elif name.endswith("_COMPLETED"):
            failed = a.outcome.failure if a.outcome.WhichOneof("value") == "failure" else None
            self._end(("update", a.accepted_event_id), event, "failed" if failed else "succeeded", failed)
        else:
            self._row(event, "unknown event", name, outcome="unknown")

    def _update_name(self, a: Any) -> str:
        """A reset admits the updates of the run before once more. Then the event that accepts one has no request."""
        known = (self._updates.get(key) for key in (a.accepted_request_sequencing_event_id, a.protocol_instance_id))
        return a.accepted_request.input.name or next(filter(None, known), "update")

    def _workflow_task(self, name: str, event: HistoryEvent, a: Any) -> None:
        if name == "WORKFLOW_TASK_SCHEDULED":
            self._tasks[event.event_id] = {
                "scheduled_at": time(event.event_time), "queue": a.task_queue.name, "attempt": a.attempt,
            }  # fmt: skip
        elif name == "WORKFLOW_TASK_STARTED":
            known = {"started_at": time(event.event_time), "worker": a.identity or None}
            self._tasks.setdefault(a.scheduled_event_id, {}).update(known)
        elif name == "WORKFLOW_TASK_COMPLETED":
            if ("workflow", None) in self._open and (build := fields.build_id(a)):
                self._open["workflow", None]["build_id"] = build
        elif name == "WORKFLOW_TASK_FAILED" and a.cause == RESET:
            self._reset(event, a.base_run_id)
        elif name in ("WORKFLOW_TASK_FAILED", "WORKFLOW_TASK_TIMED_OUT"):
            task = {**self._tasks.get(a.scheduled_event_id, {}), **fields.task_failure(name, a)}
            ended = {"ended_at": time(event.event_time), "end_event": event.event_id}
            row = self._row(event, "workflow task", task.pop("name"), **task, **ended)
            row["event"] = a.scheduled_event_id
        else:
            self._row(event, "unknown event", name, outcome="unknown")

    def _reset(self, event: HistoryEvent, run_id: str) -> None:
        """Here the run itself begins. Each event before was copied from the run that was reset."""
        self._base["reset_from"] = run_id
        open_ = {id(row) for row in self._open.values()}
        for row in self._rows:
            row["copied"] = id(row) not in open_
        for row in self._open.values():
            row["scheduled_at"] = time(event.event_time)
            if row.get("started_at"):
                row["started_at"] = time(event.event_time)

    def _instant(self, event: HistoryEvent, kind: str, name: str, **more: Any) -> None:
        at = time(event.event_time)
        ended = {"outcome": "succeeded", "started_at": at, "ended_at": at, "end_event": event.event_id}
        self._row(event, kind, name, **ended, **more)

    def _other(self, name: str, event: HistoryEvent, a: Any) -> bool:
        """Child workflows, sent signals and cancels, Nexus operations. INITIATED or SCHEDULED opens such a row; a later
        event that refers to it ends it."""
        openers: dict[str, tuple[str, Callable[[], str]]] = {
            "START_CHILD_WORKFLOW_EXECUTION_INITIATED": ("child", lambda: a.workflow_type.name),
            "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": ("signal sent", lambda: a.signal_name),
            "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": (
                "request to cancel", lambda: a.workflow_execution.workflow_id,
            ),
            "NEXUS_OPERATION_SCHEDULED": ("nexus", lambda: a.operation),
        }  # fmt: skip
        if name in openers:
            kind, named = openers[name]
            self._open["initiated", event.event_id] = self._row(event, kind, named(), **fields.of_kind(kind, a))
            return True
        key = getattr(a, "initiated_event_id", 0) or (
            getattr(a, "scheduled_event_id", 0) if name.startswith("NEXUS_OPERATION_") else 0
        )
        row = self._open.get(("initiated", key))
        if row is None:
            return False
        if name.endswith("_STARTED"):
            row["started_at"] = time(event.event_time)
        elif name.endswith(("_COMPLETED", "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED", "EXECUTION_CANCEL_REQUESTED")):
            self._end(("initiated", key), event, "succeeded")
        elif name.endswith("_TIMED_OUT"):
            self._end(("initiated", key), event, "timed out")
        elif name.endswith(("_CANCELED", "_TERMINATED")):
            self._end(("initiated", key), event, "abandoned")
        elif name.endswith("_FAILED"):
            self._end(("initiated", key), event, "failed", getattr(a, "failure", None))
        else:
            return False
        return True

    def _activity_started(self, event: HistoryEvent, a: Any) -> None:
        row = self._open.get(("activity", a.scheduled_event_id))
        if row is None:
            self._row(event, "unknown event", f"start of activity {a.scheduled_event_id}", outcome="unknown")
            return
        self._reached(row, a.attempt, a.last_failure if a.HasField("last_failure") else None)
        row |= {"started_at": time(event.event_time), "worker": a.identity or None, "build_id": fields.build_id(a)}

    def _activity_ended(self, name: str, event: HistoryEvent, a: Any) -> None:
        outcomes = {"COMPLETED": "succeeded", "FAILED": "failed", "TIMED_OUT": "timed out", "CANCELED": "abandoned"}
        key = ("activity", a.scheduled_event_id)
        failure = a.failure if name.endswith(("FAILED", "TIMED_OUT")) else None
        row = self._open.get(key)
        self._end(key, event, outcomes[name.removeprefix("ACTIVITY_TASK_")], failure)
        if row and failure and fields.is_timeout(failure) and not (a.started_event_id or failure.HasField("cause")):
            row["failure_type"] = NEVER_STARTED

    def _reached(self, row: dict[str, Any], attempt: int, failure: Failure | None) -> list[dict[str, Any]]:
        """Note that `row` is this attempt. Returns rows for the earlier attempts."""
        unknown: dict[str, Any] = {"outcome": "unknown"} | dict.fromkeys(_OF_ONE_ATTEMPT)
        earlier = [
            {"attempt": number, **unknown, "scheduled_at": row["scheduled_at"] if number == 1 else None}
            for number in range(1, attempt)
        ]
        if earlier and failure is not None:
            type_, message = fields.failed(failure)
            outcome = "timed out" if fields.is_timeout(failure) else "failed"
            earlier[-1] |= {"outcome": outcome, "failure_type": type_, "error": message}
        self._earlier[id(row)] = earlier
        row["attempt"] = attempt
        if earlier:
            # The history has the time at which the first attempt was scheduled, not this one's.
            row["scheduled_at"] = None
        return earlier

    def pending(self, now: PendingActivityInfo) -> None:
        """Note how far a running activity is. A running workflow's history does not hold this yet."""
        row = self._open.get(("activity", self._scheduled.get(now.activity_id)))
        if row is None:
            return
        earlier = self._reached(row, now.attempt, now.last_failure if now.HasField("last_failure") else None)
        last_start = time(now.last_started_time)
        if now.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED:
            # Between two attempts Describe reports on the one before.
            if earlier:
                earlier[-1] |= {"started_at": last_start, "ended_at": time(now.last_attempt_complete_time)}
        else:
            row |= {"started_at": last_start, "worker": now.last_worker_identity or None}

    def pending_task(self, now: PendingWorkflowTaskInfo) -> None:
        """Note a workflow task that fails again and again. The history holds only its first failure."""
        self._rows.append(
            {
                **self._base, "event": None, "kind": "workflow task", "name": "retried", "outcome": "open",
                "attempt": now.attempt, "scheduled_at": time(now.original_scheduled_time),
                "started_at": time(now.started_time), "copied": False,
            }
        )  # fmt: skip

    def _marker(self, event: HistoryEvent, a: Any) -> None:
        if a.marker_name != fields.LOCAL_ACTIVITY:
            self._instant(event, "marker", a.marker_name)
            return
        found = fields.local_activity(a)
        failed = a.HasField("failure")
        type_, message = fields.failed(a.failure) if failed else (None, None)
        row = self._row(
            event, "local activity", str(found.get("activity_type", "")) or "local activity",
            outcome="failed" if failed else "succeeded", end_event=event.event_id,
            scheduled_at=fields.time_in_json(found.get("original_schedule_time")),
            ended_at=fields.time_in_json(found.get("complete_time")) or time(event.event_time),
            failure_type=type_, error=message, activity_id=found.get("activity_id"),
        )  # fmt: skip
        if found.get("attempt"):
            self._reached(row, int(found["attempt"]), None)

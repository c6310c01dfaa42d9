"""Which runs belong to one workflow: each continued, retried, repeated by cron or reset the one before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent

_RESET = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW


_CLOSES = {
    EventType.Value(f"EVENT_TYPE_WORKFLOW_EXECUTION_{how}")
    for how in ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELED", "TERMINATED", "CONTINUED_AS_NEW")
}


def closed(events: Sequence[HistoryEvent]) -> bool:
    return bool(events) and events[-1].event_type in _CLOSES


def neighbours(events: Iterable[HistoryEvent]) -> list[str]:
    """Run ids that this history names as the run before, the run that was reset to make this one, and the run after."""
    found = []
    for event in events:
        a: Any = getattr(event, event.WhichOneof("attributes") or "", None)
        if event.HasField("workflow_execution_started_event_attributes"):
            found.append(a.continued_execution_run_id)
        elif event.HasField("workflow_task_failed_event_attributes") and a.cause == _RESET:
            found.append(a.base_run_id)
        else:
            found.append(getattr(a, "new_execution_run_id", ""))
    return [run for run in dict.fromkeys(found) if run]

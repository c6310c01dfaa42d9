"""Which runs belong to one workflow: each continued, retried, repeated by cron or reset the one before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from trellis.event_fields import RESET
from trellis.insight.history.rows import CLOSED

_CLOSES = {EventType.Value(f"EVENT_TYPE_{name}") for name in CLOSED}


def closed(events: Sequence[HistoryEvent]) -> bool:
    """Whether the run has ended."""
    return bool(events) and events[-1].event_type in _CLOSES


def neighbours(events: Iterable[HistoryEvent]) -> list[str]:
    """The ids of the runs that this history names: the one before, the one that was reset to make it, the one after."""
    found = []
    for event in events:
        a: Any = getattr(event, event.WhichOneof("attributes") or "", None)
        if event.HasField("workflow_execution_started_event_attributes"):
            found.append(a.continued_execution_run_id)
        elif event.HasField("workflow_task_failed_event_attributes") and a.cause == RESET:
            found.append(a.base_run_id)
        else:
            found.append(getattr(a, "new_execution_run_id", ""))
    return [run for run in dict.fromkeys(found) if run]

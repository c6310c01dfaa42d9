"""Histories made by hand, event by event, as the server writes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import History, HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

FLAGS = (1, 2, 3, 4)
"""What the SDK notes in a history: without its flag, types of activities are not compared."""


class Made:
    """A history so far. Each method adds events; those that ask for something return the id of their event."""

    def __init__(self, workflow: str, *arguments: Any, id: str = "made") -> None:
        self.id = id
        self.events: list[HistoryEvent] = []
        self._at = datetime(2026, 1, 1, tzinfo=UTC)
        self._task = 0
        self._asked = 0
        self._add(
            "WORKFLOW_EXECUTION_STARTED",
            workflow_type__name=workflow, task_queue__name="made", input__payloads=arguments, workflow_id=id,
            original_execution_run_id="run", first_execution_run_id="run", attempt=1,
        )  # fmt: skip
        self.task()

    def _add(self, kind: str, **fields: Any) -> int:
        event = HistoryEvent(event_id=len(self.events) + 1, event_type=EventType.Value(f"EVENT_TYPE_{kind}"))
        self._at += timedelta(milliseconds=100)
        event.event_time.FromDatetime(self._at.replace(tzinfo=None))
        attributes = getattr(event, f"{kind.lower()}_event_attributes")
        attributes.SetInParent()
        for path, value in fields.items():
            *parents, last = path.split("__")
            held = attributes
            for parent in parents:
                held = getattr(held, parent)
            if last == "payloads":
                held.payloads.extend(DataConverter.default.payload_converter.to_payloads(value))
            elif last == "core_used_flags":
                held.core_used_flags.extend(value)
            elif isinstance(value, timedelta):
                getattr(held, last).FromTimedelta(value)
            else:
                setattr(held, last, value)
        self.events.append(event)
        return event.event_id

    def task(self) -> Made:
        """A workflow task that completes. What follows was asked for in it."""
        scheduled = self._add("WORKFLOW_TASK_SCHEDULED", task_queue__name="made", attempt=1)
        started = self._add("WORKFLOW_TASK_STARTED", scheduled_event_id=scheduled)
        self._task = self._add(
            "WORKFLOW_TASK_COMPLETED",
            scheduled_event_id=scheduled, started_event_id=started, sdk_metadata__core_used_flags=FLAGS,
        )  # fmt: skip
        return self

    def activity(self, name: str, *arguments: Any) -> int:
        self._asked += 1
        return self._add(
            "ACTIVITY_TASK_SCHEDULED",
            activity_id=str(self._asked), activity_type__name=name, task_queue__name="made",
            input__payloads=arguments, workflow_task_completed_event_id=self._task,
        )  # fmt: skip

    def done(self, scheduled: int, result: Any = None) -> Made:
        started = self._add("ACTIVITY_TASK_STARTED", scheduled_event_id=scheduled, attempt=1)
        self._add(
            "ACTIVITY_TASK_COMPLETED",
            scheduled_event_id=scheduled, started_event_id=started, result__payloads=[result],
        )  # fmt: skip
        return self.task()

    def timer(self, seconds: float, number: int = 1) -> int:
        """`number`: timers are numbered by themselves."""
        return self._add(
            "TIMER_STARTED",
            timer_id=str(number), start_to_fire_timeout=timedelta(seconds=seconds),
            workflow_task_completed_event_id=self._task,
        )  # fmt: skip

    def fired(self, started: int, number: int = 1) -> Made:
        self._add("TIMER_FIRED", timer_id=str(number), started_event_id=started)
        return self.task()

    def signalled(self, name: str, *arguments: Any) -> Made:
        self._add("WORKFLOW_EXECUTION_SIGNALED", signal_name=name, input__payloads=arguments)
        return self.task()

    def completed(self, result: Any = None) -> Made:
        self._add(
            "WORKFLOW_EXECUTION_COMPLETED", result__payloads=[result], workflow_task_completed_event_id=self._task
        )
        return self

    def history(self) -> WorkflowHistory:
        return WorkflowHistory(self.id, History(events=self.events).events)

    def saved(self, folder: Path) -> Path:
        file = folder / f"{self.id}.json"
        file.write_text(json.dumps(json.loads(self.history().to_json())), "utf-8")
        return file

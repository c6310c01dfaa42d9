"""Histories made without a server, of any length: the events that a server would write, in their order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from temporalio.api.common.v1 import Payloads
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_FLAGS = (1, 2, 3, 4)
_BETWEEN = timedelta(milliseconds=20)


class MadeHistory:
    """A history that grows by one method call for each thing that happens. The methods give ids of events."""

    def __init__(self, workflow_type: str, *args: object, workflow_id: str = "made", run_id: str = "made-run") -> None:
        self.workflow_id = workflow_id
        self.events: list[HistoryEvent] = []
        self._asked = {"activity": 0, "timer": 0}
        self._completed = 0
        started = self._add("WORKFLOW_EXECUTION_STARTED").workflow_execution_started_event_attributes
        started.workflow_type.name = workflow_type
        started.workflow_id = workflow_id
        started.original_execution_run_id = started.first_execution_run_id = run_id
        started.task_queue.name = "made"
        started.attempt = 1
        started.input.CopyFrom(payloads(*args))

    @property
    def history(self) -> WorkflowHistory:
        return WorkflowHistory(self.workflow_id, self.events)

    def task(self, sdk: str = "temporal-python") -> int:
        """A workflow task, from its scheduling to its completion. What is asked for next is asked for by it."""
        scheduled = self._add("WORKFLOW_TASK_SCHEDULED")
        scheduled.workflow_task_scheduled_event_attributes.attempt = 1
        started = self._add("WORKFLOW_TASK_STARTED")
        started.workflow_task_started_event_attributes.scheduled_event_id = scheduled.event_id
        completed = self._add("WORKFLOW_TASK_COMPLETED")
        held = completed.workflow_task_completed_event_attributes
        held.scheduled_event_id, held.started_event_id = scheduled.event_id, started.event_id
        held.sdk_metadata.sdk_name = sdk
        if not self._completed:
            # Without them the SDK replays as its first versions did, which compared less.
            held.sdk_metadata.core_used_flags.extend(_FLAGS)
        self._completed = completed.event_id
        return started.event_id

    def activity(self, name: str, *args: object) -> int:
        self._asked["activity"] += 1
        event = self._add("ACTIVITY_TASK_SCHEDULED")
        held = event.activity_task_scheduled_event_attributes
        held.activity_id, held.activity_type.name = str(self._asked["activity"]), name
        held.input.CopyFrom(payloads(*args))
        held.workflow_task_completed_event_id = self._completed
        return event.event_id

    def answer(self, scheduled: int, result: object = None) -> int:
        """An activity starts and completes."""
        started = self._add("ACTIVITY_TASK_STARTED")
        started.activity_task_started_event_attributes.scheduled_event_id = scheduled
        started.activity_task_started_event_attributes.attempt = 1
        event = self._add("ACTIVITY_TASK_COMPLETED")
        held = event.activity_task_completed_event_attributes
        held.scheduled_event_id, held.started_event_id = scheduled, started.event_id
        held.result.CopyFrom(payloads(result))
        return event.event_id

    def timer(self, seconds: float) -> int:
        self._asked["timer"] += 1
        event = self._add("TIMER_STARTED")
        held = event.timer_started_event_attributes
        held.timer_id = str(self._asked["timer"])
        held.start_to_fire_timeout.CopyFrom(Duration(nanos=round(seconds % 1 * 1e9), seconds=int(seconds)))
        held.workflow_task_completed_event_id = self._completed
        return event.event_id

    def fire(self, started: int) -> int:
        event = self._add("TIMER_FIRED")
        held = event.timer_fired_event_attributes
        held.started_event_id = started
        held.timer_id = self.events[started - 1].timer_started_event_attributes.timer_id
        return event.event_id

    def cancel_timer(self, started: int) -> int:
        event = self._add("TIMER_CANCELED")
        held = event.timer_canceled_event_attributes
        held.started_event_id = started
        held.timer_id = self.events[started - 1].timer_started_event_attributes.timer_id
        held.workflow_task_completed_event_id = self._completed
        return event.event_id

    def signal(self, name: str, *args: object) -> int:
        event = self._add("WORKFLOW_EXECUTION_SIGNALED")
        event.workflow_execution_signaled_event_attributes.signal_name = name
        event.workflow_execution_signaled_event_attributes.input.CopyFrom(payloads(*args))
        return event.event_id

    def child(self, workflow_type: str, workflow_id: str, run_id: str) -> int:
        """A child is asked for and starts."""
        asked = self._add("START_CHILD_WORKFLOW_EXECUTION_INITIATED")
        initiated = asked.start_child_workflow_execution_initiated_event_attributes
        initiated.workflow_id, initiated.workflow_type.name = workflow_id, workflow_type
        initiated.workflow_task_completed_event_id = self._completed
        event = self._add("CHILD_WORKFLOW_EXECUTION_STARTED")
        held = event.child_workflow_execution_started_event_attributes
        held.initiated_event_id, held.workflow_type.name = asked.event_id, workflow_type
        held.workflow_execution.workflow_id, held.workflow_execution.run_id = workflow_id, run_id
        return asked.event_id

    def child_completed(self, initiated: int, result: object = None) -> int:
        asked = self.events[initiated - 1].start_child_workflow_execution_initiated_event_attributes
        event = self._add("CHILD_WORKFLOW_EXECUTION_COMPLETED")
        held = event.child_workflow_execution_completed_event_attributes
        held.initiated_event_id, held.started_event_id = initiated, initiated + 1
        held.workflow_type.name = asked.workflow_type.name
        held.workflow_execution.workflow_id = asked.workflow_id
        held.result.CopyFrom(payloads(result))
        return event.event_id

    def complete(self, result: object = None) -> int:
        event = self._add("WORKFLOW_EXECUTION_COMPLETED")
        held = event.workflow_execution_completed_event_attributes
        held.result.CopyFrom(payloads(result))
        held.workflow_task_completed_event_id = self._completed
        return event.event_id

    def continue_as_new(self, run_id: str, *args: object) -> int:
        event = self._add("WORKFLOW_EXECUTION_CONTINUED_AS_NEW")
        held = event.workflow_execution_continued_as_new_event_attributes
        held.new_execution_run_id = run_id
        held.input.CopyFrom(payloads(*args))
        held.workflow_type.CopyFrom(self.events[0].workflow_execution_started_event_attributes.workflow_type)
        held.workflow_task_completed_event_id = self._completed
        return event.event_id

    def _add(self, kind: str) -> HistoryEvent:
        event = HistoryEvent(event_id=len(self.events) + 1, event_type=EventType.Value(f"EVENT_TYPE_{kind}"))
        event.event_time.FromDatetime(_BEGAN + _BETWEEN * len(self.events))
        self.events.append(event)
        return event


def payloads(*args: Any) -> Payloads:
    """Values as the SDK's default converter writes them."""
    return DataConverter.default.payload_converter.to_payloads_wrapper(args)

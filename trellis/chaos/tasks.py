"""Workflow tasks that a worker held when it was lost. The server gives them to another worker only after a timeout."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from temporalio.api.enums.v1 import EventType, TimeoutType
from temporalio.client import Client

from trellis.messages import OUR_WORKFLOWS, as_queried


@dataclass(frozen=True)
class LostTask:
    """A workflow task that a worker (`pid@host`) began and did not answer in time, and when [UTC]."""

    workflow_id: str
    worker: str
    started: datetime
    timed_out: datetime


async def lost_tasks(client: Client, since: datetime, until: datetime) -> list[LostTask]:
    """The lost tasks of all workflows that ran at some time of this period. Reads their histories."""
    found = []
    open_at_some_time = (
        f"StartTime <= '{as_queried(until)}' AND (ExecutionStatus = 'Running' OR CloseTime >= '{as_queried(since)}')"
    )
    query = f"{OUR_WORKFLOWS} AND {open_at_some_time}"
    async for execution in client.list_workflows(query):
        history = await client.get_workflow_handle(execution.id, run_id=execution.run_id).fetch_history()
        events = {event.event_id: event for event in history.events}
        for event in history.events:
            if event.event_type != EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT:
                continue
            late = event.workflow_task_timed_out_event_attributes
            if late.timeout_type != TimeoutType.TIMEOUT_TYPE_START_TO_CLOSE:
                # It waited in the queue of a worker that was gone, and nobody had started it.
                continue
            begun = events[late.started_event_id]
            found.append(
                LostTask(
                    execution.id,
                    begun.workflow_task_started_event_attributes.identity,
                    begun.event_time.ToDatetime(UTC),
                    event.event_time.ToDatetime(UTC),
                )
            )
    return found

"""What Temporal says of workflows: pages by visibility, counts, and what Describe and the last event add.

All calls are short and read only. Errors are raised as one sentence (`TrellisError`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import HistoryEventFilterType, PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    DescribeWorkflowExecutionResponse,
    GetWorkflowExecutionHistoryRequest,
)
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from trellis.db.board import View
from trellis.errors import BadInput, TrellisError
from trellis.event_fields import failed, time
from trellis.temporal_calls import unavailable

PATIENCE = timedelta(seconds=4)
SLOW = timedelta(seconds=3)
"""A task that is not started after this time waits for a worker."""

ALL_STATUSES = tuple(status.name for status in WorkflowExecutionStatus)
"""RUNNING, and then those of a run that has ended."""
RUNNING = WorkflowExecutionStatus.RUNNING.name

_QUERIED = {name: "".join(word.capitalize() for word in name.split("_")) for name in ALL_STATUSES}
"""Each status as a query writes it: TimedOut, ContinuedAsNew."""
_FROM_QUERY = {value: name for name, value in _QUERIED.items()}


@dataclass(frozen=True)
class Listed:
    """One run as visibility lists it. `status`: one of `ALL_STATUSES`."""

    workflow_id: str
    run_id: str
    workflow_type: str
    status: str
    queue: str
    started_at: datetime
    closed_at: datetime | None

    @property
    def run(self) -> tuple[str, str]:
        return self.workflow_id, self.run_id


@dataclass(frozen=True)
class Pending:
    """An activity that has not ended, by Describe. `started`: whether an attempt is under way. `due`: when its next
    attempt is scheduled, None while one runs. `waits`: it has waited for a worker for a while."""

    activity_type: str
    attempt: int
    started: bool
    due: datetime | None
    waits: bool
    error: str | None
    paused: bool = False


@dataclass(frozen=True)
class Described:
    """What Describe adds to a run. `at`: when it was asked. `task_attempt`: above 1, its workflow task fails again and
    again. `task_waits`: whether it has waited for a worker for a while."""

    at: datetime
    status: str
    pending: tuple[Pending, ...]
    task_attempt: int
    task_waits: bool
    closed_at: datetime | None


class Visibility:
    """The workflows of one query in one namespace."""

    def __init__(self, client: Client, query: str) -> None:
        self.client = client
        self.query = query

    def narrowed(self, view: View) -> str:
        """The query with the page's filter."""
        parts = [f"({self.query})"] if self.query else []
        if view.states:
            names = ", ".join(f"'{_QUERIED[state]}'" for state in view.states)
            parts.append(f"ExecutionStatus IN ({names})")
        if view.type:
            parts.append(f"WorkflowType = {quoted(view.type)}")
        if view.prefix:
            parts.append(f"WorkflowId STARTS_WITH {quoted(view.prefix)}")
        # Alone, the query is sent as it was written: then the server's sentence about it fits what the person wrote.
        return self.query if len(parts) == 1 and self.query else " AND ".join(parts)

    async def page(self, view: View, token: bytes | None) -> tuple[list[Listed], bytes | None]:
        """One page as Temporal sorts it (running ones first, the newest first), and where the next one begins."""
        query = self.narrowed(view)
        async with self._explained(query):
            found = self.client.list_workflows(query, page_size=view.size, next_page_token=token, rpc_timeout=PATIENCE)
            await found.fetch_next_page()
        lines = [
            Listed(
                one.id, one.run_id, one.workflow_type, one.status.name if one.status else RUNNING, one.task_queue,
                one.start_time, one.close_time,
            )
            for one in found.current_page or ()
        ]  # fmt: skip
        return lines, found.next_page_token or None

    async def counts(self) -> dict[str, int]:
        """How many workflows of the query are in each status."""
        query = f"{self.narrowed(View())} GROUP BY ExecutionStatus".strip()
        async with self._explained(query):
            found = await self.client.count_workflows(query, rpc_timeout=PATIENCE)
        return {_FROM_QUERY.get(str(group.group_values[0]), "RUNNING"): group.count for group in found.groups}

    async def count(self, view: View) -> int:
        """How many workflows pass the page's filter."""
        query = self.narrowed(view)
        async with self._explained(query):
            return (await self.client.count_workflows(query, rpc_timeout=PATIENCE)).count

    async def described(self, run: tuple[str, str]) -> Described | None:
        """What Describe adds; None for a run that Temporal no longer has."""
        at = datetime.now(UTC)
        found = await self.raw(run)
        return None if found is None else _read(found, at)

    async def raw(self, run: tuple[str, str]) -> DescribeWorkflowExecutionResponse | None:
        """Describe's answer as it came; None for a run that Temporal no longer has."""
        request = DescribeWorkflowExecutionRequest(namespace=self.client.namespace, execution=_execution(run))
        async with self._explained():
            try:
                return await self.client.workflow_service.describe_workflow_execution(request, timeout=PATIENCE)
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND and "amespace" not in error.message:
                    return None
                raise

    async def why_closed(self, run: tuple[str, str]) -> str | None:
        """Why a run failed or was terminated, by its last event."""
        request = GetWorkflowExecutionHistoryRequest(
            namespace=self.client.namespace, execution=_execution(run),
            history_event_filter_type=HistoryEventFilterType.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
        )  # fmt: skip
        async with self._explained():
            try:
                found = await self.client.workflow_service.get_workflow_execution_history(request, timeout=PATIENCE)
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return None
                raise
        for event in found.history.events[-1:]:
            about: Any = getattr(event, event.WhichOneof("attributes") or "", None)
            if event.HasField("workflow_execution_terminated_event_attributes"):
                return f"terminated: {about.reason}" if about.reason else "terminated"
            if hasattr(about, "failure"):
                return _in_words(about.failure)
        return None

    @asynccontextmanager
    async def _explained(self, query: str = "") -> AsyncIterator[None]:
        try:
            yield
        except RPCError as error:
            raise explained(error, self.client.namespace, query) from None


def explained(error: RPCError, namespace: str, query: str) -> TrellisError:
    """Temporal's refusal in one sentence; `TemporalUnavailable` if it is none."""
    message = " ".join(error.message.split())[:200]
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return BadInput(f"Temporal refuses {f'the query {query!r}' if query else 'the call'} ({message}).")
    if error.status is RPCStatusCode.NOT_FOUND and "amespace" in message:
        return BadInput(f"The namespace {namespace} does not exist on this server. Check its spelling.")
    if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return BadInput(f"This client may not read namespace {namespace} ({message}). Use a key that may.")
    return unavailable(error)


def quoted(value: str) -> str:
    """A text as a query takes it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def of_types(types: tuple[str, ...]) -> str:
    """The query for workflows of these types; all workflows if there are none."""
    return f"WorkflowType IN ({', '.join(map(quoted, types))})" if types else ""


def _execution(run: tuple[str, str]) -> WorkflowExecution:
    return WorkflowExecution(workflow_id=run[0], run_id=run[1])


def _read(found: DescribeWorkflowExecutionResponse, at: datetime) -> Described:
    info, task = found.workflow_execution_info, found.pending_workflow_task
    pending = []
    for one in found.pending_activities:
        started = one.state != PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
        due = None if started else time(one.next_attempt_schedule_time)
        waits = not started and at - (due or time(one.scheduled_time) or at) > SLOW
        pending.append(
            Pending(
                one.activity_type.name, one.attempt, started and not one.paused,
                due, waits,
                _in_words(one.last_failure) if one.HasField("last_failure") else None, one.paused,
            )
        )  # fmt: skip
    return Described(
        at,
        WorkflowExecutionStatus(info.status).name if info.status else RUNNING,
        tuple(pending),
        task.attempt,
        task.state == PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED
        and at - (time(task.scheduled_time) or at) > SLOW,
        time(info.close_time),
    )


def _in_words(failure: Any) -> str:
    """As the plugin notes it: an application's error with its type."""
    type_, message = failed(failure)
    if not message:
        return (type_ or "failed").replace("_", " ")
    return f"{type_}: {message}" if type_ and failure.HasField("application_failure_info") else message

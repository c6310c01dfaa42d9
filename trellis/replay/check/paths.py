"""The paths of histories: which workflows went the same way, so that one of them stands for all.

Two histories have the same path if their workflow has the same type, asked for the same things in the same order, and
was told the same kinds of things in between: an activity's answer or failure, a timer, a signal, an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory

from trellis.replay.events import attributes, type_of

ENDS = {
    "WORKFLOW_EXECUTION_COMPLETED", "WORKFLOW_EXECUTION_FAILED", "WORKFLOW_EXECUTION_TIMED_OUT",
    "WORKFLOW_EXECUTION_CANCELED", "WORKFLOW_EXECUTION_TERMINATED", "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
}  # fmt: skip
"""The events that close a workflow, as the SDK names them, without EVENT_TYPE_."""


def workflow_type(history: WorkflowHistory) -> str:
    """The type of the workflow. Raises ValueError where the history does not begin with a start."""
    first = history.events[0] if history.events else None
    if first is None or not first.HasField("workflow_execution_started_event_attributes"):
        raise ValueError("the history does not begin with the start of a workflow")
    return first.workflow_execution_started_event_attributes.workflow_type.name


def is_open(history: WorkflowHistory) -> bool:
    """Whether the history has no event that closes its workflow."""
    return type_of(history.events[-1]) not in ENDS


_NOT_THE_CODE = {
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,
}


def failed_task(events: Iterable[HistoryEvent]) -> HistoryEvent | None:
    """The first workflow task that the code failed. Not one that the server repeats because something came meanwhile,
    nor the one at which a reset began."""
    for event in events:
        failed = event.HasField("workflow_task_failed_event_attributes")
        if failed and event.workflow_task_failed_event_attributes.cause not in _NOT_THE_CODE:
            return event
    return None


_NAMED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "ACTIVITY_TASK_SCHEDULED": ("activity", lambda a: a.activity_type.name),
    "TIMER_STARTED": ("timer", lambda a: ""),
    "START_CHILD_WORKFLOW_EXECUTION_INITIATED": ("child workflow", lambda a: a.workflow_type.name),
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": ("signal", lambda a: a.signal_name),
    "MARKER_RECORDED": ("marker", lambda a: a.marker_name),
    "WORKFLOW_EXECUTION_SIGNALED": ("signalled", lambda a: a.signal_name),
    "WORKFLOW_EXECUTION_UPDATE_ACCEPTED": ("update", lambda a: a.accepted_request.input.name),
    "NEXUS_OPERATION_SCHEDULED": ("nexus", lambda a: a.operation),
}
_QUIET = {
    "WORKFLOW_TASK_SCHEDULED", "WORKFLOW_TASK_STARTED", "WORKFLOW_TASK_COMPLETED", "WORKFLOW_TASK_FAILED",
    "WORKFLOW_TASK_TIMED_OUT", "ACTIVITY_TASK_STARTED", "CHILD_WORKFLOW_EXECUTION_STARTED",
}  # fmt: skip

Path = tuple[tuple[str, str], ...]


def path_of(events: Iterable[HistoryEvent]) -> Path:
    """What the workflow asked for and what it was told, as (kind, name), in order. Activities in parallel may answer in
    another order, and then the path is another one."""
    return tuple(_steps(events))


def _steps(events: Iterable[HistoryEvent]) -> Iterator[tuple[str, str]]:
    asked: dict[int, str] = {}
    for event in events:
        name = type_of(event)
        if name in _QUIET:
            continue
        a = attributes(event)
        if name in _NAMED:
            kind, named = _NAMED[name]
            asked[event.event_id] = named(a)
            yield kind, asked[event.event_id]
            continue
        opened = [getattr(a, f"{what}_event_id", 0) for what in ("scheduled", "initiated", "started")]
        yield name, next((asked[id_] for id_ in opened if id_ in asked), "")


@dataclass
class Group:
    """The histories of one path, by their positions: the closed ones and the open ones."""

    type: str
    path: Path
    closed: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)

    def to_replay(self) -> list[int]:
        """One closed history, and every open one."""
        return self.closed[:1] + self.open


def grouped(histories: Sequence[WorkflowHistory]) -> list[Group]:
    """The histories by their paths, in the order in which the paths are first seen."""
    found: dict[tuple[str, Path], Group] = {}
    for number, history in enumerate(histories):
        key = workflow_type(history), path_of(history.events)
        group = found.setdefault(key, Group(*key))
        (group.open if is_open(history) else group.closed).append(number)
    return list(found.values())

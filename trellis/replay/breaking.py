"""Where code no longer fits its history, both sides in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from typing import TypeVar

from temporalio.api.history.v1 import HistoryEvent

from trellis.replay.commands import command_words
from trellis.replay.events import Index, attributes, marked, patch_of, type_of
from trellis.replay.steps import Broken, Command, Line, Step

T = TypeVar("T")
Key = tuple[str, str | None]

_EVENT = re.compile(r"HistoryEvent\(id: (\d+)")
_SCHEDULED = re.compile(r"scheduled event '([^']+)'")
_NOTHING = "nothing more"

_KINDS = {
    "ACTIVITY_TASK_SCHEDULED": "activity",
    "ACTIVITY_TASK_CANCEL_REQUESTED": "cancel activity",
    "TIMER_STARTED": "timer",
    "TIMER_CANCELED": "cancel timer",
    "START_CHILD_WORKFLOW_EXECUTION_INITIATED": "child workflow",
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": "signal",
    "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": "cancel external workflow",
    "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES": "search attributes",
    "WORKFLOW_PROPERTIES_MODIFIED": "memo",
    "WORKFLOW_EXECUTION_COMPLETED": "complete",
    "WORKFLOW_EXECUTION_FAILED": "fail",
    "WORKFLOW_EXECUTION_CANCELED": "cancelled",
    "WORKFLOW_EXECUTION_CONTINUED_AS_NEW": "continue as new",
    "WORKFLOW_EXECUTION_UPDATE_ACCEPTED": "update accepted",
    "WORKFLOW_EXECUTION_UPDATE_COMPLETED": "update completed",
    "NEXUS_OPERATION_SCHEDULED": "nexus operation",
    "NEXUS_OPERATION_CANCEL_REQUESTED": "cancel nexus operation",
}
"""The events that commands leave, and the kind of the command."""

_LEAVE_NO_EVENT = {"query answered", "update rejected", "cancel local activity", "cancel signal", "nothing"}
_CANCELS_A_CHILD = ("cancel child workflow", "cancel external workflow")


def asked_in_history(events: Sequence[HistoryEvent], task: int) -> list[HistoryEvent]:
    """The events that the commands of one workflow task left. `task`: the id of its last event before the commands."""
    found = []
    completed = {
        event.event_id
        for event in events
        if type_of(event) == "WORKFLOW_TASK_COMPLETED"
        and event.workflow_task_completed_event_attributes.started_event_id == task
    }
    for event in events:
        asked_by = getattr(attributes(event), "workflow_task_completed_event_id", 0)
        if asked_by in completed and left_by_a_command(event):
            found.append(event)
    return found


def left_by_a_command(event: HistoryEvent) -> bool:
    """True for the event of a command of the workflow's own. The SDK adds a search attribute to each patch."""
    kind = type_of(event)
    if kind == "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES":
        held = event.upsert_workflow_search_attributes_event_attributes
        return set(held.search_attributes.indexed_fields) != {"TemporalChangeVersion"}
    return kind in _KINDS or kind == "MARKER_RECORDED"


def history_key(event: HistoryEvent) -> Key:
    """The kind of the command that left the event, and the name by which the SDK compares it."""
    kind, held = type_of(event), attributes(event)
    if kind == "ACTIVITY_TASK_SCHEDULED":
        return "activity", held.activity_type.name
    if kind == "START_CHILD_WORKFLOW_EXECUTION_INITIATED":
        return "child workflow", held.workflow_type.name
    if kind == "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED":
        return "signal", held.signal_name
    if kind == "MARKER_RECORDED":
        if held.marker_name == "core_local_activity":
            return "local activity", str(marked(event).get("activity_type"))
        return ("patch", patch_of(event)) if held.marker_name == "core_patch" else ("marker", held.marker_name)
    return _KINDS.get(kind, kind), None


def command_key(command: Command) -> Key:
    """As `history_key`, for a command."""
    if command.kind in ("activity", "local activity", "child workflow", "signal", "patch"):
        return command.kind, command.name
    if command.kind in _CANCELS_A_CHILD:
        return _CANCELS_A_CHILD[1], None
    return command.kind, None


def broken_in(message: str, events: Sequence[HistoryEvent], index: Index, steps: Sequence[Step]) -> Broken:
    """Both sides of a non-determinism error, from its message and the last steps.

    The SDK's message names one side and often only its number. So the commands of the workflow task are compared with
    the events that the same task left in the history. Code that asks for nothing more is shown with the
    line where it waits.
    """
    named = _named(message, events)
    task = _task_of(named, index, steps)
    last = next((step.waits[0].frames[-1] for step in reversed(steps) if step.event == task and step.waits), None)
    left = asked_in_history(events, task)
    asked = _that_leave_events([command for step in steps if step.event == task for command in step.commands])
    only_left = _without([(history_key(event), event) for event in left], [command_key(each) for each in asked])
    only_asked = _without([(command_key(each), each) for each in asked], [history_key(event) for event in left])
    order = next(((e, c) for e, c in zip(left, asked, strict=False) if history_key(e) != command_key(c)), None)
    event = named or (only_left[0] if only_left else order[0] if order else None)
    command = only_asked[0] if only_asked else order[1] if order and not only_left else None
    history = _NOTHING if event is None else index.words(event)
    if event is None and command is None:
        return Broken(None, " ".join(message.split())[:300], "something else", last)
    if command is None:
        return Broken(None if event is None else event.event_id, history, _NOTHING, last)
    return Broken(None if event is None else event.event_id, history, command_words(command), command.asked_at)


def _without(these: Sequence[tuple[Key, T]], those: Iterable[Key]) -> list[T]:
    """What has a key that is not among those, each of which counts once."""
    left = Counter(those)
    found = []
    for key, each in these:
        if left[key]:
            left[key] -= 1
        else:
            found.append(each)
    return found


def _named(message: str, events: Sequence[HistoryEvent]) -> HistoryEvent | None:
    """The event that the SDK's message names, by its number or by its activity."""
    if found := _EVENT.search(message):
        return next((event for event in events if event.event_id == int(found[1])), None)
    if scheduled := _SCHEDULED.search(message):
        return next((e for e in events if history_key(e) == ("activity", scheduled[1])), None)
    return None


def _task_of(named: HistoryEvent | None, index: Index, steps: Sequence[Step]) -> int:
    """The last event before the commands that do not fit: of the task that left the named event, else the last."""
    held = None if named is None else attributes(named)
    completed = index.by_id.get(getattr(held, "workflow_task_completed_event_id", 0))
    if completed is not None and type_of(completed) == "WORKFLOW_TASK_COMPLETED":
        started = completed.workflow_task_completed_event_attributes.started_event_id
        if any(step.event == started for step in steps):
            return started
    return steps[-1].event if steps else 0


def _that_leave_events(commands: Sequence[Command]) -> list[Command]:
    """Without those that the history never holds. A timer that is cancelled in the task that asked for it is one."""
    gone = {command.options.get("id") for command in commands if command.kind == "cancel timer"}
    here = {command.options.get("id") for command in commands if command.kind == "timer"}
    at_once = gone & here
    return [
        command
        for command in commands
        if command.kind not in _LEAVE_NO_EVENT
        and not (command.kind in ("timer", "cancel timer") and command.options.get("id") in at_once)
    ]


def raised(step: Step, message: str, line: Line | None, index: Index, events: Sequence[HistoryEvent]) -> Broken:
    """For code that raised instead of asking for something."""
    left = asked_in_history(events, step.event)
    event = left[0] if left else None
    history = index.words(event) if event is not None else _NOTHING
    return Broken(event.event_id if event is not None else step.event, history, f"raises {message}", line)


def failure_line(stack: str, files: Container[str]) -> tuple[str, int, str] | None:
    """The innermost line of user code in a stack trace as Python prints it."""
    found = None
    for each in re.finditer(r'File "([^"]+)", line (\d+), in (\S+)', stack):
        if each[1] in files:
            found = each[1], int(each[2]), each[3]
    return found

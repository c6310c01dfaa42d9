"""The events of a history in words, and what belongs to what among them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent

from trellis.replay.payloads import Payloads, failure_words
from trellis.replay.steps import Event
from trellis.replay.values import Tree

_PREFIX = "EVENT_TYPE_"

_PAYLOAD = "temporal.api.common.v1.Payload"
_PAYLOADS = "temporal.api.common.v1.Payloads"
_FAILURE = "temporal.api.failure.v1.Failure"
_DURATION = "google.protobuf.Duration"
_NAMED = {"ActivityType": "name", "WorkflowType": "name", "TaskQueue": "name", "WorkflowExecution": "workflow_id"}
"""Messages that are shown as one of their fields."""

_LEFT_OUT = {
    "header", "identity", "request_id", "worker_version", "sdk_metadata", "binary_checksum", "namespace_id",
    "workflow_task_completed_event_id", "scheduled_event_id", "started_event_id", "initiated_event_id",
    "accepted_event_id", "new_execution_run_id", "original_execution_run_id", "first_execution_run_id", "decision",
    "accepted_request_sequencing_event_id", "use_workflow_build_id", "history_size_bytes", "deployment",
}  # fmt: skip
"""Fields that say nothing about what the workflow did."""


def type_of(event: HistoryEvent) -> str:
    """The SDK's name of the event's type without its prefix, or the number of a type that this SDK does not know."""
    try:
        return EventType.Name(event.event_type).removeprefix(_PREFIX)
    except ValueError:
        return f"UNKNOWN_{event.event_type}"


def attributes(event: HistoryEvent) -> Any:
    """The event's attributes; None where this SDK knows none for it."""
    name = event.WhichOneof("attributes")
    return None if name is None else getattr(event, name)


class Index:
    """Finds by an event what it belongs to, and by what woke a workflow the event that told of it."""

    def __init__(self, events: Sequence[HistoryEvent]) -> None:
        self.by_id = {event.event_id: event for event in events}
        self._started = [event.event_id for event in events if type_of(event) == "WORKFLOW_TASK_STARTED"]
        self._waking: defaultdict[tuple[str, Any], deque[int]] = defaultdict(deque)
        for event in events:
            for key in self._keys(event):
                self._waking[key].append(event.event_id)

    def woke(self, kind: str, which: Any = None, until: int | None = None) -> int | None:
        """The event that told of it: each is found once, in the history's order.

        None: the history has none among its first `until` events. A cancellation may come before the server knows.
        """
        found = self._waking.get((kind, which))
        return found.popleft() if found and (until is None or found[0] <= until) else None

    def task_started(self, until: int) -> int | None:
        """The last WORKFLOW_TASK_STARTED event among the first `until` events."""
        found = bisect_right(self._started, until)
        return self._started[found - 1] if found else None

    def activity(self, event: HistoryEvent | None) -> Any:
        """The attributes of the ACTIVITY_TASK_SCHEDULED event that an event of an activity belongs to, or None."""
        held = None if event is None else attributes(event)
        scheduled = self.by_id.get(getattr(held, "scheduled_event_id", 0))
        return scheduled.activity_task_scheduled_event_attributes if scheduled else None

    def seconds(self, event: HistoryEvent) -> str:
        """The time of the timer that a TIMER event belongs to, as text."""
        held = attributes(event)
        started = self.by_id.get(getattr(held, "started_event_id", 0))
        if started is not None:
            held = started.timer_started_event_attributes
        timeout = getattr(held, "start_to_fire_timeout", None)
        return "?" if timeout is None else f"{timeout.ToNanoseconds() / 1e9:g}"

    def _keys(self, event: HistoryEvent) -> Iterator[tuple[str, Any]]:
        kind, held = type_of(event), attributes(event)
        if kind in (
            "ACTIVITY_TASK_COMPLETED",
            "ACTIVITY_TASK_FAILED",
            "ACTIVITY_TASK_TIMED_OUT",
            "ACTIVITY_TASK_CANCELED",
        ):
            scheduled = self.activity(event)
            if scheduled is not None:
                yield "activity", scheduled.activity_id
        elif kind == "TIMER_FIRED":
            yield "timer", held.timer_id
        elif kind in ("CHILD_WORKFLOW_EXECUTION_STARTED", "START_CHILD_WORKFLOW_EXECUTION_FAILED"):
            yield "child start", getattr(held, "workflow_execution", held).workflow_id
        elif kind.startswith("CHILD_WORKFLOW_EXECUTION_"):
            yield "child", held.workflow_execution.workflow_id
        elif kind == "WORKFLOW_EXECUTION_CANCEL_REQUESTED":
            yield "cancel", None
        elif kind == "WORKFLOW_EXECUTION_SIGNALED":
            yield "signal", held.signal_name
        elif kind == "WORKFLOW_EXECUTION_UPDATE_ACCEPTED":
            yield "update", held.protocol_instance_id
        elif kind in ("EXTERNAL_WORKFLOW_EXECUTION_SIGNALED", "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED"):
            yield "signal sent", held.workflow_execution.workflow_id
        elif kind in (
            "EXTERNAL_WORKFLOW_EXECUTION_CANCEL_REQUESTED", "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED"
        ):  # fmt: skip
            yield "cancel sent", held.workflow_execution.workflow_id
        elif kind == "MARKER_RECORDED" and held.marker_name == "core_local_activity":
            yield "local activity", marked(event).get("seq")
        elif kind == "MARKER_RECORDED" and held.marker_name == "core_patch":
            yield "patch", patch_of(event)

    def words(self, event: HistoryEvent) -> str:
        """What the event says, such as "activity `charge` completed"."""
        kind, held = type_of(event), attributes(event)
        said = kind.lower().replace("_", " ")
        if held is None:
            return said
        if kind == "WORKFLOW_EXECUTION_STARTED":
            return f"workflow `{held.workflow_type.name}` started"
        if kind.startswith("ACTIVITY_TASK_"):
            return self._activity_words(event, said)
        if kind.startswith("TIMER_"):
            return f"timer of {self.seconds(event)} s {said.removeprefix('timer ')}"
        if kind == "WORKFLOW_EXECUTION_SIGNALED":
            return f"signal `{held.signal_name}`"
        if kind == "MARKER_RECORDED":
            return _marker_words(event)
        if kind.startswith("WORKFLOW_EXECUTION_UPDATE_"):
            return self._update_words(event, said)
        if kind == "START_CHILD_WORKFLOW_EXECUTION_INITIATED":
            return f"child `{held.workflow_id}` of type `{held.workflow_type.name}` initiated"
        if "CHILD_WORKFLOW_EXECUTION" in kind:
            id_ = getattr(held, "workflow_execution", held).workflow_id
            return f"child `{id_}` {said.replace('child workflow execution ', '')}{_why(held)}"
        if kind == "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED":
            return f"signal `{held.signal_name}` to `{held.workflow_execution.workflow_id}` initiated"
        return said + _why(held)

    def _activity_words(self, event: HistoryEvent, said: str) -> str:
        held = attributes(event)
        scheduled = held if hasattr(held, "activity_type") else self.activity(event)
        name = scheduled.activity_type.name if scheduled is not None else "?"
        attempt = f", attempt {held.attempt}" if getattr(held, "attempt", 1) > 1 else ""
        return f"activity `{name}` {said.removeprefix('activity task ')}{attempt}{_why(held)}"

    def _update_words(self, event: HistoryEvent, said: str) -> str:
        held = attributes(event)
        accepted = self.by_id.get(getattr(held, "accepted_event_id", 0))
        if accepted is not None:
            held = accepted.workflow_execution_update_accepted_event_attributes
        request = getattr(held, "accepted_request", None)
        name = f" `{request.input.name}`" if request is not None and request.input.name else ""
        return f"update{name} {said.removeprefix('workflow execution update ')}"


def _why(held: Any) -> str:
    return f": {failure_words(held.failure)}" if "failure" in _set(held) else ""


def _set(held: Any) -> set[str]:
    return {field.name for field, _ in held.ListFields()}


def marked(event: HistoryEvent) -> dict[str, Any]:
    """What the SDK wrote into a marker of its own: seq, activity_type and more. Empty if it cannot be read."""
    for payloads in event.marker_recorded_event_attributes.details.values():
        for payload in payloads.payloads:
            try:
                found = json.loads(payload.data)
            except ValueError:
                continue
            if isinstance(found, dict) and {"seq", "id", "patch_id"} & set(found):
                return found
    return {}


def patch_of(event: HistoryEvent) -> str:
    """The id of the patch that a patch marker records."""
    found = marked(event)
    return str(found.get("id") or found.get("patch_id") or "?")


def _marker_words(event: HistoryEvent) -> str:
    held = event.marker_recorded_event_attributes
    if held.marker_name == "core_local_activity":
        how = f"failed: {failure_words(held.failure)}" if held.HasField("failure") else "recorded"
        return f"local activity `{marked(event).get('activity_type', '?')}` {how}"
    if held.marker_name == "core_patch":
        return f"patch `{patch_of(event)}` recorded"
    return f"marker `{held.marker_name}` recorded"


async def read_events(events: Sequence[HistoryEvent], index: Index, payloads: Payloads) -> tuple[Event, ...]:
    """All events, with their payloads decoded. Not one of them stops the rest, whatever it holds."""
    carried = [payload for event in events for payload in _payloads(attributes(event))]
    decoded = iter(await payloads.through_codec(carried))
    known: dict[str, str] = {}
    found = []
    for event in events:
        words = index.words(event)
        found.append(
            Event(
                event.event_id,
                event.event_time.ToDatetime(UTC),
                known.setdefault(kind := type_of(event), kind),
                known.setdefault(words, words),
                _details(attributes(event), payloads, decoded),
            )
        )
    return tuple(found)


def _payloads(held: Any) -> Iterator[Payload]:
    """The payloads of an event's attributes, in the order of their fields."""
    if held is None:
        return
    for field, value in held.ListFields():
        yield from _of_field(field, value)


def _of_field(field: FieldDescriptor, value: Any) -> Iterator[Payload]:
    name = "" if field.message_type is None else field.message_type.full_name
    if name == _PAYLOAD:
        yield value
    elif name == _PAYLOADS:
        yield from value.payloads
    elif name == "temporal.api.update.v1.Request":
        yield from value.input.args.payloads
    elif name == "temporal.api.update.v1.Outcome":
        yield from value.success.payloads
    elif field.name == "details" and name.endswith("DetailsEntry"):
        for entry in value.values():
            yield from entry.payloads
    elif field.name == "search_attributes":
        # The server indexes them, so that no codec touches them.
        return


def _details(held: Any, payloads: Payloads, decoded: Iterator[Payload]) -> Tree:
    if held is None:
        return None
    found: dict[str, Tree] = {}
    for field, value in held.ListFields():
        if field.name in _LEFT_OUT:
            continue
        shown = _shown(field, value, payloads, decoded)
        if shown is not None:
            found[field.name] = shown
    return found or None


def _shown(field: FieldDescriptor, value: Any, payloads: Payloads, decoded: Iterator[Payload]) -> Tree:
    message = field.message_type
    # `decoded` has the payloads in the order in which the fields are gone through.
    carried = [payloads.tree(next(decoded)) for _ in _of_field(field, value)]
    if carried:
        return carried[0] if len(carried) == 1 else carried
    if field.name == "search_attributes":
        return payloads.named(value.indexed_fields)
    if message is None:
        if field.enum_type is not None:
            names = field.enum_type.values_by_number
            return names[value].name.lower() if value in names else value
        return value if isinstance(value, bool | int | float | str) else None
    if message.full_name == _FAILURE:
        return failure_words(value)
    if message.full_name == _DURATION:
        return float(value.ToNanoseconds() / 1e9)
    if message.name in _NAMED:
        return str(getattr(value, _NAMED[message.name]))
    return None

"""What a workflow was told in a recorded history, in its order, so that a new run can be told the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent

from trellis.replay.breaking import history_key
from trellis.replay.events import attributes, type_of

ACTIVITY, CHILD, SIGNAL, UPDATE, CANCEL = "activity", "child workflow", "signal", "update", "cancel"
NEVER = "NEVER"
_MESSAGES = (SIGNAL, UPDATE, CANCEL)


@dataclass(eq=False)
class Told:
    """One thing that a workflow was told: the answer of an activity (local or not) or child, or a message.

    `payloads`: the result, or the message's arguments, as the server had them. `failure`: in place of a result.
    `ended`: how an activity or child ended, such as ACTIVITY_TASK_TIMED_OUT, or NEVER. `asked`: the event that asked.
    `over`: it was told, or the new code does not ask for it.
    """

    kind: str
    name: str
    payloads: list[Payload] = field(default_factory=list)
    failure: Failure | None = None
    ended: str = ""
    asked: int = 0
    taken: bool = False
    over: bool = False


class Script:
    """Tells a new run what the recorded one was told, each thing after everything that came before it."""

    def __init__(self, events: Sequence[HistoryEvent]) -> None:
        self.told = list(_told(events))
        self._given: dict[str, Told | None] = {}

    async def answer(self, kind: str, name: str, asked: str) -> Told | None:
        """The recorded answer to the next call of this name, when its turn has come. None: the history has none.

        `asked` identifies the call: a repeated attempt gets the same answer. Where the history has fewer calls of this
        name, the last answer is given again.
        """
        if asked not in self._given:
            alike = [one for one in self.told if (one.kind, one.name) == (kind, name)]
            alike.sort(key=lambda one: one.asked)
            found = next((one for one in alike if not one.taken), alike[-1] if alike else None)
            if found is not None:
                found.taken = True
            self._given[asked] = found
        found = self._given[asked]
        while found is not None and not found.over and self.next is not found:
            await asyncio.sleep(0.02)
        return found

    @property
    def next(self) -> Told | None:
        """What comes next; None at the end."""
        return next((one for one in self.told if not one.over), None)

    @property
    def message(self) -> Told | None:
        """What comes next, if it is a message."""
        one = self.next
        return one if one is not None and one.kind in _MESSAGES else None


def _told(events: Sequence[HistoryEvent]) -> list[Told]:
    asked = {event.event_id: history_key(event) for event in events}
    found = []
    for event in events:
        name, a = type_of(event), attributes(event)
        if name == "WORKFLOW_EXECUTION_SIGNALED":
            found.append(Told(SIGNAL, a.signal_name, list(a.input.payloads)))
        elif name == "WORKFLOW_EXECUTION_UPDATE_ACCEPTED":
            given = a.accepted_request.input
            found.append(Told(UPDATE, given.name, list(given.args.payloads)))
        elif name == "WORKFLOW_EXECUTION_CANCEL_REQUESTED":
            found.append(Told(CANCEL, ""))
        elif name == "MARKER_RECORDED" and history_key(event)[0] == "local activity":
            failure = a.failure if a.HasField("failure") else None
            result = list(a.details["result"].payloads) if "result" in a.details else []
            found.append(Told(ACTIVITY, history_key(event)[1] or "", result, failure, name, event.event_id))
        elif name in _ENDS:
            kind, of = _ENDS[name]
            failure = a.failure if "failure" in a.DESCRIPTOR.fields_by_name and a.HasField("failure") else None
            key = asked.get(getattr(a, of), ("", None))
            found.append(Told(kind, key[1] or "", _result(a), failure, name, getattr(a, of)))
    answered = {one.asked for one in found}
    for id_, (kind, of_type) in asked.items():
        if kind in (ACTIVITY, CHILD) and id_ not in answered:
            # Nothing waits for its turn.
            found.append(Told(kind, of_type or "", ended=NEVER, asked=id_, over=True))
    return found


_ENDS = {
    **{f"ACTIVITY_TASK_{how}": (ACTIVITY, "scheduled_event_id") for how in
       ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELED")},
    **{f"CHILD_WORKFLOW_EXECUTION_{how}": (CHILD, "initiated_event_id") for how in
       ("COMPLETED", "FAILED", "TIMED_OUT", "CANCELED", "TERMINATED")},
}  # fmt: skip


def _result(a: Any) -> list[Payload]:
    return list(a.result.payloads) if "result" in a.DESCRIPTOR.fields_by_name else []

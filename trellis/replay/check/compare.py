"""Whether new code, replayed on a history, asked for the same things with the same input.

Temporal compares the kinds of commands, the types of activities and children and their ids. It does not compare what
they carry: code that charges another amount replays without a word.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent

from trellis.replay.breaking import command_key, history_key
from trellis.replay.check.report import BREAKS, FITS, OTHER_INPUT, Finding
from trellis.replay.commands import command_words, seconds
from trellis.replay.events import attributes, type_of
from trellis.replay.payloads import Payloads, failure_words
from trellis.replay.recording import Recording
from trellis.replay.steps import Command
from trellis.replay.values import Limits, Tree

LIMITS = Limits(depth=60, text=1_000_000, items=100_000, nodes=200_000)
"""Values are compared whole: what a picture of a recording leaves out might be what differs."""

_SHOWN = 120


@dataclass(frozen=True)
class _Asked:
    """A command that the history holds: its event, what it was, and what it carried."""

    event: HistoryEvent
    key: tuple[str, str | None]
    id: str
    carried: Any


async def finding(recording: Recording, events: Sequence[HistoryEvent], payloads: Payloads) -> Finding:
    """What a replay of these events says."""
    broken = recording.broken
    if broken is not None:
        file, line = (None, None) if broken.line is None else (broken.line.file, broken.line.line)
        return Finding(BREAKS, broken.event, broken.history, broken.code, file, line)
    return await _other_input(recording, events, payloads) or Finding(FITS)


async def _other_input(recording: Recording, events: Sequence[HistoryEvent], payloads: Payloads) -> Finding | None:
    """The first command that carries something else than the history's event, or None."""
    asked = await _asked(events, payloads)
    for step in recording.steps:
        there = asked.get(step.event, [])
        for command in step.commands:
            at = next((at for at, one in enumerate(there) if _same(one, command)), None)
            if at is None:
                continue
            one = there.pop(at)
            carries = _carries(command)
            if one.key[0] == command.kind == "timer" and one.carried == carries:
                continue
            if _plain(one.carried) != _plain(carries) or one.key[1] not in (None, command_key(command)[1]):
                where = command.asked_at
                history, code = _words(one, command, carries)
                place = (None, None) if where is None else (where.file, where.line)
                return Finding(OTHER_INPUT, one.event.event_id, history, code, *place)
    return None


def _same(one: _Asked, command: Command) -> bool:
    """Whether the event is of this command: of its kind, and with its id where both have one."""
    id_ = str(command.options.get("id") or "")
    return one.key[0] == command_key(command)[0] and (not one.id or not id_ or one.id == id_)


def _carries(command: Command) -> Any:
    if command.kind == "timer":
        return command.options.get("seconds")
    if command.kind == "signal":
        return {"to": command.options.get("to"), "arguments": command.input}
    return command.input


async def _asked(events: Sequence[HistoryEvent], payloads: Payloads) -> dict[int, list[_Asked]]:
    """The commands in the history, by the event with which their workflow task started."""
    started = {
        event.event_id: event.workflow_task_completed_event_attributes.started_event_id
        for event in events
        if event.HasField("workflow_task_completed_event_attributes")
    }
    found: defaultdict[int, list[_Asked]] = defaultdict(list)
    for event in events:
        task = getattr(attributes(event), "workflow_task_completed_event_id", 0)
        key = history_key(event)
        if task in started and key[0] != type_of(event):
            id_, carried = await _held(key[0], attributes(event), payloads)
            found[started[task]].append(_Asked(event, key, id_, carried))
    return found


async def _held(kind: str, a: Any, payloads: Payloads) -> tuple[str, Any]:
    """(id, what it carried) of a command's event."""

    async def trees(given: Sequence[Payload]) -> Tree:
        return payloads.trees(await payloads.through_codec(list(given)))

    async def named(given: Any) -> Tree:
        names = sorted(given)
        decoded = await payloads.through_codec([given[name] for name in names])
        return payloads.named(dict(zip(names, decoded, strict=True)))

    if kind == "activity":
        return a.activity_id, await trees(a.input.payloads)
    if kind == "timer":
        return a.timer_id, seconds(a.start_to_fire_timeout)
    if kind == "child workflow":
        return a.workflow_id, await trees(a.input.payloads)
    if kind == "signal":
        return "", {"to": a.workflow_execution.workflow_id, "arguments": await trees(a.input.payloads)}
    if kind == "complete":
        result = await trees(a.result.payloads)
        return "", result[0] if isinstance(result, list) else None
    if kind == "fail":
        return "", failure_words(a.failure)
    if kind == "continue as new":
        return "", await trees(a.input.payloads)
    if kind == "search attributes":
        # Never encoded by a codec: the server reads them.
        return "", payloads.named(a.search_attributes.indexed_fields)
    if kind == "memo":
        return "", await named(a.upserted_memo.fields)
    if kind == "nexus operation":
        return "", payloads.tree((await payloads.through_codec([a.input]))[0]) if a.HasField("input") else None
    if kind == "update completed":
        success = a.outcome.success.payloads
        if a.outcome.HasField("failure"):
            return a.meta.update_id, failure_words(a.outcome.failure)
        result = await trees(success)
        return a.meta.update_id, result[0] if isinstance(result, list) else None
    return "", None


def _words(one: _Asked, command: Command, carries: Any) -> tuple[str, str]:
    """Both sides. Of two long values only what differs is shown."""
    if command.kind == "timer":
        return f"timer of {one.carried:g} s", command_words(command)
    kind, name = one.key
    history = command_words(command) if name in (None, command.name) else f"{kind} `{name}`"
    path, before, after = _difference(one.carried, carries)
    return f"{history} with {path}{before}", f"{command_words(command)} with {path}{after}"


def _difference(before: Any, after: Any, path: tuple[str | int, ...] = ()) -> tuple[str, str, str]:
    """(where, the old value, the new one) of the first difference."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            if name not in before or name not in after or _plain(before[name]) != _plain(after[name]):
                missing = "nothing"
                if name not in before:
                    return _place((*path, name)), missing, _short(after[name])
                if name not in after:
                    return _place((*path, name)), _short(before[name]), missing
                return _difference(before[name], after[name], (*path, name))
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for at, (one, other) in enumerate(zip(before, after, strict=True)):
            if _plain(one) != _plain(other):
                return _difference(one, other, (*path, at))
    return _place(path), _short(before), _short(after)


def _place(path: tuple[str | int, ...]) -> str:
    if not path:
        return ""
    first, *rest = path
    text = f"argument {first + 1}" if isinstance(first, int) else str(first)
    for each in rest:
        text += f"[{each}]" if isinstance(each, int) else f".{each}"
    return f"{text} = "


def _short(value: Any) -> str:
    text = _plain(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _plain(value: Any) -> str:
    """A text that is equal for equal values, whatever the order of the fields. 1 and 1.0 and true differ."""
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)

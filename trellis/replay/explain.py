"""A recording in sentences, for somebody who does not know the code."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import PurePath

from trellis.replay.steps import Broken, Command, Line, Recorded, Step, Wait
from trellis.replay.values import Gone, shown

STOPS = (
    "Each stop is a workflow task, or the marker of a local activity within one. At the events between two stops the "
    "workflow does not run."
)
"""What every view of a recording says once."""

_SOME = 4
"""So many changes and commands of a step are told. The others are counted."""

_WORDS = {
    "activity": "asked for the activity {name}",
    "local activity": "asked for the local activity {name}",
    "child workflow": "asked for the child workflow {id}",
    "timer": "started a timer of {seconds} s",
    "signal": "sent the signal {name} to {to}",
    "cancel activity": "asked to cancel the activity {name}",
    "cancel local activity": "asked to cancel the local activity {name}",
    "cancel timer": "cancelled the timer of {seconds} s",
    "cancel child workflow": "asked to cancel the child workflow {id}",
    "cancel external workflow": "asked to cancel the workflow {name}",
    "nexus operation": "asked for the Nexus operation {name}",
    "complete": "completed the workflow",
    "fail": "failed the workflow",
    "cancelled": "ended the workflow as cancelled",
    "continue as new": "continued as a new run",
    "patch": "marked the patch {name}",
    "update accepted": "accepted the update {name}",
    "update rejected": "rejected the update {name}",
    "update completed": "answered the update {name}",
    "query answered": "answered the query {name}",
    "search attributes": "set search attributes",
    "memo": "changed the memo",
}
"""A command's kind in words. The input follows where it says how something ended or what it is now."""

_TELLING = {
    "complete": "with",
    "fail": "with",
    "update rejected": "with",
    "update completed": "with",
    "query answered": "with",
    "search attributes": "to",
    "memo": "by",
}


def story(recording: Recorded) -> str:
    """The whole recording: what it is, one sentence for each step, and how it ends."""
    started = _started(recording)
    return "\n".join(
        [
            heading(recording),
            STOPS,
            "",
            *(sentence(step, started) for step in recording.steps),
            *ending(recording),
        ]
    )


def heading(recording: Recorded) -> str:
    """What was replayed: "OrderWorkflow order-7: 10 steps, 46 events, 3.2 s."."""
    events = recording.events
    seconds = f", {_seconds(events[0].at, events[-1].at)}" if events else ""
    return (
        f"{recording.workflow_type} {recording.workflow_id}: {_count(len(recording.steps), 'step')}, "
        f"{_count(len(events), 'event')}{seconds}."
    )


def ending(recording: Recorded) -> list[str]:
    """What comes after the last step: why the replay stopped, the children, and the runs before and after."""
    found = []
    if recording.trouble:
        found.append(recording.trouble)
    elif recording.broken is not None:
        found.append(broken_words(recording.broken))
    if recording.children:
        children = (f"{child.workflow_id} ({_count(len(child.steps), 'step')})" for child in recording.children)
        found.append(f"Its children: {', '.join(children)}.")
    if recording.before is not None:
        found.append(f"It continues the run {recording.before.run_id}.")
    if recording.after is not None:
        found.append(f"It goes on as the run {recording.after.run_id}.")
    return ["", *found] if found else []


def sentence(step: Step, started: datetime | None = None) -> str:
    """One step: what woke the workflow, what it set, what it asked for, and where it waits now."""
    when = "" if started is None else f", after {_seconds(started, step.at)}"
    parts = [_woken(step), _changed(step), _asked(step), _waiting(step)]
    said = "; ".join(part for part in parts if part) or "nothing changed"
    end = "" if said.endswith("…") else "."
    return f"Event {step.event}{when}: {said}{end}{' ' if step.trouble else ''}{step.trouble}"


def broken_words(broken: Broken) -> str:
    """Both sides, where code and history part."""
    where = "" if broken.event is None else f" at event {broken.event}"
    line = "" if broken.line is None else f", {place(broken.line)}"
    return f"The code does not fit this history{where}. History: {broken.history}. Code: {broken.code}{line}."


def command_words(command: Command, width: int = 60) -> str:
    """One command: "asked for the activity `charge`", "started a timer of 5 s"."""
    name = f"`{command.name}`" if command.name else ""
    known = _WORDS.get(command.kind, f"issued the command {command.kind} {{name}}")
    options = command.options
    id_, to = (f"`{options[key]}`" if options.get(key) else "" for key in ("id", "to"))
    words = known.format(name=name, id=id_ or name, to=to, seconds=command.name).removesuffix(" to ").rstrip()
    if command.kind in _TELLING and command.input is not None:
        words += f" {_TELLING[command.kind]} {shown(command.input, width)}"
    return words


def place(line: Line) -> str:
    """A line as "order.py:165 in `_fulfil`": the file without its folders, the function without its class."""
    return f"{PurePath(line.file).name}:{line.line} in `{line.function.rpartition('.')[2]}`"


def waiting_at(wait: Wait) -> str:
    """Where a task waits: the line of its own function, and the innermost one if that is in another function.

    A decorator's wrapper is a function within a function, and passed over.
    """
    inner = wait.frames[-1]
    own = next((line for line in wait.frames if "<locals>" not in line.function), inner)
    if own is inner:
        return place(inner)
    return f"{place(own)} (within `{inner.function.rpartition('.')[2]}`, {PurePath(inner.file).name}:{inner.line})"


def _woken(step: Step) -> str:
    words = _together([woken.words for woken in step.woken_by])
    return f"woken by {words}" if words else ""


def _changed(step: Step) -> str:
    if step.number == 1:
        return f"began with {_count(len(step.changed), 'variable')}" if step.changed else ""
    set_ = [f"`{name}` to {shown(value)}" for name, value in step.changed.items() if not isinstance(value, Gone)]
    gone = [f"`{name}`" for name, value in step.changed.items() if isinstance(value, Gone)]
    said = [f"set {_together(set_)}"] if set_ else []
    return " and ".join(said + ([f"removed {_together(gone)}"] if gone else []))


def _asked(step: Step) -> str:
    return _together([command_words(command) for command in step.commands])


def _waiting(step: Step) -> str:
    waits = [waiting_at(wait) for wait in step.waits if wait.frames]
    if len(waits) == 1:
        return f"now waits at {waits[0]}"
    return f"now {len(waits)} tasks wait, at {_together(waits, 'of them')}" if waits else ""


def _together(words: list[str], times: str = "times") -> str:
    """Words in one: "a, b and c", "a (2 times)", or "a, b, c, d and 3 more"."""
    counted = [f"{each} ({number} {times})" if number > 1 else each for each, number in Counter(words).items()]
    if len(counted) > _SOME:
        counted = [*counted[:_SOME], f"{len(counted) - _SOME} more"]
    return " and ".join(filter(None, [", ".join(counted[:-1]), counted[-1]])) if counted else ""


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _seconds(start: datetime, end: datetime) -> str:
    seconds = (end - start).total_seconds()
    return f"{seconds:,.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _started(recording: Recorded) -> datetime | None:
    return recording.events[0].at if recording.events else None

"""Two recordings side by side, up to where they part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trellis.replay.steps import Recorded, Step


@dataclass(frozen=True)
class Parted:
    """`step`: the number of the first step in which two recordings differ; None if they never do. `words` say how."""

    step: int | None
    words: str


def part(one: Recorded, other: Recorded) -> Parted:
    """Where two recordings part: the first step that was woken by something else, waits elsewhere or asks for others.

    Waits are compared by task and function, commands by kind and name: two orders have other ids and other addresses,
    and an edit moves lines. When one recording ends before the other, they part at the step that only one has.
    """
    names = _named(one), _named(other)
    for mine, theirs in zip(one.steps, other.steps, strict=False):
        found = _difference(mine, theirs, names)
        if found:
            return Parted(mine.number, f"They part at step {mine.number}. {found}")
    if len(one.steps) == len(other.steps):
        return Parted(None, "They do not part: every step of both was woken, waits and asks alike.")
    longer, shorter = (0, other) if len(one.steps) > len(other.steps) else (1, one)
    number = len(shorter.steps) + 1
    return Parted(number, f"They part at step {number}: only {names[longer]} goes on.")


def _named(recording: Recorded) -> str:
    return f"{recording.workflow_id}" if recording.workflow_id else recording.workflow_type


def _difference(one: Step, other: Step, names: tuple[str, str]) -> str:
    for what, read in (("was woken by", _woken), ("asks for", _asked), ("waits in", _waits)):
        mine, theirs = read(one), read(other)
        if mine != theirs:
            first, second = names if names[0] != names[1] else ("The first", "the second")
            return f"{first} {what} {_listed(mine)}; {second} {what} {_listed(theirs)}."
    return ""


def _woken(step: Step) -> list[str]:
    return [woken.kind if woken.kind == woken.words else f"{woken.words}" for woken in step.woken_by]


def _asked(step: Step) -> list[str]:
    return [" ".join(filter(None, (command.kind, command.name))) for command in step.commands]


def _waits(step: Step) -> list[str]:
    return [f"{wait.frames[-1].function} ({wait.task})" if wait.frames else wait.task for wait in step.waits]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "nothing"

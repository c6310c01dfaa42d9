"""What a replay shows: the events of a history, and the steps of its workflow with what each one did.

A step is one activation: the SDK hands the workflow what happened since the last step, the workflow runs until every
task waits, and its commands go back. Most steps are workflow tasks. A local activity's marker ends a step too. Events
between two workflow tasks are no steps: the workflow did not run at them.

Everything here is plain: text, numbers and trees (`values`), never an object of the workflow. All times are UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from trellis.replay.values import Gone, Tree


class Line(NamedTuple):
    """A line of user code. `file` is the path as the code object has it, `function` the qualified name."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Woken:
    """One of the things that woke the workflow: the SDK's activation job, in words.

    `kind` is general ("activity resolved", "timer fired", "signal"), `words` is particular ("the answer of `charge`").
    `event` is the id of the history's event, or None if it has none.
    """

    kind: str
    words: str
    event: int | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Where one task of the workflow waits: every frame of user code, outermost first."""

    task: str
    frames: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """What the workflow asked for.

    `kind` is one of "activity", "local activity", "timer", "child workflow", "signal", "cancel activity",
    "cancel timer", "cancel child workflow", "complete", "fail", "cancelled", "continue as new", "patch",
    "update accepted", "update rejected", "update completed", "query answered", "search attributes", "memo", and others
    in the SDK's words. `name` is the type of an activity or child, the name of a signal, update or query, the id of a
    patch, a timer's seconds. `input` is the decoded input (or result, or failure), None if nothing was carried.
    `options` is plain: "id", "task queue", "seconds" of a timer, "to" of a signal, timeouts. `asked_at` is the
    innermost line of user code that asked for it, None if it is not known.
    """

    kind: str
    name: str | None = None
    input: Tree = None
    options: Mapping[str, Any] = field(default_factory=dict)
    asked_at: Line | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the history. `type` is the SDK's name without its prefix, as ACTIVITY_TASK_SCHEDULED."""

    id: int
    at: datetime
    type: str
    words: str
    details: Tree = None


@dataclass(frozen=True, slots=True)
class Step:
    """One activation of the workflow.

    `number` counts from 1. `event` is the last event taken in, `at` the workflow's time. `lines` are the lines of user
    code that ran, in order; None if they were not traced; `lines_cut` says how many more ran than are kept. `waits`
    names the task of the run method first. `changed` maps the path of each variable that changed (`paths`) to its new
    value, GONE for one that went; in the first step every variable is new.
    """

    number: int
    event: int
    at: datetime
    woken_by: tuple[Woken, ...]
    lines: tuple[Line, ...] | None
    lines_cut: int
    waits: tuple[Wait, ...]
    commands: tuple[Command, ...]
    changed: Mapping[str, Tree | Gone]
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """Where the code no longer fits its history: what the history has at `event`, and what the code asked for there."""

    event: int | None
    history: str
    code: str
    line: Line | None = None


class Recorded(Protocol):
    """What those who show a recording need of it. `recording.Recording` is one; this is what they import."""

    @property
    def workflow_id(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def workflow_type(self) -> str: ...
    @property
    def events(self) -> tuple[Event, ...]: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...
    @property
    def sources(self) -> Mapping[str, str]: ...
    @property
    def trouble(self) -> str: ...
    @property
    def broken(self) -> Broken | None: ...
    @property
    def children(self) -> tuple[Recorded, ...]: ...
    @property
    def before(self) -> Recorded | None: ...
    @property
    def after(self) -> Recorded | None: ...

    def explain(self, step: Step | int | None = None) -> str: ...
    def variables(self, step: Step | int) -> Mapping[str, Tree]: ...
    def snapshots(self) -> Iterator[tuple[Step, Mapping[str, Tree]]]: ...

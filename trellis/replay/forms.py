"""A step in other forms: a row of a table, and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from trellis.replay import explain
from trellis.replay.steps import Broken, Command, Line, Step
from trellis.replay.values import Tree, plain

COLUMNS = {
    "step": "int64",
    "event": "int64",
    "at": "datetime64[us, UTC]",
    "seconds": "float64",
    "woken_by": "string",
    "lines": "Int64",
    "file": "string",
    "line": "Int64",
    "function": "string",
    "waits": "int64",
    "waiting": "string",
    "commands": "string",
    "changed": "string",
    "trouble": "string",
}
"""The columns of `Recording.frame()` and their types. Its docstring says what they hold."""


def row(step: Step, started: datetime) -> tuple[Any, ...]:
    """One step, in the order of COLUMNS."""
    main = step.waits[0].frames[-1] if step.waits and step.waits[0].frames else None
    return (
        step.number,
        step.event,
        step.at,
        (step.at - started).total_seconds(),
        ", ".join(woken.words for woken in step.woken_by),
        None if step.lines is None else len(step.lines) + step.lines_cut,
        main and main.file,
        main and main.line,
        main and main.function,
        len(step.waits),
        "; ".join(explain.waiting_at(wait) for wait in step.waits if wait.frames),
        ", ".join(explain.command_words(command) for command in step.commands),
        ", ".join(step.changed),
        step.trouble,
    )


def step_json(step: Step, variables: Mapping[str, Tree]) -> dict[str, Any]:
    """One step of `trellis replay --json`. `waits` has one entry for each frame of each task, outermost first."""
    return {
        "event": step.event,
        "at": step.at.isoformat(),
        "woken_by": [{"kind": woken.kind, "words": woken.words, "event": woken.event} for woken in step.woken_by],
        "waits": [{"task": wait.task, **_line_json(line)} for wait in step.waits for line in wait.frames],
        "commands": [_command_json(command) for command in step.commands],
        "changed": {name: plain(value) for name, value in step.changed.items()},
        "variables": {name: plain(value) for name, value in variables.items()},
    }


def broken_json(broken: Broken) -> dict[str, Any]:
    return {
        "event": broken.event,
        "history": broken.history,
        "code": broken.code,
        "line": broken.line and _line_json(broken.line),
    }


def _command_json(command: Command) -> dict[str, Any]:
    return {
        "kind": command.kind,
        "name": command.name,
        "input": plain(command.input),
        "options": plain(dict(command.options)),
        "asked_at": command.asked_at and _line_json(command.asked_at),
    }


def _line_json(line: Line) -> dict[str, Any]:
    return line._asdict()

"""A recording as the JSON that its page draws, and as one HTML file.

The widget and the file draw the same JSON. It is compact: lines are pooled, and variables are kept as differences,
each a path and its new value, or a path alone for what is gone. Objects carry the name of their class under `TYPE`.

    {"lines": [[file, line, function], ...],
     "runs": [{"id", "run", "type", "title", "began", "files": {name: text}, "trouble", "broken",
               "events": [{"id", "at", "type", "words", "step", "stops"?}],
               "steps": [{"event", "at", "says", "woken": [{"words", "event", "details"?}],
                          "lines": [[line, times], ...] or null, "cut"?, "waits": [[task, [line, ...]], ...],
                          "commands": [{"kind", "name"?, "input"?, "options"?, "line"?}],
                          "changed": [[path, value] or [path], ...]}]}],
     "sides": [[run, ...], ...], "books": [{"name", "columns", "rows": [[at, ...], ...]}], "parted": {"step", "words"}}

Times are milliseconds since 1970. `step`, and `stops` (the first and the last one at an event), count steps from 0.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, cast

from trellis.errors import BadInput
from trellis.pages.file import document, write
from trellis.pages.joining import Page
from trellis.replay import explain
from trellis.replay.beside import part
from trellis.replay.changes import changes
from trellis.replay.paths import keys
from trellis.replay.redact import REDACTED, Pattern, Redactor
from trellis.replay.steps import Command, Event, Line, Recorded, Step, Woken
from trellis.replay.values import GONE, Fields, Tree, tree

FOLDER = Path(__file__).with_name("page")

WIDGET = Page((FOLDER,), "time_machine")
FILE = Page((FOLDER,), "saved")

TYPE = "\x00"
"""The key under which an object carries the name of its class. No variable and no field has this name."""

EXACT = 2**53
"""JavaScript knows whole numbers up to here."""

Books = Mapping[str, Any]
"""Books by their names: for each a DataFrame, or a sequence of mappings. Each row has its time under "at"."""

_OF_COMMANDS = (
    "WORKFLOW_TASK_COMPLETED", "ACTIVITY_TASK_SCHEDULED", "ACTIVITY_TASK_CANCEL_REQUESTED", "TIMER_STARTED",
    "TIMER_CANCELED", "MARKER_RECORDED", "START_CHILD_WORKFLOW_EXECUTION_INITIATED",
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED", "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED",
    "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "WORKFLOW_PROPERTIES_MODIFIED", "WORKFLOW_EXECUTION_UPDATE_ACCEPTED",
    "WORKFLOW_EXECUTION_UPDATE_COMPLETED", "WORKFLOW_EXECUTION_COMPLETED", "WORKFLOW_EXECUTION_FAILED",
    "WORKFLOW_EXECUTION_CANCELED", "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
)  # fmt: skip
"""Events that a workflow task wrote. A click on one goes to the step that asked, on others to the step they woke."""


def save(
    recording: Recorded, path: str | os.PathLike[str], *, redact: Iterable[Pattern] = (), books: Books | None = None,
    beside: Recorded | None = None,
) -> Path:  # fmt: skip
    """Write the recording as one HTML file that opens without kernel and network, and return its path.

    redact: fields whose values are replaced, see `trellis.replay.redact`. books: what was kept outside the workflow.
    beside: a second recording, laid beside this one. The file holds the source of the workflow as it is.
    Raises BadInput, and writes nothing.
    """
    page = page_json(recording, beside=beside, books=books, redact=redact)
    title = f"Time machine: {page['runs'][0]['id']}"
    if beside is not None:
        title += f" beside {page['runs'][page['sides'][1][0]]['id']}"
    return write(path, document(FILE, title, page))


def page_json(
    recording: Recorded, *, beside: Recorded | None = None, books: Books | None = None,
    redact: Iterable[Pattern] = (),
) -> dict[str, Any]:  # fmt: skip
    """What the page draws, as the module describes. Raises BadInput for a pattern or a book that cannot be read."""
    sides = [list(_family(one)) for one in (recording, beside) if one is not None]
    tables = _tables(books or {})
    redactor = Redactor(redact)
    if redactor:
        for family in sides:
            for _, run in family:
                _note(run, redactor)
        for name, _, rows in tables:
            for row in rows:
                redactor.note(row, (name,))
    writer = _Writer(redactor, _file_names([run for family in sides for _, run in family]))
    runs: list[dict[str, Any]] = []
    places: list[list[int]] = []
    for family in sides:
        places.append(list(range(len(runs), len(runs) + len(family))))
        runs += [writer.run(run, title) for title, run in family]
    parted = None if beside is None else part(recording, beside)
    return {
        "lines": [list(line) for line in writer.lines],
        "runs": runs,
        "sides": places,
        "books": [writer.book(*table) for table in tables],
        "parted": parted and {"step": parted.step, "words": redactor.text(parted.words)},
    }


def _family(recording: Recorded) -> Iterator[tuple[str, Recorded]]:
    """The recording, what it started, and the runs before and after it: each with a title for its tab."""
    seen: set[int] = set()

    def once(title: str, run: Recorded) -> Iterator[tuple[str, Recorded]]:
        if id(run) not in seen:
            seen.add(id(run))
            yield title, run
            for child in run.children:
                yield from once(child.workflow_id, child)

    yield from once(recording.workflow_type or recording.workflow_id, recording)
    for name in ("before", "after"):
        run: Recorded | None = getattr(recording, name)
        far = 1
        while run is not None and id(run) not in seen:
            yield from once(f"{far} run{'s' * (far > 1)} {name}", run)
            run, far = getattr(run, name), far + 1


def _note(run: Recorded, redactor: Redactor) -> None:
    for event in run.events:
        redactor.note(event.details, ("details",))
    for step, variables in run.snapshots():
        redactor.note(dict(variables))
        for command in step.commands:
            redactor.note(command.input, ("input",))
            redactor.note(dict(command.options), ("options",))


def _file_names(runs: Sequence[Recorded]) -> dict[str, str]:
    """Short names of the files, from the folder that holds all of them. A whole path would tell who saved the file."""
    files = {file for run in runs for file in run.sources}
    files |= {line.file for run in runs for step in run.steps for line in _lines_of(step)}
    folders = {str(PurePath(file).parent) for file in files}
    try:
        above = PurePath(os.path.commonpath(folders)).parent if folders else PurePath()
    except ValueError:
        # Some are relative, or on another drive.
        return {file: PurePath(file).name for file in files}
    return {file: PurePath(file).relative_to(above).as_posix() for file in files}


def _lines_of(step: Step) -> Iterator[Line]:
    yield from step.lines or ()
    for wait in step.waits:
        yield from wait.frames
    yield from (command.asked_at for command in step.commands if command.asked_at is not None)


class _Writer:
    """Writes runs and books. `lines` is the pool that all of them share."""

    def __init__(self, redactor: Redactor, files: Mapping[str, str]) -> None:
        self._redactor = redactor
        self._files = files
        self._text = redactor.text
        self._places: dict[Line, int] = {}

    @property
    def lines(self) -> Iterable[Line]:
        return self._places

    def _place(self, line: Line | None) -> int | None:
        if line is None:
            return None
        line = line._replace(file=self._files.get(line.file, line.file))
        return self._places.setdefault(line, len(self._places))

    def _tree(self, value: Tree, *path: str) -> Any:
        return _encoded(self._redactor.tree(value, path))

    def run(self, run: Recorded, title: str) -> dict[str, Any]:
        broken = run.broken
        return {
            "id": self._text(run.workflow_id),
            "run": run.run_id,
            "type": run.workflow_type,
            "title": self._text(title),
            "began": _millis(run.events[0].at) if run.events else 0,
            "files": {self._files.get(file, file): text for file, text in run.sources.items()},
            "trouble": self._text(run.trouble),
            "broken": broken
            and {
                "event": broken.event, "history": self._text(broken.history), "code": self._text(broken.code),
                "line": self._place(broken.line),
            },
            "events": list(self._events(run.events, run.steps)),
            "steps": list(self._steps(run)),
        }  # fmt: skip

    def _events(self, events: Sequence[Event], steps: Sequence[Step]) -> Iterator[dict[str, Any]]:
        reached = [step.event for step in steps]
        for event in events:
            if event.type in _OF_COMMANDS:
                step = max(bisect_right(reached, event.id) - 1, 0)
            else:
                step = min(bisect_left(reached, event.id), max(len(reached) - 1, 0))
            # With local activities one workflow task has several stops.
            first, after = bisect_left(reached, event.id), bisect_right(reached, event.id)
            stops = {"stops": [first, after - 1]} if first < after else {}
            yield {
                "id": event.id, "at": _millis(event.at), "type": event.type, "words": self._text(event.words),
                "step": step, **stops,
            }  # fmt: skip

    def _steps(self, run: Recorded) -> Iterator[dict[str, Any]]:
        details = {event.id: event.details for event in run.events}
        began = run.events[0].at if run.events else None
        for step in self._clean(run):
            yield {
                "event": step.event,
                "at": _millis(step.at),
                "says": self._text(explain.sentence(step, began)),
                "woken": [self._woken(woken, details) for woken in step.woken_by],
                "lines": None if step.lines is None else self._executed(step.lines),
                **({"cut": step.lines_cut} if step.lines_cut else {}),
                "waits": [[wait.task, [self._place(line) for line in wait.frames]] for wait in step.waits],
                "commands": [self._command(command) for command in step.commands],
                "changed": [
                    [list(keys(path))] if value is GONE else [list(keys(path)), _encoded(value)]
                    for path, value in step.changed.items()
                ],
            }

    def _clean(self, run: Recorded) -> Iterator[Step]:
        """The steps without what is redacted, so that their sentences do not quote it either."""
        if not self._redactor:
            yield from run.steps
            return
        before: dict[str, Tree] = {}
        for step, variables in run.snapshots():
            now = {self._text(name): self._redactor.tree(value, (name,)) for name, value in variables.items()}
            # What is redacted does not change, so what did is looked for once more.
            changed = changes(cast(Tree, before), cast(Tree, now))
            yield replace(step, changed=changed, commands=tuple(map(self._clean_command, step.commands)))
            before = now

    def _clean_command(self, command: Command) -> Command:
        options = self._redactor.tree(tree(dict(command.options)), ("options",))
        return replace(
            command,
            name=command.name and self._text(command.name),
            input=self._redactor.tree(command.input, ("input",)),
            options=options if isinstance(options, dict) else dict.fromkeys(command.options, REDACTED),
        )

    def _woken(self, woken: Woken, details: Mapping[int, Tree]) -> dict[str, Any]:
        carried = details.get(woken.event) if woken.event is not None else None
        found = {"words": self._text(woken.words), "event": woken.event, "details": self._tree(carried, "details")}
        return {name: value for name, value in found.items() if value not in (None, {})}

    def _executed(self, lines: Sequence[Line]) -> list[list[int | None]]:
        """Each line once, in the order of its first run, and how often it ran."""
        return [[self._place(line), times] for line, times in Counter(lines).items()]

    def _command(self, command: Command) -> dict[str, Any]:
        found = {
            "kind": command.kind,
            "name": command.name,
            "input": _encoded(command.input),
            "options": _encoded(tree(dict(command.options))),
            "line": self._place(command.asked_at),
        }
        return {name: value for name, value in found.items() if value not in (None, {})}

    def book(self, name: str, columns: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "name": name,
            "columns": columns,
            "rows": [
                [row["at"], *(self._tree(row[column], name, column) for column in columns)] for row in rows
            ],
        }  # fmt: skip


def _encoded(value: Any) -> Any:
    """A tree as JSON that a browser reads without loss. NaN, infinities and very large numbers become text."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return [_encoded(part) for part in value]
    if isinstance(value, dict):
        named = {TYPE: value.type} if isinstance(value, Fields) else {}
        return named | {key: _encoded(part) for key, part in value.items()}
    return str(value)


def _millis(when: datetime) -> float:
    return round(when.timestamp() * 1000, 3)


def _tables(books: Books) -> list[tuple[str, list[str], list[dict[str, Any]]]]:
    """(name, columns, rows) of each book, the rows in the order of their times [ms]. Raises BadInput."""
    found = []
    for name, given in books.items():
        records = given.to_dict("records") if hasattr(given, "to_dict") else list(given)
        rows: list[dict[str, Any]] = []
        for record in records:
            at = record.get("at") if isinstance(record, Mapping) else None
            # A missing time of pandas is a datetime that is not equal to itself.
            if not isinstance(at, datetime) or at != at:
                raise BadInput(f"A row of the book {name!r} has no time under 'at'.")
            moment = at if at.tzinfo else at.replace(tzinfo=UTC)
            rows.append({str(key): _cell(value) for key, value in record.items()} | {"at": _millis(moment)})
        rows.sort(key=lambda row: row["at"])
        columns = list(dict.fromkeys(key for row in rows for key in row if key != "at"))
        found.append((name, columns, [dict.fromkeys(columns) | row for row in rows]))
    return found


def _cell(value: Any) -> Tree:
    """One value of a book. Frames hold types of their own, and they are written as text."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, bool | int | float | str | dict | list):
        return tree(value)
    return None if str(value) in ("NaT", "<NA>") else str(value)

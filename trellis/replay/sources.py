"""Where histories come from: a JSON file, a folder of them, or a Temporal server.

Files are what `temporal workflow show --output json`, Temporal's UI and the SDK's `WorkflowHistory.to_json` write.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import TemporalUnavailable
from trellis.replay.errors import ReplayError, in_one_line

_SEARCHED = 50_000_000
"""The largest file that is searched for the children of another file's workflow [bytes]."""

LARGEST = 1_000_000_000
"""The largest file that is read [bytes]."""


@dataclass(frozen=True)
class Loaded:
    """One history. `note`: one sentence about what is missing from it, or "". `file`: where it came from."""

    history: WorkflowHistory
    note: str = ""
    file: Path | None = None


def load(path: str | Path, unreadable: list[str] | None = None) -> list[Loaded]:
    """The history in a JSON file, or all that are in a folder's *.json files, in the order of their names.

    A file that ends in the middle gives the events that are whole, with a note. `unreadable` gets a sentence for each
    file of a folder that is no history; without it, or if no file is one, the first of them is raised. Raises
    ReplayError: no such file, an empty one, JSON that is no history, a folder without any.
    """
    where = Path(path)
    if not where.is_dir():
        return [load_file(where)]
    found: list[Loaded] = []
    failed: list[ReplayError] = []
    for file in sorted(where.glob("*.json")):
        try:
            found.append(load_file(file))
        except ReplayError as error:
            failed.append(error)
    if failed and (unreadable is None or not found):
        raise failed[0]
    if not found:
        raise ReplayError(f"The folder {where} holds no *.json file.")
    if unreadable is not None:
        unreadable += [str(error) for error in failed]
    return found


def load_file(path: str | Path) -> Loaded:
    """One history. Raises ReplayError."""
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST:
            raise ReplayError(f"{file} is larger than {LARGEST / 1e9:g} GB, which no history is.")
        text = file.read_text("utf-8-sig")
    except OSError as error:
        raise ReplayError(f"{file} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ReplayError(
            f"{file} is not text. A history is JSON, as `temporal workflow show -o json` prints."
        ) from None
    if not text.strip():
        raise ReplayError(f"{file} is empty.")
    return replace(loads(text, str(file), file.stem), file=file)


def loads(text: str, name: str, otherwise: str) -> Loaded:
    """A history from its JSON. `name` stands for it in sentences; `otherwise` is the workflow id if it holds none.

    Raises ReplayError.
    """
    note = ""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = list(_whole_events(text))
        if not found:
            raise ReplayError(f"{name} holds no JSON: a history is JSON, with a list of events.") from None
        note = f"{name} ends in the middle: only its first {len(found):,} events can be read."
    events = found.get("events") if isinstance(found, dict) else found
    if not isinstance(events, list) or not events or not all(isinstance(event, dict) for event in events):
        raise ReplayError(f"{name} is JSON but no history: it holds no list of events.")
    try:
        history = WorkflowHistory.from_json(otherwise, {"events": events})
    except Exception as error:
        raise ReplayError(f"{name} holds events that cannot be read ({in_one_line(error)}).") from None
    loaded = checked(history, name)
    return replace(loaded, note=note or loaded.note)


def _whole_events(text: str) -> Iterator[Any]:
    """The events of a history's JSON, one by one, as far as they are whole."""
    start = text.find("[")
    if start < 0 or (text.lstrip()[0] != "[" and '"events"' not in text[:start]):
        return
    decoder = json.JSONDecoder()
    at = start + 1
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        try:
            event, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return
        yield event


def checked(history: WorkflowHistory, name: str) -> Loaded:
    """The history up to its first gap, with its own workflow id if it holds one. Raises ReplayError."""
    events = list(history.events)
    if not events:
        raise ReplayError(f"{name} holds no events.")
    first = events[0]
    if not first.HasField("workflow_execution_started_event_attributes"):
        raise ReplayError(
            f"{name} does not begin with the workflow's start but with event {first.event_id}. A replay needs the "
            f"beginning."
        )
    id_ = first.workflow_execution_started_event_attributes.workflow_id or history.workflow_id
    for number, event in enumerate(events, first.event_id):
        if event.event_id != number:
            note = (
                f"{name} has a gap: event {event.event_id} follows event {number - 1}. Only what is before it is shown."
            )
            return Loaded(WorkflowHistory(id_, events[: number - first.event_id]), note)
    return Loaded(WorkflowHistory(id_, events))


async def fetched(client: Client, workflow_id: str, run_id: str | None = None) -> Loaded:
    """The history of a workflow so far, of its latest run unless `run_id` names another.

    Raises ReplayError if there is none, TemporalUnavailable.
    """
    try:
        history = await client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            which = f"run {run_id} of workflow {workflow_id}" if run_id else f"workflow {workflow_id}"
            raise ReplayError(f"Temporal's namespace {client.namespace} has no {which}.") from None
        raise TemporalUnavailable(f"The history of {workflow_id} cannot be read: {error.message}.") from None
    return checked(history, f"The history of {workflow_id}")


async def listed(client: Client, query: str, limit: int | None = None) -> AsyncIterator[tuple[str, str]]:
    """(workflow id, run id) of what a visibility query finds. Raises ReplayError, TemporalUnavailable."""
    try:
        async for execution in client.list_workflows(query, limit=limit):
            yield execution.id, execution.run_id
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            raise ReplayError(f"Temporal does not understand the query {query!r}: {error.message}.") from None
        raise TemporalUnavailable(f"The workflows cannot be listed: {error.message}.") from None


class Folder:
    """The histories in a folder, by workflow id and run id. A file that cannot be read is left out."""

    def __init__(self, folder: Path, most: int = 2000) -> None:
        self._files = [file for file in sorted(folder.glob("*.json"))[:most] if file.stat().st_size < _SEARCHED]
        self._known: dict[tuple[str, str], Path] | None = None

    def find(self, workflow_id: str, run_id: str) -> Loaded | None:
        """The history of the run, or else of a workflow with this id whose run the file does not tell."""
        if self._known is None:
            self._known = dict(self._ids())
        file = self._known.get((workflow_id, run_id)) or self._known.get((workflow_id, ""))
        return load_file(file) if file else None

    def _ids(self) -> Iterator[tuple[tuple[str, str], Path]]:
        for file in self._files:
            try:
                first = next(_whole_events(file.read_text("utf-8-sig")))["workflowExecutionStartedEventAttributes"]
                run = first.get("originalExecutionRunId", "")
                yield (first.get("workflowId", file.stem), run), file
            except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
                continue

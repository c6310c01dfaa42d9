"""The recordings that belong to one: its children, and the runs before and after it in a chain of continue-as-new."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from temporalio.client import Client, WorkflowHistory

from trellis.errors import TrellisError
from trellis.replay.errors import ReplayError
from trellis.replay.events import attributes, type_of
from trellis.replay.recording import Recording
from trellis.replay.sources import Folder, Loaded, fetched

MOST = 50
"""The most recordings of one family."""

Records = Callable[[Loaded], Awaitable[Recording]]


class Finder(Protocol):
    """Finds the history of a run."""

    async def find(self, workflow_id: str, run_id: str) -> Loaded | None: ...


@dataclass(frozen=True)
class OnServer:
    """Finds histories on a server."""

    client: Client

    async def find(self, workflow_id: str, run_id: str) -> Loaded | None:
        try:
            return await fetched(self.client, workflow_id, run_id)
        except TrellisError:
            # The namespace's retention is over, or the child is in another namespace.
            return None


@dataclass(frozen=True)
class InFolder:
    """Finds histories in the files of a folder."""

    folder: Folder

    async def find(self, workflow_id: str, run_id: str) -> Loaded | None:
        try:
            return self.folder.find(workflow_id, run_id)
        except TrellisError:
            return None


def children_of(history: WorkflowHistory) -> list[tuple[str, str]]:
    """(workflow id, run id) of the children that were started, in their order."""
    return [
        (started.workflow_execution.workflow_id, started.workflow_execution.run_id)
        for event in history.events
        if type_of(event) == "CHILD_WORKFLOW_EXECUTION_STARTED"
        for started in [event.child_workflow_execution_started_event_attributes]
    ]


def run_before(history: WorkflowHistory) -> str:
    """The run that this one continues, or ""."""
    started = history.events[0].workflow_execution_started_event_attributes
    return str(started.continued_execution_run_id)


def run_after(history: WorkflowHistory) -> str:
    """The run that continues this one, or ""."""
    return str(getattr(attributes(history.events[-1]), "new_execution_run_id", ""))


class Family:
    """Records the family of a run. Each run is recorded once, and at most MOST of them."""

    def __init__(self, finder: Finder, record: Records) -> None:
        self._finder = finder
        self._record = record
        self._left = MOST

    async def gather(self, recording: Recording, history: WorkflowHistory) -> None:
        """Set the recording's children, `before` and `after`, and those of theirs."""
        recording.children = tuple([child async for child in self._children(recording, history)])
        await self._chain(recording, history, back=True)
        await self._chain(recording, history, back=False)

    async def _children(self, recording: Recording, history: WorkflowHistory) -> AsyncIterator[Recording]:
        for workflow_id, run_id in children_of(history):
            if not self._left:
                recording.trouble = recording.trouble or f"Only {MOST} of the workflows that belong to it are shown."
                return
            found = await self._one(workflow_id, run_id)
            if found is None:
                continue
            child, its_history = found
            child.children = tuple([each async for each in self._children(child, its_history)])
            yield child

    async def _chain(self, recording: Recording, history: WorkflowHistory, *, back: bool) -> None:
        while self._left and (run_id := (run_before if back else run_after)(history)):
            found = await self._one(recording.workflow_id, run_id)
            if found is None:
                return
            other, history = found
            other.children = tuple([each async for each in self._children(other, history)])
            if back:
                recording.before, other.after = other, recording
            else:
                recording.after, other.before = other, recording
            recording = other

    async def _one(self, workflow_id: str, run_id: str) -> tuple[Recording, WorkflowHistory] | None:
        loaded = await self._finder.find(workflow_id, run_id)
        if loaded is None:
            return None
        self._left -= 1
        try:
            return await self._record(loaded), loaded.history
        except ReplayError as error:
            # Its class is missing, for instance: its events are shown.
            return None if error.recording is None else (error.recording, loaded.history)

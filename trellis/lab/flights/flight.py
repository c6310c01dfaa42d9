"""A flight: somebody's workflows and activities, run with the plugin on the engine's thread."""

from __future__ import annotations

import asyncio
import dataclasses
import html
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from temporalio.converter import DataConverter

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.flying import calls
from trellis.flying.app import App, app_of
from trellis.flying.cells import note_on
from trellis.flying.places import connected, queue_of
from trellis.flying.running import AppWorker
from trellis.lab.engine import Engine
from trellis.lab.flights.again import read_again
from trellis.lab.flights.visibility import quoted
from trellis.plugin import TrellisPlugin

OpenBoard = Callable[[str, str], Any]
"""Opens the control room for a visibility query in a namespace."""


class Flight:
    """Workflow types and activity types on one task queue of one namespace, as `Session.fly` runs them.

    `client` is connected to the flight's namespace, with the flight's data converter. `notes`: sentences about how the
    flight differs from what its user's own worker would do. `closed`: it no longer works.
    """

    def __init__(
        self, engine: Engine, open_board: OpenBoard, app: App, worker: AppWorker, notes: Iterable[str] = ()
    ) -> None:
        self.app = app
        self.client = worker.client
        self.notes = tuple(filter(None, notes))
        self._engine = engine
        self._open_board = open_board
        self._worker = worker
        self._ending: asyncio.Task[bool] | None = None

    @property
    def workflows(self) -> tuple[type, ...]:
        return self.app.workflows

    @property
    def activities(self) -> tuple[Callable[..., Any], ...]:
        return self.app.activities

    @property
    def workflow_types(self) -> tuple[str, ...]:
        """The names that Temporal knows the workflows by, in the order of `workflows`."""
        return self.app.workflow_types

    @property
    def activity_types(self) -> tuple[str, ...]:
        return self.app.activity_types

    @property
    def namespace(self) -> str:
        return self.client.namespace

    @property
    def task_queue(self) -> str:
        return self._worker.task_queue

    @property
    def closed(self) -> bool:
        return self._ending is not None or not self._engine.running

    def start(self, workflow: str | type | Callable[..., Any], *args: Any, id: str | None = None) -> str:
        """Start a workflow on this flight's queue, and return its id.

        workflow: its class, its run method or its type's name. id: without one it gets a new one.
        Raises BadInput: the flight does not have it, or the arguments cannot be encoded; TrellisError: Temporal
        refuses it, for example because a workflow with this id runs.
        """
        type_ = self._type_of(workflow)
        id_ = id or calls.new_id(type_)
        self._engine.do(calls.start(self.client, type_, self.app.completed(type_, args), id_, self.task_queue))
        return id_

    async def result(self, workflow_id: str) -> Any:
        """The result of a workflow, once it has ended: `await flight.result(id)`.

        Raises TrellisError with the failure in words, if it failed, was cancelled or was terminated.
        """

        return await self._engine.awaiting(calls.result(calls.Target(self.client, workflow_id)))

    def board(self) -> Any:
        """The control room for the workflows on this flight's queue, as `Session.board` gives it."""
        return self._open_board(f"TaskQueue = {quoted(self.task_queue)}", self.namespace)

    async def close(self) -> None:
        """End the worker of this flight. Its workflows stay where they are. Safe to call twice."""
        if self._engine.running:
            await self._engine.awaiting(self.end())

    async def end(self) -> None:
        """`close`, on the engine's thread."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._worker.stop())
        # Shielded: whoever waits may be cancelled, and the worker must end all the same.
        await asyncio.shield(self._ending)

    def _type_of(self, workflow: Any) -> str:
        for type_, cls in zip(self.workflow_types, self.workflows, strict=True):
            # A cell that is run again makes another class of the same name.
            if (
                workflow == type_
                or workflow is cls
                or getattr(workflow, "__qualname__", "").split(".")[0] == cls.__name__
            ):
                return type_
        if isinstance(workflow, str) and self.app.takes_any:
            return workflow
        raise BadInput(f"This flight has no workflow {workflow!r}. It has {', '.join(self.workflow_types) or 'none'}.")

    def _repr_html_(self) -> str:
        queue = f"<code>{html.escape(self.task_queue)}</code> of namespace <code>{html.escape(self.namespace)}</code>"
        if self.closed:
            return f"<b>The flight on {queue} is closed.</b>"
        notes = "".join(f"<br>{html.escape(note)}" for note in self.notes)
        return f"<b>Flying on {queue}</b>: {html.escape(self.app.in_words())}{notes}"

    def __repr__(self) -> str:
        where = f"{self.task_queue} of namespace {self.namespace}"
        return f"The flight on {where} is closed." if self.closed else f"Flying on {where}: {self.app.in_words()}"


class Flights:
    """The flights of a session. All methods run on the engine's thread."""

    def __init__(self, engine: Engine, open_board: OpenBoard) -> None:
        self._engine = engine
        self._open_board = open_board
        self._flights: dict[tuple[str, str], Flight] = {}
        self._changing = asyncio.Lock()

    @property
    def running(self) -> tuple[Flight, ...]:
        return tuple(flight for flight in self._flights.values() if not flight.closed)

    async def fly(
        self,
        workflows: Iterable[type],
        activities: Iterable[Callable[..., Any]],
        *,
        task_queue: str | None,
        namespace: str | None,
        faults: FaultPlan | str | None,
        data_converter: DataConverter | None,
        options: Mapping[str, Any],
    ) -> Flight:
        """As `Session.fly`. A flight of the same queue goes on until the new one works."""
        app, notes = read_again(app_of(workflows, activities))
        queue = task_queue or queue_of(app)
        at = self._engine.runtime.stack
        target = dataclasses.replace(at.temporal, namespace=namespace or at.temporal.namespace)

        def plugin() -> TrellisPlugin:
            return TrellisPlugin(faults=faults, namespace=namespace, settings=self._engine.settings)

        # A connection of its own: on one connection the SDK refuses a second worker of the same queue, and the new
        # worker must begin before the old one has ended.
        client = await connected(target, data_converter)
        worker = AppWorker(client, app, queue, plugin, options)
        async with self._changing:
            await worker.start()
            before = self._flights.get((client.namespace, queue))
            flight = Flight(
                self._engine, self._open_board, app, worker,
                [*notes, note_on(app.workflows), _threads(app, options), _replaced(before)],
            )  # fmt: skip
            self._flights[client.namespace, queue] = flight
        if before is not None:
            await before.end()
        return flight

    async def close(self) -> None:
        """End all flights."""
        await asyncio.gather(*(flight.end() for flight in self._flights.values()), return_exceptions=True)


def _threads(app: App, options: Mapping[str, Any]) -> str:
    if not app.threaded or options.get("activity_executor") is not None:
        return ""
    names = ", ".join(app.threaded)
    return f"Not async, so run in threads: {names}. A worker of your own needs activity_executor for that."


def _replaced(before: Flight | None) -> str:
    if before is None or before.closed:
        return ""
    return "It takes the place of the flight that was on this queue; running workflows go on with the new code."

"""The panel that talks to workflows: start one, send a signal, an update or a query, by forms from type hints.

The page (`page/talk.js`) asks for forms with "talk forms" whenever they may have changed: a flight can be replaced by
new code while the room is open. Each request names the workflow that its form was shown for, so that a click never goes
to a workflow that came into focus meanwhile. In the errors of an answer, "@form", "@type", "@queue" and "@name" are the
panel's own fields; other keys are paths in the form.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.exceptions import TemporalError

from trellis.errors import BadInput, RequestRefused, TrellisError
from trellis.flying import calls
from trellis.lab.control_room.board import Answer, Handler, Message, Panel, Room
from trellis.lab.flights.feed import FlightFeed
from trellis.lab.flights.forms import Handler as Said
from trellis.lab.flights.forms import Handlers, any_form, handlers_of
from trellis.lab.flights.machine_panel import data_client, flights_in
from trellis.lab.flights.rows import key

KINDS = ("signal", "update", "query")
KNOWS_ITSELF = 3.0
"""How long a workflow of an unknown type may take to tell its handlers [s]."""

_METADATA = "__temporal_workflow_metadata"


class Talk(Panel):
    """Forms for a new workflow and for the workflow in focus."""

    name = "talk"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        # A second click can arrive before the page learns that the first one was accepted.
        self._under_way: set[tuple[str, ...]] = set()
        self._followed: set[asyncio.Task[None]] = set()

    def options(self) -> dict[str, Any]:
        return {"kinds": list(KINDS)}

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "talk types": self._types,
            "talk forms": self._forms,
            "talk start": self._start,
            "talk signal": self._signal,
            "talk update": self._update,
            "talk query": self._query,
        }

    def close(self) -> None:
        for task in self._followed:
            task.cancel()

    # --- the forms -----------------------------------------------------------------------------------------

    async def _types(self, _: Message) -> Answer:
        """What can be started: {types: [{type, queue, run: form}], any: the form for an unknown type}."""
        types = [
            {
                "type": type_, "queue": flight.task_queue, "run": handlers_of(cls).run.to_json(),
            }
            for flight in self._flights()
            for type_, cls in zip(flight.workflow_types, flight.workflows, strict=True)
        ]  # fmt: skip
        return {"types": types, "any": any_form().to_json()}

    async def _forms(self, _: Message) -> Answer:
        """Answers the forms of the workflow in focus: {workflow_id, run_id, type, signal, update, query, note}."""
        focused = self._feed.focused
        if focused is None:
            return {"workflow_id": None}
        workflow_id, run_id, type_ = focused
        handlers, note = self._handlers_of(type_), ""
        if handlers is None:
            handlers, note = await self._told(self._target(workflow_id, run_id, type_))
        return {"workflow_id": workflow_id, "run_id": run_id, "type": type_, "note": note, **handlers.to_json()}

    @property
    def _feed(self) -> FlightFeed:
        feed = self.room.feed
        assert isinstance(feed, FlightFeed)
        return feed

    def _flights(self) -> list[Any]:
        return flights_in(self.room.engine, self._feed.client.namespace)

    def _flight_of(self, type_: str) -> Any:
        return next((flight for flight in self._flights() if type_ in flight.workflow_types), None)

    def _handlers_of(self, type_: str) -> Handlers | None:
        flight = self._flight_of(type_)
        if flight is None:
            return None
        return handlers_of(dict(zip(flight.workflow_types, flight.workflows, strict=True))[type_])

    async def _told(self, target: calls.Target) -> tuple[Handlers, str]:
        """The handlers that a workflow of an unknown type tells itself, if a worker answers for it."""
        any_name = Said(None, "", any_form())
        unknown = Handlers(any_name, (any_name,), (any_name,), (any_name,))
        try:
            async with asyncio.timeout(KNOWS_ITSELF):
                told = await target.handle.query(_METADATA, result_type=WorkflowMetadata)
        except (TemporalError, TimeoutError) as error:
            why = "no worker answers for it" if isinstance(error, TimeoutError) else calls.in_words(error)
            return unknown, f"This type is not flown here, and nobody tells its handlers ({why})."
        definition = told.definition

        def listed(found: Any) -> tuple[Said, ...]:
            names = [(one.name or None, one.description) for one in found if not one.name.startswith("__")]
            return tuple(Said(name, doc, any_form()) for name, doc in names)

        handlers = Handlers(
            any_name, listed(definition.signal_definitions), listed(definition.update_definitions),
            listed(definition.query_definitions),
        )  # fmt: skip
        return handlers, "This type is not flown here: its arguments are JSON."

    def _target(self, workflow_id: str, run_id: str | None, type_: str) -> calls.Target:
        return calls.Target(data_client(self.room, type_, self._feed.client), workflow_id, run_id)

    # --- the requests --------------------------------------------------------------------------------------

    async def _start(self, message: Message) -> Answer:
        """Start a workflow. Answers {errors: {field path: sentence}, done, started: its line}."""
        type_, queue = _text(message, "type"), _text(message, "queue")
        flight = next(
            (one for one in self._flights() if type_ in one.workflow_types and queue in ("", one.task_queue)), None
        )
        errors = {}
        if not type_:
            errors["@type"] = "Name the workflow type."
        if flight is None and not queue:
            errors["@queue"] = "Name the task queue on which a worker of this type works."
        handlers = self._handlers_of(type_) if flight is not None else None
        args, wrong = (handlers.run.form if handlers else any_form()).read(message.get("raw"))
        errors |= wrong
        if errors or args is None:
            return {"errors": errors, "done": "", "started": None}
        client = flight.client if flight is not None else self._feed.client
        id_ = _text(message, "id") or calls.new_id(type_)

        async def work() -> Answer:
            run_id = await calls.start(client, type_, args, id_, flight.task_queue if flight is not None else queue)
            row = key((id_, run_id))
            self._feed.show_starting(row)
            return {"done": f"Started {id_}.", "started": row}

        # By the id as it was typed: two clicks without one would start two workflows.
        return await self._once(("start", type_, queue, _text(message, "id")), f"Start {type_}", id_, work)

    async def _signal(self, message: Message) -> Answer:
        return await self._say(message, "signal", self._send_signal)

    async def _query(self, message: Message) -> Answer:
        return await self._say(message, "query", self._ask_query)

    async def _update(self, message: Message) -> Answer:
        return await self._say(message, "update", self._send_update)

    async def _say(
        self, message: Message, kind: str, send: Callable[[calls.Target, str, list[Any]], Awaitable[Answer]]
    ) -> Answer:
        """A request by its form. Answers {errors: {field path: sentence}, done: sentence, shown: a result's text}."""
        workflow_id, type_, name = (_text(message, key) for key in ("workflow_id", "type", "name"))
        if not workflow_id:
            return {"errors": {"@form": "Choose a workflow on the board first."}, "done": ""}
        handlers = self._handlers_of(type_)
        known = None if handlers is None else _named(handlers, kind, name)
        if handlers is not None and known is None and name:
            return {"errors": {"@name": f"{type_} has no {kind} {name}."}, "done": ""}
        args, errors = (known.form if known else any_form()).read(message.get("raw"))
        errors |= {} if name else {"@name": f"Name the {kind}."}
        if errors or args is None:
            return {"errors": errors, "done": ""}
        target = self._target(workflow_id, message.get("run_id") or None, type_)

        async def work() -> Answer:
            return await send(target, name, args)

        return await self._once((kind, workflow_id, name), f"{kind} {name}".capitalize(), workflow_id, work)

    async def _send_signal(self, target: calls.Target, name: str, args: list[Any]) -> Answer:
        await calls.signal(target, name, args)
        return {"done": f"{name} is in the workflow's history."}

    async def _ask_query(self, target: calls.Target, name: str, args: list[Any]) -> Answer:
        return {"done": f"{name} answered.", "shown": calls.as_text(await calls.query(target, name, args))}

    async def _send_update(self, target: calls.Target, name: str, args: list[Any]) -> Answer:
        update = calls.Update(target, name, args)
        try:
            result = await update.outcome(calls.SOON)
        except TimeoutError:
            self._follow(update, target.workflow_id)
            return {
                "done": f"{name} is pending: no answer within {calls.SOON:.0f} s. The verdicts show what becomes of it."
            }
        return {"done": f"{name} was accepted.", "shown": calls.as_text(result)}

    def _follow(self, update: calls.Update, workflow_id: str) -> None:
        """Show an update's verdict when it comes, as long as somebody may still wait for it."""

        async def follow() -> None:
            title = f"Update {update.name}"
            number = self.room.report(title, None, f"pending ({workflow_id}): no worker has answered yet")
            try:
                result = await update.outcome(calls.LAST)
                self.room.report(title, True, f"accepted ({workflow_id}): {calls.as_text(result)[:200]}", number)
            except TimeoutError:
                self.room.report(title, None, f"pending ({workflow_id}): nobody waits for it any more", number)
            except TrellisError as error:
                self.room.report(title, False, f"{workflow_id}: {error}", number)
            finally:
                update.drop()

        task = asyncio.create_task(follow())
        self._followed.add(task)
        task.add_done_callback(self._followed.discard)

    async def _once(
        self, key: tuple[str, ...], title: str, subject: str, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Do it, unless the same is under way. A failure is a sentence in the form and among the verdicts."""
        with self._marked(key) as free:
            if not free:
                return {"errors": {}, "done": "This is under way already."}
            try:
                answer = await work()
            except TrellisError as error:
                if not isinstance(error, BadInput):
                    self.room.report(title, False, f"{subject}: {error}")
                return {"errors": {"@form": str(error)}, "done": "", "refused": isinstance(error, RequestRefused)}
            self.room.report(title, True, f"{subject}: {answer['done']}")
            return {"errors": {}, **answer}

    @contextmanager
    def _marked(self, key: tuple[str, ...]) -> Iterator[bool]:
        # Must stay without an `await`: a second click is handled as soon as the first one waits.
        if key in self._under_way:
            yield False
            return
        self._under_way.add(key)
        try:
            yield True
        finally:
            self._under_way.discard(key)


def _named(handlers: Handlers, kind: str, name: str) -> Said | None:
    """The handler of this name; else the one that takes any name, if there is one."""
    found: Sequence[Said] = {"signal": handlers.signals, "update": handlers.updates, "query": handlers.queries}[kind]
    by_name = {one.name: one for one in found}
    return by_name.get(name) or by_name.get(None)


def _text(message: Message, key: str) -> str:
    return str(message.get(key) or "")[:1000].strip()

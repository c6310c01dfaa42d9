"""Keeps one page of anybody's workflows up to date.

Three sources, each with a loop of its own, so that the board goes on while one of them is away:

- *Visibility* says which workflows there are, once a second.
- *The book of flights* says what their attempts do. Postgres sends (NOTIFY) which workflow changed; the changes of one
  frame are read together.
- *Describe* says what the book does not: a pending activity of a worker without the plugin, the time of the next
  attempt. It is asked for the runs on the page only, a bounded number of times a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from trellis.db.board import TRIES, View
from trellis.db.flight_board import App, FlightBoardReader, changes
from trellis.db.flights import FlightBook
from trellis.errors import BadInput, DatabaseUnavailable, SchemaMismatch, TemporalUnavailable, TrellisError
from trellis.faults import AnyName, FaultPlan, PlanInForce
from trellis.flights import SUCCEEDED, FlightRow, changed
from trellis.lab.control_room.feed import COUNTS, FRAME, Feed, Line, Show, log, note_mistake
from trellis.lab.flights import rows
from trellis.lab.flights.rows import Known
from trellis.lab.flights.visibility import PATIENCE, RUNNING, Visibility
from trellis.temporal_calls import unavailable

POLL = 1.0
"""Seconds between two looks at visibility."""
SOONEST = 0.25
"""Seconds between two looks at visibility while the book tells of workflows that the page does not know."""
SEEN = 2.0
NOTED = 10.0
"""Seconds between two times that Describe is asked for the same run: for one that the book does not explain, and for
one whose attempts are noted."""
CALLS = 10
"""At most so many calls of Describe a second."""
COUNTED = 2.0
"""Seconds between two counts, which are calls to Temporal."""
AGAIN = 1.0
"""Seconds until a source that was away is tried again."""
REMEMBERED = 5000
"""So many workflows that are not on the page are remembered, so that each of them asks for a new look only once."""
LONGEST = 5000
"""A history of more events is not drawn."""
HISTORY = 2.0
"""Seconds between two times that the history of the run in focus is read."""

_WHY = ("FAILED", "TIMED_OUT", "TERMINATED")


class FlightFeed(Feed):
    """Keeps a page of workflows, their counts, one timeline and the plans in force up to date.

    `query`: gives the visibility query of the board, asked again at each look. `known_apps`: the apps that run here,
    for the sliders before their first attempt.
    """

    def __init__(
        self, client: Client, reader: FlightBoardReader, book: FlightBook, url: str, ui: str | None, show: Show,
        size: int, query: Callable[[], str], known_apps: Callable[[], tuple[App, ...]], no_faults: str | None,
    ) -> None:  # fmt: skip
        super().__init__(show, size)
        self._visibility = Visibility(client, query())
        self._reader = reader
        self._book = book
        self._url = url
        self._ui = ui
        self._query = query
        self._known_apps = known_apps
        self._no_faults = no_faults
        self._known: dict[str, Known] = {}
        self._tokens: list[bytes] = []
        self._next: bytes | None = None
        self._total: int | None = None
        self._types: dict[str, str] = {}
        self._elsewhere: dict[str, None] = {}
        self._looking = asyncio.Lock()
        self._changed: set[str] = set()
        self._wake, self._soon, self._began = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._asked: dict[str, float] = {}
        self._apps: list[App] = []
        self._plans: dict[str, PlanInForce] = {}
        self._no_book: str | None = None
        self._history: tuple[str, float, list[dict[str, Any]], str] | None = None
        self._refused: str | None = None
        self._trouble["temporal"] = "connecting"

    @property
    def client(self) -> Client:
        return self._visibility.client

    @property
    def focused(self) -> tuple[str, str, str] | None:
        if self._focus is None:
            return None
        return (*rows.run_of(self._focus), self._types.get(self._focus, ""))

    def type_of(self, id_: str) -> str | None:
        """The workflow type of a line that the board has shown."""
        return self._types.get(id_)

    def show_starting(self, id_: str) -> None:
        self._soon.set()

    def name(self, id_: str) -> str:
        return rows.run_of(id_)[0]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for work in (
                self._keep_book, self._keep_page, self._keep_lines, self._keep_described, self._keep_counts,
                self._keep_plans, self._keep_timeline,
            ):  # fmt: skip
                group.create_task(self._again_and_again(work))

    async def _again_and_again(self, work: Callable[[], Awaitable[None]]) -> None:
        """One source that is away must not stop the others."""
        while True:
            try:
                await work()
            except (DatabaseUnavailable, SchemaMismatch, ConnectionError) as error:
                self._book_away(str(error), forever=isinstance(error, SchemaMismatch))
            except TemporalUnavailable as error:
                self._server_down("temporal", str(error))
            except BadInput as error:
                self._refused = str(error)
                self._send_link()
            except TrellisError as error:
                log.warning("a part of the board waits", error=str(error))
            except Exception as error:
                note_mistake(error)
            await asyncio.sleep(AGAIN)

    # --- the page, by visibility ---------------------------------------------------------------------------

    async def set_view(self, view: View) -> None:
        async with self._looking:
            self._view, self._tokens, self._total = view, [], None
            await self._look(whole=True)

    async def turn_page(self, forward: bool) -> None:
        async with self._looking:
            if forward and self._more:
                assert self._next is not None
                self._tokens.append(self._next)
            elif not forward and self._tokens:
                self._tokens.pop()
            await self._look(whole=True)

    @property
    def _more(self) -> bool:
        # Temporal gives a token for the page after a full one, even where nothing follows.
        return self._next is not None and (self._total is None or self._total > (len(self._tokens) + 1) * self.size)

    def _page(self) -> dict[str, Any]:
        return {
            "rows": list(self._lines.values()), "number": len(self._tokens) + 1, "more": self._more,
            "states": list(self._view.states), "prefix": self._view.prefix, "by_id": False, "type": self._view.type,
            "types": sorted({known.listed.workflow_type for known in self._known.values()} | set(self._types.values())),
        }  # fmt: skip

    async def _keep_page(self) -> None:
        while True:
            async with self._looking:
                await self._look()
            began = time.monotonic()
            await asyncio.sleep(SOONEST)
            self._soon.clear()
            try:
                async with asyncio.timeout(POLL - (time.monotonic() - began)):
                    await self._soon.wait()
            except TimeoutError:
                pass

    async def _look(self, whole: bool = False) -> None:
        """List the page again. Send what changed; the whole page if asked, or if more than its lines changed."""
        self._visibility.query = self._query()
        before = self._page()
        token = self._tokens[-1] if self._tokens else None
        listed, self._next = await self._visibility.page(self._view, token)
        self._refused = None
        self._server_up("temporal")
        found = {rows.key(one.run): one for one in listed}
        fresh = found.keys() - self._known.keys()
        self._known = {
            id_: Known(one) if id_ in fresh else self._known[id_].listed_as(one) for id_, one in found.items()
        }
        for id_, one in found.items():
            # The latest one is the last to be forgotten.
            self._types.pop(id_, None)
            self._types[id_] = one.workflow_type
        while len(self._types) > REMEMBERED:
            del self._types[next(iter(self._types))]
        if fresh and self._no_book is None:
            await self._read_book(fresh)
        elif fresh:
            # A read may wait for the database, and the page must not.
            self._changed |= fresh
            self._wake.set()
        gone = self._lines.keys() - found.keys()
        lines = {id_: rows.line(known) for id_, known in self._known.items()}
        changed = [line for id_, line in lines.items() if line != self._lines.get(id_)]
        self._lines = lines
        self._note_ended(changed)
        after = self._page()
        if whole or not self._began.is_set() or any(before[name] != after[name] for name in before if name != "rows"):
            self.send_page()
        else:
            self._send_changes(changed, gone)
        self._began.set()

    def _note_ended(self, lines: list[Line]) -> None:
        if any(line["id"] == self._focus for line in lines):
            self._timeline_stale = True

    # --- attempts, by the book -----------------------------------------------------------------------------

    async def _keep_book(self) -> None:
        async with changes(self._url) as payloads:
            await self._began.wait()
            # What changed while nobody listened was not told.
            self._changed |= set(self._known)
            self._timeline_stale = True
            self._wake.set()
            async for payload in payloads:
                namespace, workflow_id = changed(payload)
                if namespace == self.client.namespace:
                    self._note_change(workflow_id)
        raise ConnectionError("the connection to Postgres ended")

    def _note_change(self, workflow_id: str) -> None:
        ids = {id_ for id_, known in self._known.items() if known.listed.workflow_id == workflow_id}
        if self._focus is not None and rows.run_of(self._focus)[0] == workflow_id:
            self._timeline_stale = True
        if ids:
            self._changed |= ids
            self._wake.set()
        elif workflow_id not in self._elsewhere:
            # Perhaps it belongs on the page, and visibility has it already.
            self._elsewhere[workflow_id] = None
            if len(self._elsewhere) > REMEMBERED:
                del self._elsewhere[next(iter(self._elsewhere))]
            if not self._tokens:
                self._soon.set()

    async def _keep_lines(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted, self._changed = self._changed, set()
            read = await self._read_book(wanted)
            self._redraw(wanted)
            await asyncio.sleep(FRAME if read else AGAIN)

    async def _read_book(self, ids: set[str]) -> bool:
        """Read where these runs are. False if the book is away; then they are read again later."""
        # One read at a time: an older answer must not replace a newer one.
        async with self._reading:
            here = ids & self._known.keys()
            try:
                found = await self._reader.lines(self._known[id_].listed.run for id_ in here)
            except (DatabaseUnavailable, SchemaMismatch) as error:
                self._book_away(str(error), forever=isinstance(error, SchemaMismatch))
                # Nobody tells of these changes again.
                self._changed |= ids
                self._wake.set()
                return False
            self._no_book = None
            for id_ in here & self._known.keys():
                self._known[id_].book = found.get(self._known[id_].listed.run)
        self._tell_of_book()
        return True

    def _redraw(self, ids: set[str]) -> None:
        lines = {id_: rows.line(self._known[id_]) for id_ in ids & self._known.keys() & self._lines.keys()}
        changed = [line for id_, line in lines.items() if line != self._lines[id_]]
        self._lines |= lines
        self._note_ended(changed)
        self._send_changes(changed, ())

    def _book_away(self, why: str, forever: bool) -> None:
        self._no_book = rows.NOTHING_NOTED if forever else f"The book of attempts is away: {why} The board goes on."
        self._tell_of_book()

    def _tell_of_book(self) -> None:
        noted = any(known.book is not None for known in self._known.values())
        text = self._no_book or (rows.NOTHING_NOTED if self._known and not noted else "")
        self._show("note", {"text": text})

    # --- what the book does not know -----------------------------------------------------------------------

    async def _keep_described(self) -> None:
        await self._began.wait()
        while True:
            id_ = self._next_to_ask()
            if id_ is None:
                await asyncio.sleep(0.1)
                continue
            known = self._known[id_]
            self._asked[id_] = time.monotonic()
            # Who may list a workflow may perhaps not read it.
            with suppress(BadInput):
                if known.status in _WHY:
                    known.why = await self._visibility.why_closed(known.listed.run) or ""
                else:
                    known.described = await self._visibility.described(known.listed.run)
            if id_ in self._known:
                self._redraw({id_})
            await asyncio.sleep(1 / CALLS)

    def _next_to_ask(self) -> str | None:
        """The run that was not asked about for the longest time, of those that Describe or their last event explain."""
        self._asked = {id_: at for id_, at in self._asked.items() if id_ in self._known}
        waits = {id_: self._waits(id_, known) for id_, known in self._known.items()}
        return min((id_ for id_, wait in waits.items() if wait <= 0), key=lambda id_: waits[id_], default=None)

    def _waits(self, id_: str, known: Known) -> float:
        """Seconds until Describe or the last event is asked for this run."""
        if known.status != RUNNING and (known.status not in _WHY or known.why is not None):
            return float("inf")
        explained = known.book is not None and (known.book.open > 0 or known.book.outcome == SUCCEEDED)
        return self._asked.get(id_, 0.0) + (NOTED if explained else SEEN) - time.monotonic()

    # --- what may come later than a frame ------------------------------------------------------------------

    async def _keep_counts(self) -> None:
        while True:
            view = self._view
            # A query that cannot be counted can perhaps be listed, and the page says it if not.
            counts, total = {}, None
            with suppress(BadInput):
                counts, total = await self._visibility.counts(), await self._visibility.count(view)
            before, self._total = self._more, total if view is self._view else None
            self._show("counts", counts)
            if before != self._more and self._began.is_set():
                self.send_page()
            await asyncio.sleep(COUNTED)

    async def _keep_plans(self) -> None:
        while True:
            await self.read_plans()
            await asyncio.sleep(COUNTS)

    async def read_plans(self) -> None:
        """Read the plans in force for the apps that the board shows."""
        try:
            found = await self._reader.apps(set(self._types.values()))
            # What was found once stays, because an app that is quiet has no attempt among the newest ones.
            names = {app.queue: set(app.activity_types) for app in self._apps}
            for app in (*self._known_apps(), *found):
                names.setdefault(app.queue, set()).update(app.activity_types)
            self._apps = [App(queue, tuple(sorted(types))) for queue, types in sorted(names.items())]
            calm = PlanInForce(FaultPlan.calm())
            self._plans = {
                app.queue: await self._book.plan(self.client.namespace, app.queue) or calm for app in self._apps
            }
        finally:
            self.send_faults()

    async def plan_of(self, queue: str) -> FaultPlan:
        """The plan in force for an app, as the book says now."""
        found = await self._book.plan(self.client.namespace, queue)
        return found.plan if found is not None else FaultPlan(names=AnyName())

    async def set_plan(self, queue: str, plan: FaultPlan) -> None:
        """Put a plan in force for an app. Outages that are the same go on."""
        self._plans[queue] = await self._book.set_plan(self.client.namespace, queue, plan, keep_outages=True)
        self.send_faults()

    def send_faults(self) -> None:
        apps = [
            {
                "queue": app.queue, "names": list(app.activity_types), "version": self._plans[app.queue].version,
                **self._plans[app.queue].plan.to_json(),
            }
            for app in self._apps
            if app.queue in self._plans
        ]  # fmt: skip
        why = self._no_faults or ("" if apps else "No worker with TrellisPlugin is known here yet.")
        self._show("faults", {"apps": [] if self._no_faults else apps, "why": why})

    async def _timeline(self, id_: str) -> dict[str, Any]:
        run = rows.run_of(id_)
        if found := await self.attempts_of(id_):
            return rows.timeline(run, rows.bars_of_book(found), self.link_to(run), cut=len(found) >= TRIES)
        bars, note = await self._bars_of_history(id_, run)
        return rows.timeline(run, bars, self.link_to(run), note=note)

    async def _bars_of_history(self, id_: str, run: tuple[str, str]) -> tuple[list[dict[str, Any]], str]:
        """What the history holds of a run that the book does not know. It is not read at every change."""
        if self._history and self._history[0] == id_ and time.monotonic() - self._history[1] < HISTORY:
            # What asked for the timeline now may be the last change of this run.
            self._timeline_stale = True
            return self._history[2], self._history[3]
        bars, note = await self._read_history(run)
        self._history = id_, time.monotonic(), bars, note
        return bars, note

    async def _read_history(self, run: tuple[str, str]) -> tuple[list[dict[str, Any]], str]:
        handle = self.client.get_workflow_handle(run[0], run_id=run[1])
        try:
            described = await self._visibility.raw(run)
            if described is None:
                return [], "Temporal no longer has this run."
            if (length := described.workflow_execution_info.history_length) > LONGEST:
                return [], f"The history holds {length:,} events, too many to draw. {rows.WITH_PLUGIN}"
            events = list((await handle.fetch_history(rpc_timeout=PATIENCE)).events)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return [], "Temporal no longer has this run."
            raise unavailable(error) from None
        # In a thread: workers run on the engine's loop, and thousands of events take a tenth of a second.
        bars, counted = await asyncio.to_thread(rows.bars_of_history, *run, events, described)
        more = f" {counted} earlier attempts are only counted there." if counted else ""
        return bars, rows.FROM_HISTORY + more

    async def attempts_of(self, id_: str) -> list[FlightRow]:
        """The newest attempts of a line, by the book. Empty while there is no book."""
        try:
            return await self._reader.attempts(rows.run_of(id_), TRIES)
        except (DatabaseUnavailable, SchemaMismatch):
            return []

    def link_to(self, run: tuple[str, str]) -> str | None:
        """The run in Temporal's Web UI, where there is one."""
        if self._ui is None:
            return None
        namespace, workflow_id, run_id = (quote(part, safe="") for part in (self.client.namespace, *run))
        return f"{self._ui}/namespaces/{namespace}/workflows/{workflow_id}/{run_id}/history"

    def _send_link(self) -> None:
        if self._refused is None:
            super()._send_link()
        else:
            self._show("link", {"live": False, "text": self._refused})

"""From the ledger to the board: one page of orders, kept live.

Postgres tells (NOTIFY) the id of each order that changed, when the change has committed; ids of rows do not commit
in order, so nothing here asks for "rows after the last one seen". What is told within one frame is read together,
for the orders on the page alone, and only the lines that changed are pushed. When the connection ends the page says
so, tries again, and reads itself anew: what was missed meanwhile needs no catching up.

Reads take turns (`_reading`): an older snapshot can never overwrite what a later one has shown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import structlog
from temporalio.service import RPCError

from trellis.db.board import COLUMNS, TRIES, BoardReader, Key, View, listening
from trellis.db.ledger import Row
from trellis.desk import Desk
from trellis.errors import DatabaseUnavailable, OrderNotFound, TrellisError
from trellis.lab.control_room import rows
from trellis.workers import FaultWatch

FRAME = 0.04
"""Seconds between two pushes: 25 a second are more than an eye follows."""
TIMELINE = 0.15
SLOW = 0.5
PULSE = 2.0
AT_ONCE = 20
STARTING = 200
"""Orders remembered whose `receive` has not succeeded yet; the ledger has no row for them to page through."""

LONG_STARTING = 5000
"""Milliseconds after which a starting order's workflow is asked whether it still runs."""

DOWN = "Disconnected, trying again"
BACK = "The board fills again by itself when the servers are back."

log = structlog.get_logger("trellis.lab")


class Feed:
    """Keeps a page, its counts, one timeline and the faults current; `show(name, value)` is called on the loop."""

    def __init__(
        self, desk: Desk, reader: BoardReader, url: str, faults: Callable[[], FaultWatch],
        show: Callable[[str, Any], None], size: int,
    ) -> None:  # fmt: skip
        self._desk = desk
        self._reader = reader
        self._url = url
        self._faults = faults
        self._show = show
        self.size = size
        self._view = View(size=size)
        self._keys: list[Key] = []
        self._next: Key | None = None
        self._lines: dict[str, dict[str, Any]] = {}
        self._starting: dict[str, dict[str, Any]] = {}
        self._reading = asyncio.Lock()
        self._focus: str | None = None
        self._heard: set[str] = set()
        self._wake = asyncio.Event()
        self._frame = 0
        self._stale_counts = self._stale_page = self._stale_timeline = True
        self._trouble: dict[str, str] = {"database": "connecting"}

    async def run(self) -> None:
        """Until cancelled. No error leaves it: a board that ends with a traceback helps nobody."""
        while True:
            try:
                async with listening(self._url) as ids:
                    await self.reload()
                    self._well("database")
                    self._stale_counts = self._stale_timeline = True
                    async with asyncio.TaskGroup() as group:
                        for work in (self._hear(ids), self._draw(), self._slowly(), self._pulse(), self._drawn()):
                            group.create_task(work)
            except* (DatabaseUnavailable, ConnectionError) as failures:
                self._ill("database", str(failures.exceptions[0]))
            except* Exception as failures:
                # A fault of ours is no lost connection: it belongs in the log, and the board goes on.
                error = failures.exceptions[0]
                log.error("the board stumbled and starts again", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.5)

    # --- what the page asks for ----------------------------------------------------------------------------

    async def look(self, view: View) -> None:
        """Another filter, from its first page on."""
        async with self._reading:
            self._view = view
            self._keys = []
            await self._read_page()

    async def turn(self, forward: bool) -> None:
        """The next page, or the one before."""
        async with self._reading:
            if forward and self._next is not None:
                self._keys.append(self._next)
            elif not forward and self._keys:
                self._keys.pop()
            await self._read_page()

    async def focus(self, order_id: str | None) -> None:
        """Whose tries the timeline shows."""
        self._focus = order_id
        await self._tell_timeline()

    def expect(self, order_id: str) -> None:
        """An order was started: show it before it has written its first event."""
        self._keep_starting(rows.seen({**dict.fromkeys(COLUMNS), "id": order_id}))
        self._heard.add(order_id)
        self._wake.set()

    async def reload(self) -> None:
        """Read the page anew."""
        async with self._reading:
            await self._read_page()

    async def _read_page(self) -> None:
        self._stale_page = False
        view = self._view
        found = await self._reader.page(view, self._keys[-1] if self._keys else None)
        more, found = len(found) > view.size, found[: view.size]
        self._next = _key(found[-1]) if more else None
        self._lines = {row["id"]: rows.seen(row) for row in found}
        for id_ in self._lines.keys() & self._starting.keys():
            del self._starting[id_]
        if not self._keys:
            # Beside the page and not within it: the ledger does not page through them.
            fitting = [line for line in self._starting.values() if rows.belongs(view, line)]
            fitting.sort(key=lambda line: rows.place(view, line))
            self._lines |= {line["id"]: line for line in fitting[: view.size]}
        self.tell_page()

    def tell_page(self) -> None:
        """The whole page; the lines alone follow as they change."""
        self._frame += 1
        lines = sorted(self._lines.values(), key=lambda line: rows.place(self._view, line))
        self._show(
            "page",
            {
                "n": self._frame, "now": _now(), "rows": lines, "number": len(self._keys) + 1,
                "more": self._next is not None, "states": list(self._view.states), "prefix": self._view.prefix,
            },
        )  # fmt: skip

    # --- what the ledger tells -----------------------------------------------------------------------------

    async def _hear(self, ids: AsyncIterator[str]) -> None:
        async for order_id in ids:
            self._heard.add(order_id)
            self._wake.set()
        raise ConnectionError("the connection to Postgres ended")

    async def _draw(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._reading:
                heard, self._heard = self._heard, set()
                self._stale_timeline |= self._focus in heard
                # A later page can gain no order; on the first one any may appear.
                wanted = heard & self._lines.keys() if self._keys else heard
                if wanted:
                    self._merge(await self._reader.orders(wanted))
                self._stale_counts = True
            await asyncio.sleep(FRAME)

    def _merge(self, found: list[Row]) -> None:
        view = self._view
        changed, gone = [], []
        # What is below the page's last line belongs to the next page.
        floor = max((rows.place(view, line) for line in self._lines.values() if line["state"]), default=None)
        for row in found:
            line = rows.seen(row)
            id_ = line["id"]
            if line["state"] is None:
                self._keep_starting(line)
            else:
                self._starting.pop(id_, None)
            if not rows.belongs(view, line):
                if self._lines.pop(id_, None):
                    gone.append(id_)
                    self._stale_page |= self._next is not None
            elif id_ in self._lines or (
                not self._keys and (self._next is None or floor is None or rows.place(view, line) < floor)
            ):
                self._lines[id_] = line
                changed.append(line)
        lines = sorted(self._lines.values(), key=lambda line: rows.place(view, line))
        over = [line for line in lines if line["state"]][view.size :]
        self._stale_page |= bool(over)
        for line in over + [line for line in lines if not line["state"]][view.size :]:
            del self._lines[line["id"]]
            gone.append(line["id"])
        self._tell_changes([line for line in changed if line["id"] in self._lines], gone)

    def _tell_changes(self, changed: list[dict[str, Any]], gone: list[str]) -> None:
        if changed or gone:
            self._frame += 1
            self._show("changes", {"n": self._frame, "now": _now(), "rows": changed, "gone": gone})

    def _keep_starting(self, line: dict[str, Any]) -> None:
        known = self._starting.get(line["id"])
        line["created"] = known["created"] if known else (line["event_at"] or _now())
        self._starting[line["id"]] = line
        while len(self._starting) > STARTING:
            del self._starting[next(iter(self._starting))]

    async def _forget_ended(self) -> None:
        """An order that was terminated before it was received never gets a row: nothing would take it off the page."""
        old = [id_ for id_, line in self._starting.items() if _now() - line["created"] > LONG_STARTING]
        gone = []
        for id_ in old[:AT_ONCE]:
            try:
                close = (await self._desk.status(id_))["workflow"]["close_status"]
            except OrderNotFound:
                close = "unknown"
            except TrellisError:
                return
            # A row may have come meanwhile; then it is no longer among the starting ones.
            if close not in (None, "RUNNING") and id_ in self._starting:
                del self._starting[id_]
                if id_ in self._lines:
                    del self._lines[id_]
                    gone.append(id_)
        self._tell_changes([], gone)

    # --- what may come later than a frame ------------------------------------------------------------------

    async def _drawn(self) -> None:
        while True:
            if self._stale_timeline:
                await self._tell_timeline()
            await asyncio.sleep(TIMELINE)

    async def _tell_timeline(self) -> None:
        self._stale_timeline = False
        focus = self._focus
        if focus is None:
            self._show("timeline", {})
            return
        events = await self._reader.tries(focus)
        if focus == self._focus:
            self._show("timeline", rows.timeline(focus, events, self._desk.ui_link(focus), TRIES))

    async def _slowly(self) -> None:
        while True:
            if self._stale_page:
                await self.reload()
            if self._stale_counts:
                self._stale_counts = False
                # Not while a line goes from starting to received: it would count twice.
                async with self._reading:
                    counts = await self._reader.counts()
                    # As the filter has it (`rows.belongs`): what starts is on its way to being received.
                    counts["ORDER_RECEIVED"] = counts.get("ORDER_RECEIVED", 0) + len(self._starting)
                self._show("counts", counts)
            self.tell_faults()
            await asyncio.sleep(SLOW)

    def tell_faults(self) -> None:
        """The plan in force, whoever changed it."""
        force = self._faults().current
        self._show("faults", {"version": force.version, **force.plan.to_json()})

    async def _pulse(self) -> None:
        while True:
            try:
                await self._desk.client.service_client.check_health(timeout=timedelta(seconds=1.5))
                self._well("temporal")
            except (RPCError, RuntimeError) as error:
                self._ill("temporal", f"Temporal does not answer ({error})."[:200])
            else:
                await self._forget_ended()
            await asyncio.sleep(PULSE)

    def _well(self, server: str) -> None:
        self._trouble.pop(server, None)
        self._tell_link()

    def _ill(self, server: str, why: str) -> None:
        self._trouble[server] = why
        self._tell_link()

    def _tell_link(self) -> None:
        why = " ".join(self._trouble.values())
        self._show("link", {"live": not self._trouble, "text": f"{DOWN}. {why} {BACK}" if why else ""})


def _key(row: Row) -> Key:
    return row["created_at"], row["id"]


def _now() -> int:
    return int(time.time() * 1000)

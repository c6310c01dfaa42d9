"""Keeps one page of orders on the board up to date with the ledger.

Postgres sends (NOTIFY) the id of each order that changed, after the change has committed. Rows do not commit in the
order of their ids, so this code never asks for "rows after the last one seen". It collects the ids of one frame, reads
the orders that are on the page together, and sends only the lines that changed. When the connection ends, the page says
so. The feed connects again and reads the whole page again, so missed changes need no special care.

Reads take turns (`_reading`), so that an older snapshot can never overwrite a newer one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import structlog
from temporalio.service import RPCError

from trellis.db.board import TRIES, BoardReader, Key, View, listening
from trellis.db.rows import BoardRow
from trellis.desk import Desk
from trellis.errors import DatabaseUnavailable, OrderNotFound, TrellisError
from trellis.lab.control_room import rows
from trellis.workers import FaultWatch

FRAME = 0.04
"""Seconds between two sets of changed lines: nobody can follow more than 25 a second."""
TIMELINE = 0.15
COUNTS = 0.5
CHECK = 2.0
"""Seconds between two updates of the timeline, two counts, and two checks that Temporal answers."""
AT_ONCE = 20
"""At most this many starting orders are checked at a time."""
STARTING = 200
"""At most this many starting orders are kept. Their `receive` has not succeeded, so they have no row in the ledger."""

LONG_STARTING = 5000
"""Milliseconds after which a starting order is checked: does its workflow still run?"""

DOWN = "Disconnected, trying again"
BACK = "The board fills again by itself when the servers are back."

log = structlog.get_logger("trellis.lab")


class Feed:
    """Keeps a page, its counts, one timeline and the faults up to date. Calls `show(trait, value)` on its loop."""

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
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._frame = 0
        self._counts_stale = self._page_stale = self._timeline_stale = True
        self._trouble: dict[str, str] = {"database": "connecting"}

    async def run(self) -> None:
        """Run until cancelled. Errors are logged and shown, and the board goes on."""
        while True:
            try:
                async with listening(self._url) as ids:
                    await self.reload()
                    self._server_up("database")
                    self._counts_stale = self._timeline_stale = True
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._collect(ids))
                        group.create_task(self._keep_lines())
                        group.create_task(self._keep_counts())
                        group.create_task(self._keep_timeline())
                        group.create_task(self._check_temporal())
            except* (DatabaseUnavailable, ConnectionError) as failures:
                self._server_down("database", str(failures.exceptions[0]))
            except* Exception as failures:
                # A mistake in this code is not a lost connection. It is logged, and the board goes on.
                error = failures.exceptions[0]
                log.error("the board failed and starts again", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.5)

    # --- what the page asks for ----------------------------------------------------------------------------

    async def set_view(self, view: View) -> None:
        """Show another filter, from its first page on."""
        async with self._reading:
            self._view = view
            self._keys = []
            await self._read_page()

    async def turn_page(self, forward: bool) -> None:
        """Show the next page, or the one before."""
        async with self._reading:
            if forward and self._next is not None:
                self._keys.append(self._next)
            elif not forward and self._keys:
                self._keys.pop()
            await self._read_page()

    async def focus(self, order_id: str | None) -> None:
        """Show this order's attempts in the timeline."""
        self._focus = order_id
        await self._send_timeline()

    def show_starting(self, order_id: str) -> None:
        """Show an order that was started and has not written its first event."""
        self._keep_starting(rows.line(BoardRow(order_id)))
        self._changed.add(order_id)
        self._wake.set()

    async def reload(self) -> None:
        """Read the page again."""
        async with self._reading:
            await self._read_page()

    async def _read_page(self) -> None:
        self._page_stale = False
        view = self._view
        found = await self._reader.page(view, self._keys[-1] if self._keys else None)
        more, found = len(found) > view.size, found[: view.size]
        self._next = _key(found[-1]) if more else None
        self._lines = {row.id: rows.line(row) for row in found}
        for id_ in self._lines.keys() & self._starting.keys():
            del self._starting[id_]
        if not self._keys:
            # These come in addition to the page's own lines, because the ledger's pages do not hold them.
            fitting = [line for line in self._starting.values() if rows.belongs(view, line)]
            fitting.sort(key=lambda line: rows.place(view, line))
            self._lines |= {line["id"]: line for line in fitting[: view.size]}
        self.send_page()

    def send_page(self) -> None:
        """Send the whole page. After it, lines are sent as they change."""
        self._frame += 1
        lines = sorted(self._lines.values(), key=lambda line: rows.place(self._view, line))
        self._show(
            "page",
            {
                "n": self._frame, "now": _now(), "rows": lines, "number": len(self._keys) + 1,
                "more": self._next is not None, "states": list(self._view.states), "prefix": self._view.prefix,
            },
        )  # fmt: skip

    # --- lines that changed --------------------------------------------------------------------------------

    async def _collect(self, ids: AsyncIterator[str]) -> None:
        async for order_id in ids:
            self._changed.add(order_id)
            self._wake.set()
        raise ConnectionError("the connection to Postgres ended")

    async def _keep_lines(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            async with self._reading:
                changed, self._changed = self._changed, set()
                self._timeline_stale |= self._focus in changed
                # A new order can appear on the first page only.
                wanted = changed & self._lines.keys() if self._keys else changed
                if wanted:
                    self._merge(await self._reader.orders(wanted))
                self._counts_stale = True
            await asyncio.sleep(FRAME)

    def _merge(self, found: list[BoardRow]) -> None:
        view = self._view
        changed, gone = [], []
        # A line below the page's last one belongs to the next page.
        floor = max((rows.place(view, line) for line in self._lines.values() if line["state"]), default=None)
        for row in found:
            line = rows.line(row)
            id_ = line["id"]
            if line["state"] is None:
                self._keep_starting(line)
            else:
                self._starting.pop(id_, None)
            if not rows.belongs(view, line):
                if self._lines.pop(id_, None):
                    gone.append(id_)
                    self._page_stale |= self._next is not None
            elif id_ in self._lines or (
                not self._keys and (self._next is None or floor is None or rows.place(view, line) < floor)
            ):
                self._lines[id_] = line
                changed.append(line)
        lines = sorted(self._lines.values(), key=lambda line: rows.place(view, line))
        over = [line for line in lines if line["state"]][view.size :]
        self._page_stale |= bool(over)
        for line in over + [line for line in lines if not line["state"]][view.size :]:
            del self._lines[line["id"]]
            gone.append(line["id"])
        self._send_changes([line for line in changed if line["id"] in self._lines], gone)

    def _send_changes(self, changed: list[dict[str, Any]], gone: list[str]) -> None:
        if changed or gone:
            self._frame += 1
            self._show("changes", {"n": self._frame, "now": _now(), "rows": changed, "gone": gone})

    def _keep_starting(self, line: dict[str, Any]) -> None:
        known = self._starting.get(line["id"])
        line["created"] = known["created"] if known else (line["event_at"] or _now())
        self._starting[line["id"]] = line
        while len(self._starting) > STARTING:
            del self._starting[next(iter(self._starting))]

    async def _drop_ended(self) -> None:
        """Drop orders that were terminated before they were received: they never get a row."""
        old = [id_ for id_, line in self._starting.items() if _now() - line["created"] > LONG_STARTING]
        gone = []
        for id_ in old[:AT_ONCE]:
            try:
                close = (await self._desk.status(id_)).workflow.close_status
            except OrderNotFound:
                close = "unknown"
            except TrellisError:
                return
            # It may have got a row in the meantime. Then it is no longer among the starting orders.
            if close not in (None, "RUNNING") and id_ in self._starting:
                del self._starting[id_]
                if id_ in self._lines:
                    del self._lines[id_]
                    gone.append(id_)
        self._send_changes([], gone)

    # --- what may come later than a frame ------------------------------------------------------------------

    async def _keep_timeline(self) -> None:
        while True:
            if self._timeline_stale:
                await self._send_timeline()
            await asyncio.sleep(TIMELINE)

    async def _send_timeline(self) -> None:
        self._timeline_stale = False
        focus = self._focus
        if focus is None:
            self._show("timeline", {})
            return
        events = await self._reader.tries(focus)
        if focus == self._focus:
            self._show("timeline", rows.timeline(focus, events, self._desk.ui_link(focus), TRIES))

    async def _keep_counts(self) -> None:
        while True:
            if self._page_stale:
                await self.reload()
            if self._counts_stale:
                self._counts_stale = False
                # Do not count while a line changes from starting to received: it would be counted twice.
                async with self._reading:
                    counts = await self._reader.counts()
                    # The filter (`rows.belongs`) does the same: an order that starts counts as received.
                    counts["ORDER_RECEIVED"] = counts.get("ORDER_RECEIVED", 0) + len(self._starting)
                self._show("counts", counts)
            self.send_faults()
            await asyncio.sleep(COUNTS)

    def send_faults(self) -> None:
        """The plan in force, whoever changed it."""
        force = self._faults().current
        self._show("faults", {"version": force.version, **force.plan.to_json()})

    async def _check_temporal(self) -> None:
        while True:
            try:
                await self._desk.client.service_client.check_health(timeout=timedelta(seconds=1.5))
                self._server_up("temporal")
            except (RPCError, RuntimeError) as error:
                self._server_down("temporal", f"Temporal does not answer ({error})."[:200])
            else:
                await self._drop_ended()
            await asyncio.sleep(CHECK)

    def _server_up(self, server: str) -> None:
        self._trouble.pop(server, None)
        self._send_link()

    def _server_down(self, server: str, why: str) -> None:
        self._trouble[server] = why
        self._send_link()

    def _send_link(self) -> None:
        why = " ".join(self._trouble.values())
        self._show("link", {"live": not self._trouble, "text": f"{DOWN}. {why} {BACK}" if why else ""})


def _key(row: BoardRow) -> Key:
    assert row.created_at is not None, "a page shows orders that have a row"
    return row.created_at, row.id


def _now() -> int:
    return int(time.time() * 1000)

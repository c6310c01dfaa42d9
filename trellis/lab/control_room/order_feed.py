"""Keeps one page of orders on the board up to date with the ledger.

Postgres sends (NOTIFY) the id of each order that changed, after the change has committed. Rows do not commit in the
order of their ids, so this code never asks for "rows after the last one seen". It collects the ids of one frame, reads
the orders that are on the page together, and sends only the lines that changed. When the connection ends, the page says
so. The feed connects again and reads the whole page again, so missed changes need no special care.

Reads take turns (`_reading`), so that an older snapshot can never overwrite a newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from trellis.db.board import TRIES, BoardReader, Key, View, listening
from trellis.db.rows import BoardRow
from trellis.desk import Desk
from trellis.errors import DatabaseUnavailable, OrderNotFound, TrellisError
from trellis.lab.control_room import rows
from trellis.lab.control_room.feed import COUNTS, FRAME, Feed, Line, Show, note_mistake, now
from trellis.workers import FaultWatch

AT_ONCE = 20
"""At most this many starting orders are checked at a time."""
STARTING = 200
"""At most this many starting orders are kept. Their `receive` has not succeeded, so they have no row in the ledger."""

LONG_STARTING = 5000
"""Milliseconds after which a starting order is checked: does its workflow still run?"""


class OrderFeed(Feed):
    """Keeps a page of orders, their counts, one timeline and the faults up to date."""

    def __init__(
        self, desk: Desk, reader: BoardReader, url: str, faults: Callable[[], FaultWatch], show: Show, size: int
    ) -> None:
        super().__init__(show, size)
        self._desk = desk
        self._reader = reader
        self._url = url
        self._faults = faults
        self._keys: list[Key] = []
        self._next: Key | None = None
        self._starting: dict[str, Line] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._counts_stale = self._page_stale = True
        self._trouble["database"] = "connecting"

    async def run(self) -> None:
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
                        group.create_task(self._check_temporal(self._desk.client.service_client, self._drop_ended))
            except* (DatabaseUnavailable, ConnectionError) as failures:
                self._server_down("database", str(failures.exceptions[0]))
            except* Exception as failures:
                note_mistake(failures.exceptions[0])
            await asyncio.sleep(0.5)

    # --- what the page asks for ----------------------------------------------------------------------------

    async def set_view(self, view: View) -> None:
        async with self._reading:
            self._view = view
            self._keys = []
            await self._read_page()

    async def turn_page(self, forward: bool) -> None:
        async with self._reading:
            if forward and self._next is not None:
                self._keys.append(self._next)
            elif not forward and self._keys:
                self._keys.pop()
            await self._read_page()

    def show_starting(self, id_: str) -> None:
        # An order that has not written its first event.
        self._keep_starting(rows.line(BoardRow(id_)))
        self._changed.add(id_)
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

    def _page(self) -> dict[str, Any]:
        lines = sorted(self._lines.values(), key=lambda line: rows.place(self._view, line))
        return {
            "rows": lines, "number": len(self._keys) + 1, "more": self._next is not None,
            "states": list(self._view.states), "prefix": self._view.prefix, "by_id": bool(self._view.prefix),
        }  # fmt: skip

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

    def _keep_starting(self, line: dict[str, Any]) -> None:
        known = self._starting.get(line["id"])
        line["created"] = known["created"] if known else (line["event_at"] or now())
        self._starting[line["id"]] = line
        while len(self._starting) > STARTING:
            del self._starting[next(iter(self._starting))]

    async def _drop_ended(self) -> None:
        """Drop orders that were terminated before they were received: they never get a row."""
        old = [id_ for id_, line in self._starting.items() if now() - line["created"] > LONG_STARTING]
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

    async def _timeline(self, id_: str) -> dict[str, Any]:
        return rows.timeline(id_, await self._reader.tries(id_), self._desk.ui_link(id_), TRIES)

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
        force = self._faults().current
        self._show("faults", {"version": force.version, **force.plan.to_json()})


def _key(row: BoardRow) -> Key:
    assert row.created_at is not None, "a page shows orders that have a row"
    return row.created_at, row.id

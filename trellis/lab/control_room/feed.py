"""What feeds a board: the part that all feeds share. It sends pages, changed lines, one timeline, and who is away.

`order_feed` follows the ledger, `trellis.lab.flights.feed` follows Temporal's visibility and the book of flights. A
feed runs on the engine's loop. It calls `show(trait, value)` there, and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any

import structlog
from temporalio.service import RPCError, ServiceClient

from trellis.db.board import View

FRAME = 0.04
"""Seconds between two sets of changed lines: nobody can follow more than 25 a second."""
TIMELINE = 0.15
COUNTS = 0.5
CHECK = 2.0
"""Seconds between two updates of the timeline, two counts, and two checks that Temporal answers."""

DOWN = "Disconnected, trying again"
BACK = "The board fills again by itself when the servers are back."

log = structlog.get_logger("trellis.lab")

Show = Callable[[str, Any], None]
Line = dict[str, Any]


class Feed(ABC):
    """Keeps a page, its counts, one timeline and the faults up to date."""

    def __init__(self, show: Show, size: int) -> None:
        self._show = show
        self.size = size
        self._view = View(size=size)
        self._lines: dict[str, Line] = {}
        self._reading = asyncio.Lock()
        self._focus: str | None = None
        self._frame = 0
        self._timeline_stale = True
        self._trouble: dict[str, str] = {}

    @abstractmethod
    async def run(self) -> None:
        """Run until cancelled. Errors are logged and shown, and the board goes on."""

    @property
    def focused(self) -> tuple[str, str, str] | None:
        """(workflow id, run id, workflow type) of the line in focus, where the feed knows them."""
        return None

    def name(self, id_: str) -> str:
        """What a person calls the line with this id."""
        return id_

    # --- what the page asks for ----------------------------------------------------------------------------

    @abstractmethod
    async def set_view(self, view: View) -> None:
        """Show another filter, from its first page on."""

    @abstractmethod
    async def turn_page(self, forward: bool) -> None:
        """Show the next page, or the one before."""

    def show_starting(self, id_: str) -> None:  # noqa: B027 - a feed may learn it soon enough by itself
        """Show what was started a moment ago, which nothing that the feed reads may hold yet."""

    async def focus(self, id_: str | None) -> None:
        """Show the attempts of this line in the timeline."""
        self._focus = id_
        await self._send_timeline()

    # --- what is sent --------------------------------------------------------------------------------------

    @abstractmethod
    def _page(self) -> dict[str, Any]:
        """The page without its frame: its rows in order, its number, whether more follow, and the filter."""

    def send_page(self) -> None:
        """Send the whole page. After it, lines are sent as they change."""
        self._frame += 1
        self._show("page", {"n": self._frame, "now": now(), **self._page()})

    def _send_changes(self, changed: Iterable[Line], gone: Iterable[str]) -> None:
        changed, gone = list(changed), list(gone)
        if changed or gone:
            self._frame += 1
            self._show("changes", {"n": self._frame, "now": now(), "rows": changed, "gone": gone})

    @abstractmethod
    async def _timeline(self, id_: str) -> dict[str, Any]:
        """The attempts of one line: {"id", "bars", "marks", "round", "link", "cut"}."""

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
        try:
            timeline = await self._timeline(focus)
        except BaseException:
            self._timeline_stale = True
            raise
        if focus == self._focus:
            self._show("timeline", timeline)

    @abstractmethod
    def send_faults(self) -> None:
        """The plan in force, whoever changed it."""

    # --- which servers answer ------------------------------------------------------------------------------

    async def _check_temporal(self, service: ServiceClient, then: Callable[[], Awaitable[None]]) -> None:
        """Say whether Temporal answers; `then` runs each time that it does."""
        while True:
            try:
                await service.check_health(timeout=timedelta(seconds=1.5))
                self._server_up("temporal")
            except (RPCError, RuntimeError) as error:
                self._server_down("temporal", f"Temporal does not answer ({error})."[:200])
            else:
                await then()
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


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def note_mistake(error: BaseException) -> None:
    """A mistake in a feed's code is not a lost connection. It is logged, and the board goes on."""
    log.error("the board failed and starts again", error=f"{type(error).__name__}: {error}")

"""The time machine: a recording as a widget, and an order that is replayed again whenever its history has grown.

The page is `trellis/replay/page`. It holds the whole recording and draws every step by itself, so it answers while a
cell keeps the kernel busy, and after the kernel is gone. New data comes by traits, set on the engine's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anywidget
import structlog
import traitlets as t
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from trellis.db.books import entries
from trellis.errors import OrderNotFound, TemporalUnavailable, TrellisError
from trellis.lab.engine import STOPPED, Engine
from trellis.model import ATTEMPTS, EventType, workflow_id
from trellis.replay import replay_async, saving
from trellis.replay.recording import Recording

log = structlog.get_logger("trellis.lab")

LOOK = 0.5
"""Seconds between two looks at a running order's history."""
SHARE = 0.2
"""A replay takes at most this share of the time: a long history is replayed less often."""

REPLAYING = "replaying …"
FOLLOWED = "followed live"
ENDED = "the workflow has ended"

ShowsPage = Callable[[dict[str, Any] | None, str], None]
"""Called on the engine's loop with a page, as `saving.page_json` gives it, and words; no page: it stays as it was."""


class TimeMachine(anywidget.AnyWidget):
    """The widget that the module describes. `close()` closes it."""

    _esm = saving.WIDGET.script()
    _css = saving.WIDGET.style()

    recording = t.Dict().tag(sync=True)
    link = t.Unicode().tag(sync=True)


class OrderMachine(TimeMachine):
    """The time machine of one order. It follows the order until the workflow has ended, or `close()`."""

    def __init__(self, engine: Engine, order_id: str) -> None:
        super().__init__()
        self._following = engine.submit(follow_order(engine, order_id, self._show).run())

    def _show(self, page: dict[str, Any] | None, words: str) -> None:
        if page is not None:
            self.recording = page
        self.link = words

    def close(self) -> None:
        self._following.cancel()
        super().close()


def time_machine(
    recording: Recording, *, beside: Recording | None = None, books: saving.Books | None = None
) -> TimeMachine:
    """A recording to step through. `beside`: a second one, laid beside it up to where they part.

    books: what was kept outside the workflow, as `Session.books` gives it. Raises BadInput.
    """
    return TimeMachine(recording=saving.page_json(recording, beside=beside, books=books))


class Follower:
    """Replays a workflow whenever its history has grown, and shows it.

    `what`: what a person calls it, such as "order". `first`: workflow id and run, no run for the latest one.
    `described`, `replayed` and `held`: Temporal's description of a workflow, the recording of this one so far, and what
    is kept of it outside its workflow.
    """

    def __init__(
        self, engine: Engine, show: ShowsPage, what: str, first: tuple[str, str | None],
        described: Callable[[str, str | None], Awaitable[Any]],
        replayed: Callable[[Callable[[Recording], None] | None], Awaitable[Recording]],
        held: Callable[[], Awaitable[saving.Books | None]],
    ) -> None:  # fmt: skip
        self._engine = engine
        self._show = show
        self._what = what
        self._described = described
        self._replayed = replayed
        self._held = held
        self._watched = [first]
        self._known: list[int] = []

    async def run(self) -> None:
        """Run until the workflow has ended, or until cancelled. A server that is away is waited for."""
        try:
            self._show(None, REPLAYING)
            while True:
                took = 0.0
                try:
                    ended, took = await self._look()
                except TrellisError as error:
                    self._show(None, str(error))
                except Exception as error:
                    # No cell could show it.
                    log.warning("a workflow cannot be replayed", workflow_id=self._watched[0][0], error=str(error))
                    self._show(None, f"The {self._what} cannot be replayed: {error}")
                else:
                    self._show(None, ENDED if ended else FOLLOWED)
                    if ended:
                        return
                await asyncio.sleep(max(LOOK, took / SHARE))
        except asyncio.CancelledError:
            self._show(None, STOPPED)
            raise

    async def _look(self) -> tuple[bool, float]:
        """Replay if there is something new. Returns whether the workflow has ended, and the seconds it took."""
        began = time.monotonic()
        found = [await self._described(id_, run) for id_, run in self._watched]
        ended = found[0].status is not WorkflowExecutionStatus.RUNNING
        if ended or [one.history_length for one in found] != self._known:
            recording = await self._replayed(None if self._known else self._first_pages)
            held = await self._held()
            page = await asyncio.to_thread(saving.page_json, recording, books=held)
            # While the workflow waits for its child, only the child's history grows.
            self._watched = self._watched[:1] + [(child.workflow_id, None) for child in recording.children]
            self._known = [len(recording.events), *(len(child.events) for child in recording.children)]
            self._show(page, ENDED if ended else FOLLOWED)
        return ended, time.monotonic() - began

    def _first_pages(self, so_far: Recording) -> None:
        """Show the first steps of a long history before its replay ends. Runs on the replay's thread."""
        page = saving.page_json(so_far)
        self._engine.call_soon(lambda: self._show(page, REPLAYING))


def follow_order(engine: Engine, order_id: str, show: ShowsPage) -> Follower:
    """What replays an order, with its children and with what the ledger and the provider hold of it."""
    return Follower(
        engine, show, "order", (workflow_id(order_id), None),
        lambda id_, _: described(engine, id_, order_id),
        lambda listener: recorded(engine, order_id, listener),
        lambda: books(engine, order_id),
    )  # fmt: skip


async def described(engine: Engine, id_: str, order_id: str) -> Any:
    """Temporal's description of a workflow. Raises OrderNotFound, TemporalUnavailable."""
    try:
        return await engine.desk.client.get_workflow_handle(id_).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise OrderNotFound(f"Temporal knows no workflow of order {order_id}.") from None
        raise TemporalUnavailable(f"Temporal does not answer ({error}).") from None


async def recorded(engine: Engine, order_id: str, listener: Callable[[Recording], None] | None = None) -> Recording:
    """The order's history so far, replayed with its children. Raises ReplayError, TemporalUnavailable."""
    return await replay_async(workflow_id(order_id), client=engine.desk.client, listener=listener)


async def books(engine: Engine, order_id: str) -> Mapping[str, list[dict[str, Any]]]:
    """What was written about the order outside its workflow: ledger, attempts, and the provider's book.

    Each is a list of rows with their time under "at" [UTC], as `Recording.save` and `lab.time_machine` take them.
    """
    events = await engine.desk.ledger.events(order_id)
    theirs = await entries(engine.pool, order_id)
    return {
        "Ledger": [
            {"at": row.ts, "event": row.type, "why": row.payload_json.get("reason")}
            for row in events
            if row.type not in ATTEMPTS
        ],
        "Attempts": [
            {
                "at": row.ts, "step": row.step, "attempt": row.attempt,
                "outcome": ATTEMPTS.get(EventType(row.type), "succeeded"), "error": row.payload_json.get("error"),
            }
            for row in events
            if row.attempt is not None
        ],
        "Provider": [
            {"at": row.at, "entry": row.entry, "key": row.key, "amount": row.amount}
            for row in theirs
            if row.book == "provider"
        ],
    }  # fmt: skip

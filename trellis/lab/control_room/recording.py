"""Records the board of a run, to be scrubbed by somebody who has nothing installed.

The file holds frames: at a moment, the lines that changed, and of each the values that changed. The page is the board's
own (`page/board.js`), and `page/run_model.js` answers it in the kernel's place. Only orders that changed while it
recorded are in the file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from trellis.db.board import BoardReader, listening
from trellis.errors import BadInput, DatabaseUnavailable, TrellisError
from trellis.lab.control_room import assets, break_panel, rows
from trellis.lab.control_room.board import Board
from trellis.lab.control_room.orders import ORDERS
from trellis.lab.engine import Engine
from trellis.pages.file import document, write

FRAME = 0.2
"""Seconds between two frames."""
AT_ONCE = 500
"""At most so many orders are read by one query."""

log = structlog.get_logger("trellis.lab")

LEFT_OUT = {"id", "can_approve", "can_cancel", "can_update_address", "event", "event_at"}
"""Values of a line that a recorded board does not draw: nothing in it can be asked for."""


class RunRecorder:
    """Records from its making until `stop`. Use it in a `with` block, or call `stop` yourself."""

    def __init__(self, engine: Engine, path: str | os.PathLike[str], *, board: Board = ORDERS) -> None:
        self.path = Path(path).expanduser()
        if not self.path.parent.is_dir():
            raise BadInput(f"There is no folder {self.path.parent} for the recorded run.")
        assert engine.desk.stack is not None
        self._engine = engine
        self._url = engine.desk.stack.database_url
        self._reader = BoardReader(engine.pool)
        self._frames = Frames(board)
        self._changed: set[str] = set()
        self._listening = asyncio.Event()
        self._reading = asyncio.Lock()
        self._stopped = False
        engine.breaker.listeners.add(self._note_breaking)
        self._note_breaking()
        self._following = engine.submit(self._follow())
        # What happens after this call is in the file.
        engine.do(self._ready())

    def __enter__(self) -> RunRecorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> Path:
        """Write the file, and return its path. A second call does nothing. Raises BadInput if it cannot be written."""
        if self._stopped:
            return self.path
        self._stopped = True
        self._engine.breaker.listeners.discard(self._note_breaking)
        if self._engine.running:
            with suppress(TrellisError):
                self._engine.do(self._last())
        self._following.cancel()
        data = self._frames.to_json()
        title = f"{data['setup']['title']}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return write(self.path, document(assets.RUN, title, data))

    async def _ready(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self._listening.wait()

    async def _last(self) -> None:
        # The notice of the last change may still be on its way.
        await asyncio.sleep(FRAME)
        self._changed |= self._frames.ids.keys()
        await self._read()

    def _note_breaking(self) -> None:
        self._frames.note_breaking(break_panel.state(self._engine.breaker)["experiments"], now())

    async def _follow(self) -> None:
        while True:
            try:
                async with listening(self._url) as ids:
                    self._listening.set()
                    # After a lost connection: what changed meanwhile was not told.
                    self._changed |= self._frames.ids.keys()
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._collect(ids))
                        group.create_task(self._keep())
            except* (DatabaseUnavailable, ConnectionError) as lost:
                self._frames.trouble = f"For a while the ledger could not be read ({lost.exceptions[0]})."
            except* Exception as failures:
                # A mistake in this code. It is logged, and what can be recorded is recorded.
                error = failures.exceptions[0]
                log.error("the recording of the run failed and goes on", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(FRAME)

    async def _collect(self, ids: Any) -> None:
        async for order_id in ids:
            self._changed.add(order_id)
        raise ConnectionError("the connection to Postgres ended")

    async def _keep(self) -> None:
        while True:
            await self._read()
            await asyncio.sleep(FRAME)

    async def _read(self) -> None:
        # One at a time: an older line must never be noted after a newer one.
        async with self._reading:
            changed, self._changed = sorted(self._changed), set()
            try:
                found = [
                    rows.line(row)
                    for start in range(0, len(changed), AT_ONCE)
                    for row in await self._reader.orders(changed[start : start + AT_ONCE])
                ]
            except BaseException:
                self._changed |= set(changed)
                raise
            self._frames.note(found, now())


class Frames:
    """The frames of a run. `ids`: the place of each order, in the order in which they appeared."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.began = now()
        self._fields: dict[str, int] = {}
        self._lines: dict[str, dict[str, Any]] = {}
        self._frames: list[tuple[int, list[list[Any]]]] = []
        self._breaking: list[tuple[int, dict[str, Any]]] = []
        self.ids: dict[str, int] = {}
        self.trouble = ""

    def note(self, lines: Iterable[dict[str, Any]], at: int) -> None:
        """The lines as they were at a moment [ms since 1970]. Those that did not change make no frame."""
        changes = [change for line in lines if len(change := self._difference(line, at)) > 1]
        if changes:
            self._frames.append((at, changes))

    def note_breaking(self, experiments: list[dict[str, Any]], at: int) -> None:
        """What was broken on purpose at a moment, the newest first."""
        self._breaking.append((at, {"experiments": experiments}))

    def _difference(self, line: dict[str, Any], at: int) -> list[Any]:
        """[place of the order, place of a field, its value, ...]"""
        id_ = line["id"]
        before = self._lines.get(id_)
        if line["created"] is None:
            # An order that has no row yet. The board shows it as starting.
            line["created"] = before["created"] if before else line["event_at"] or at
        change: list[Any] = [self.ids.setdefault(id_, len(self.ids))]
        for name, value in line.items():
            if name not in LEFT_OUT and (before is None or before[name] != value):
                change += [self._fields.setdefault(name, len(self._fields)), value]
        self._lines[id_] = line
        return change

    def to_json(self) -> dict[str, Any]:
        """What `page/run.js` draws."""
        board = {**self._board.to_json(), "requests": [], "side": [], "main": ["board", "experiments"]}
        return {
            "setup": {**board, "options": {"board": {"counted": len(self.ids) + 1}}},
            "began": self.began,
            "ended": max(now(), self.began + 1),
            "ids": list(self.ids),
            "fields": list(self._fields),
            "frames": self._frames,
            "broken": self._breaking,
            "trouble": self.trouble,
        }


def now() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)

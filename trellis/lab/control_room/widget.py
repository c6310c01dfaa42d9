"""The control room's widget: it sends data to the page, and passes a person's requests to the engine.

The widget is our own. Its page is in `page/`, and nothing is fetched at run time. Traits carry the data that is shown,
from Python to the page. They are set only on the engine's thread, so they reach the page while a cell keeps the kernel
busy. Messages carry a person's requests, from the page to Python. Their handler only hands work to the engine. Each
message has a number `n`, which the page chose, and gets exactly one answer with that number. A trait could not be the
answer: a trait that is set to an equal value is not sent, so the same mistake made twice would get only one answer. The
forms are HTML, because ipywidgets cannot tie an error's sentence to its field for a screen reader.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import anywidget
import traitlets as t

from trellis.errors import TrellisError
from trellis.lab.control_room import assets, break_panel
from trellis.lab.control_room.board import Answer, Board, Handler, Message
from trellis.lab.control_room.orders import ORDERS
from trellis.lab.engine import Engine

PAGE = 25
VERDICTS = 8
BEAT = 2.0
"""Seconds between two signs of life. After three times as long without one, the page says that the kernel is gone."""

ENDED = "The lab has stopped. Run lab.start() and open the control room again."


class ControlRoom(anywidget.AnyWidget):
    """The widget that the module describes. `close()` closes it, and so does the end of its engine."""

    _esm = assets.ROOM.script()
    _css = assets.ROOM.style()

    setup = t.Dict().tag(sync=True)
    page = t.Dict().tag(sync=True)
    changes = t.Dict().tag(sync=True)
    counts = t.Dict().tag(sync=True)
    link = t.Dict().tag(sync=True)
    note = t.Dict().tag(sync=True)
    timeline = t.Dict().tag(sync=True)
    faults = t.Dict().tag(sync=True)
    breaking = t.Dict().tag(sync=True)
    machine = t.Dict().tag(sync=True)
    verdicts: t.List[Any] = t.List().tag(sync=True)
    beat = t.Int().tag(sync=True)
    troubles: t.List[Any] = t.List().tag(sync=True)

    def __init__(self, engine: Engine, *, board: Board = ORDERS, size: int = PAGE) -> None:
        self.engine = engine
        self.board = board
        self.feed = board.feed(engine, self._show, size)
        self._panels = [panel(self) for panel in board.panels]
        self._handlers: dict[str, Handler] = {}
        for panel in self._panels:
            self._handlers |= panel.handlers()
        self._number = 0
        super().__init__(
            setup={**board.to_json(), "options": {panel.name: panel.options() for panel in self._panels}},
            link={"live": False, "text": "Connecting …"},
            breaking=break_panel.state(engine.breaker),
            troubles=list(engine.log),
        )
        self.on_msg(self._receive)
        engine.log.listeners.add(self._logged)
        engine.breaker.listeners.add(self.show_breaking)
        self._following = engine.submit(self._follow())

    @property
    def closed(self) -> bool:
        return self._following.done()

    def close(self) -> None:
        """Stop following, and take the widget off the page."""
        self._following.cancel()
        self._stop_listening()
        super().close()

    def _stop_listening(self) -> None:
        self.engine.log.listeners.discard(self._logged)
        self.engine.breaker.listeners.discard(self.show_breaking)

    # --- what the page shows -------------------------------------------------------------------------------

    async def _follow(self) -> None:
        beating = asyncio.create_task(self._beat())
        try:
            await self.feed.run()
        finally:
            beating.cancel()
            self._stop_listening()
            for panel in self._panels:
                panel.close()
            self.link = {"live": False, "text": ENDED, "ended": True}

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self.beat += 1

    def _show(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def _logged(self) -> None:
        """Runs on the thread that logged. The trait must be set on the engine's thread."""
        if self.engine.running:
            self.engine.call_soon(self.show_log)

    def show_log(self) -> None:
        self.troubles = list(self.engine.log)

    def show_machine(self, shown: dict[str, Any]) -> None:
        self.machine = shown

    def show_breaking(self) -> None:
        """Runs on the engine's thread, whenever an experiment or the workers changed."""
        self.breaking = break_panel.state(self.engine.breaker)

    def report(self, title: str, ok: bool | None, text: str, number: int | None = None) -> int:
        """Show a verdict, or new words for the one with this number. `ok` None: not known yet. Returns its number."""
        if number is None:
            self._number += 1
            number = self._number
        line = {"id": number, "at": int(time.time() * 1000), "name": title, "ok": ok, "text": text}
        self.verdicts = [line, *(one for one in self.verdicts if one["id"] != number)][:VERDICTS]
        return number

    # --- what the page asks for ----------------------------------------------------------------------------

    def _receive(self, _: object, message: Message, __: object) -> None:
        handler = self._handlers.get(str(message.get("kind")))
        if handler is None:
            return
        try:
            self.engine.submit(self._answer(handler, message))
        except TrellisError as stopped:
            self.link = {"live": False, "text": str(stopped), "ended": True}
            self.send({"answer": message.get("n")})

    async def _answer(self, handler: Handler, message: Message) -> None:
        """Answer a message. An error is shown on the page, because no cell could show it."""
        answer: Answer | None = None
        try:
            answer = await handler(message)
        except TrellisError as error:
            self.report("", False, str(error))
        except Exception as error:
            self.report("", False, f"That did not work: {error}")
        finally:
            self.send({"answer": message.get("n"), **(answer or {})})

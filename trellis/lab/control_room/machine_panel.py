"""The panel that opens an order in the time machine, inside the room.

It opens inside the room and not in an output of its own: a widget's message runs long after its cell, and what it
displays then would appear in whatever cell runs at that moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from trellis.errors import BadInput
from trellis.lab.control_room.board import Handler, Message, Panel, Room
from trellis.lab.time_machines import Follower, ShowsPage, follow_order


class TimeMachines(Panel):
    """One order at a time. It is followed until it has ended, until another is opened, or the panel is closed."""

    name = "time_machine"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self._following: Future[None] | None = None

    def handlers(self) -> Mapping[str, Handler]:
        return {"open machine": self._open, "close machine": self._close}

    def close(self) -> None:
        if self._following is not None:
            self._following.cancel()

    def follower(self, id_: str, show: ShowsPage) -> Follower:
        """What replays the line with this id. Raises TrellisError with a sentence that says what to do."""
        return follow_order(self.room.engine, id_, show)

    async def _open(self, message: Message) -> None:
        id_ = message.get("id")
        if not isinstance(id_, str):
            raise BadInput(f"Select {self.room.board.words.a} first.")
        shown: dict[str, Any] = {"order": self.room.feed.name(id_), "recording": {}, "link": ""}

        def show(page: dict[str, Any] | None, words: str) -> None:
            nonlocal shown
            # The end of a follower that was replaced must not replace what its successor shows.
            if self._shown is shown and (page is not None or words != shown["link"]):
                shown = {**shown, "link": words} | ({} if page is None else {"recording": page})
                self._set(shown)

        follower = self.follower(id_, show)
        self.close()
        self._set(shown)
        self._following = self.room.engine.submit(follower.run())

    async def _close(self, _: Message) -> None:
        self._set({})
        self.close()

    def _set(self, shown: dict[str, Any]) -> None:
        self._shown = shown
        self.room.show_machine(shown)

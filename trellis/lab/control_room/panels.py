"""The panels for existing lines: the board with its requests, one line's attempts, and the log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from trellis.db.board import COUNTED, View
from trellis.errors import BadInput, TrellisError
from trellis.lab.control_room.board import Answer, Handler, Message, Panel, Request, Room
from trellis.model import ATTEMPTS, STEPS, Step

AT_ONCE = 10
"""At most this many requests, or starts, are under way at the same time."""
REFUSALS = 3
"""One verdict shows at most this many refusals in words. Further ones are only counted."""


class Lines(Panel):
    """The page of lines: filter, paging, selection, and requests to the selected lines with their verdicts."""

    name = "board"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        # A second click can arrive before the page learns that the first one was accepted.
        self._under_way: set[tuple[str, str]] = set()

    def options(self) -> dict[str, Any]:
        return {"counted": COUNTED}

    def handlers(self) -> Mapping[str, Handler]:
        return {"hello": self._hello, "view": self._view, "turn": self._turn, "focus": self._focus, "ask": self._ask}

    async def _hello(self, _: Message) -> None:
        # A page that was loaded again gets only the last changes from the traits, not the lines before them.
        self.room.feed.send_page()

    async def _view(self, message: Message) -> None:
        states = tuple(state for state in message.get("states", ()) if state in self.room.board.states)
        feed = self.room.feed
        kind = str(message.get("type") or "")
        await feed.set_view(View(states, str(message.get("prefix", ""))[:64].strip(), feed.size, kind))

    async def _turn(self, message: Message) -> None:
        await self.room.feed.turn_page(bool(message.get("forward")))

    async def _focus(self, message: Message) -> None:
        await self.room.feed.focus(message.get("id"))

    async def _ask(self, message: Message) -> Answer:
        """Send a request to the selected lines. Answers {error}: what is wrong with the text beside the button."""
        name = str(message.get("name"))
        request = next((one for one in self.room.board.requests if one.name == name), None)
        ids = [id_ for id_ in message.get("ids", ()) if (id_, name) not in self._under_way]
        if request is None:
            return {"error": None}
        try:
            # Read once for all lines, before the first one is asked.
            given = request.read(str(message.get("text", "")))
        except BadInput as error:
            return {"error": str(error)}
        if ids:
            await self._send(request, ids, given)
        return {"error": None}

    async def _send(self, request: Request, ids: list[str], given: Any) -> None:
        # Must stay before the first `await`: a second click is handled as soon as this one waits.
        self._under_way |= {(id_, request.name) for id_ in ids}
        words, name = self.room.board.words, self.room.feed.name
        number = self.room.report(request.title, None, f"asking {words.counted(len(ids))} …")
        lanes, refused, pending = asyncio.Semaphore(AT_ONCE), [], 0

        async def one(id_: str) -> None:
            nonlocal pending
            try:
                async with lanes:
                    receipt = await request.send(self.room, id_, given)
                    pending += receipt.verdict == "pending"
            except TrellisError as error:
                refused.append(str(error))
            except Exception as error:
                refused.append(f"{words.one.capitalize()} {name(id_)}: {error}")
            finally:
                self._under_way.discard((id_, request.name))

        await asyncio.gather(*map(one, ids))
        accepted = len(ids) - len(refused) - pending
        parts = [f"accepted ({name(ids[0]) if len(ids) == 1 else words.counted(accepted)})"] if accepted else []
        if pending:
            parts.append(f"pending: no worker has judged {words.counted(pending)} yet")
        parts += refused[:REFUSALS]
        if len(refused) > REFUSALS:
            parts.append(f"… and {len(refused) - REFUSALS} more refusals")
        self.room.report(request.title, not refused, " · ".join(parts), number)


class Attempts(Panel):
    """Every attempt of the order in focus, on a time axis and as a table."""

    name = "attempts"

    def options(self) -> dict[str, Any]:
        shipping = STEPS[Step.DISPATCH].queue
        return {
            "per_round": [step for step, info in STEPS.items() if info.queue == shipping],
            "outcomes": ["succeeded", *ATTEMPTS.values()],
            "hint": "Select an order, and every attempt at its steps is drawn here as it happens.",
            "none": "No attempt has ended yet.",
        }


class BackgroundLog(Panel):
    """Warnings and errors of the engine."""

    name = "log"

    def handlers(self) -> Mapping[str, Handler]:
        return {"clear log": self._clear}

    async def _clear(self, _: Message) -> None:
        self.room.engine.log.clear()
        self.room.show_log()

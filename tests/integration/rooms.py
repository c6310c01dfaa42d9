"""What tests of the lab share: waiting, what a page would show, and messages as the page sends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session


def eventually(true: Callable[[], object], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return False


class Seen:
    """What a page would show: the whole page and the changes since, merged as the page merges them."""

    def __init__(self, room: ControlRoom) -> None:
        self.lines: dict[str, dict[str, Any]] = {line["id"]: line for line in room.page.get("rows", ())}
        room.observe(self._turn, "page")
        room.observe(self._merge, "changes")

    def _turn(self, change: Any) -> None:
        self.lines = {line["id"]: line for line in change.new["rows"]}

    def _merge(self, change: Any) -> None:
        for id_ in change.new["gone"]:
            self.lines.pop(id_, None)
        self.lines |= {line["id"]: line for line in change.new["rows"]}

    def state(self, order_id: str) -> str | None:
        return self.lines.get(order_id, {}).get("state")


def say(room: ControlRoom, kind: str, **more: object) -> None:
    """As the page does it."""
    room._handle_custom_msg({"kind": kind, **more}, [])


def asked(room: ControlRoom, kind: str, **more: object) -> dict[str, Any]:
    """The answer to one message."""
    found: dict[object, dict[str, Any]] = {}
    room.send = lambda content, buffers=None: found.setdefault(content["answer"], content)
    say(room, kind, n="mine", **more)
    assert eventually(lambda: "mine" in found)
    return found["mine"]


FORM = {
    "items": [{"sku": "book", "quantity": "2", "price": "12.50"}],
    "address": {"line1": "1 Main Street", "city": "Springfield"},
    "policy": "patient",
    "count": "1",
}


def completes(session: Session) -> None:
    order = session.start_order()
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"

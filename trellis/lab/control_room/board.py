"""What a board is made of: columns, requests and panels. `orders.py` holds the one for orders.

The page knows nothing of orders. It is sent this specification once and draws what it names: columns by their cells
(`page/cells.js`), panels by their names (`page/room.js`). Another board names other columns, requests and panels.
A new panel is one class here in Python and one module of the page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from trellis.desk import Desk, Receipt
from trellis.lab.control_room.feed import Feed
from trellis.lab.engine import Engine

Message = dict[str, Any]
Answer = dict[str, Any]
Handler = Callable[[Message], Coroutine[Any, Any, Answer | None]]


@dataclass(frozen=True)
class Column:
    """One column. `key`: the value of a line that the cell shows. `cell`: how the page draws it (`page/cells.js`).

    `width` is a track of a CSS grid. `fold` says what happens where there is little room: at 1 the cell moves to a line
    of its own below 640 px, at 2 below 440 px; at 0 it stays.
    """

    key: str
    title: str
    cell: str = "text"
    width: str = "minmax(84px, 1fr)"
    fold: int = 0


@dataclass(frozen=True)
class Request:
    """What may be asked of the selected lines, by a button.

    `allowed`: the value of a line that says whether it can still grant this. `past` completes "What is selected can no
    longer be ...". `field`: the hint in a text field beside the button; `read` turns its text into the last argument of
    `send`, and raises BadInput with a sentence for the field.
    """

    name: str
    title: str
    allowed: str
    past: str
    send: Callable[[Desk, str, Any], Awaitable[Receipt]]
    style: str = ""
    field: str = ""
    label: str = ""
    read: Callable[[str], Any] = str


class Room(Protocol):
    """What a panel may use of the control room."""

    engine: Engine
    feed: Feed
    board: Board

    def report(self, title: str, ok: bool | None, text: str, number: int | None = None) -> int:
        """Show a verdict, or new words for the one with this number. `ok` None: not known yet. Returns its number."""

    def show_log(self) -> None:
        """Show the background log as it is now."""


class Panel:
    """A part of the room: what its page module must know once, and the messages that it answers.

    `name` is the name of its module in `page/room.js`.
    """

    name = ""

    def __init__(self, room: Room) -> None:
        self.room = room

    def options(self) -> dict[str, Any]:
        return {}

    def handlers(self) -> Mapping[str, Handler]:
        """A handler for each kind of message. What it raises is shown among the verdicts."""
        return {}


@dataclass(frozen=True)
class Board:
    """A control room's specification. `side` and `main` hold its panels in the order in which they stand.

    `states`: name to [background, text] colours; `path`: (state, short word) of what goes well; `ended`: final states.
    """

    title: str
    columns: tuple[Column, ...]
    requests: tuple[Request, ...]
    side: tuple[type[Panel], ...]
    main: tuple[type[Panel], ...]
    states: tuple[str, ...]
    ended: tuple[str, ...]
    path: tuple[tuple[str, str], ...]
    colours: Mapping[str, tuple[str, str]]

    @property
    def panels(self) -> tuple[type[Panel], ...]:
        return self.side + self.main

    def to_json(self) -> dict[str, Any]:
        """As the page gets it."""
        requests = [
            {key: value for key, value in vars(request).items() if key not in ("send", "read")}
            for request in self.requests
        ]
        return {
            "title": self.title,
            "columns": [asdict(column) for column in self.columns],
            "requests": requests,
            "side": [panel.name for panel in self.side],
            "main": [panel.name for panel in self.main],
            "states": list(self.states),
            "ended": list(self.ended),
            "path": [list(part) for part in self.path],
            "colours": {name: list(pair) for name, pair in self.colours.items()},
        }

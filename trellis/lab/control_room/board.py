"""What a board is made of: its feed, columns, requests and panels. `orders.py` holds the board for orders.

The board of flights is `trellis.lab.flights.board`. The page knows nothing about orders. It receives this specification
once and draws what the specification names: columns by their cells (`page/cells.js`), panels by their names
(`page/room.js`). Another board names other columns, requests and panels. A new panel is one class in Python and one
module of the page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from trellis.desk import Receipt
from trellis.lab.control_room.feed import Feed, Show
from trellis.lab.engine import Engine

Message = dict[str, Any]
Answer = dict[str, Any]
Handler = Callable[[Message], Coroutine[Any, Any, Answer | None]]


@dataclass(frozen=True)
class Column:
    """One column. `key`: the value of a line that the cell shows. `cell`: how the page draws it (`page/cells.js`).

    `width` is a track of a CSS grid. `fold` says what happens in a narrow room: with 1 the cell moves to a line of its
    own below 640 px, with 2 below 440 px, with 0 never.
    """

    key: str
    title: str
    cell: str = "text"
    width: str = "minmax(84px, 1fr)"
    fold: int = 0


@dataclass(frozen=True)
class Request:
    """A request to the selected lines, sent by a button.

    `allowed`: names the value of a line that says whether the request is still possible. `past` completes the sentence
    "What is selected can no longer be ...". `field`: the hint in a text field beside the button. `read` turns the text
    into the last argument of `send`, and raises BadInput with a sentence for the field. `send` gets the room, the id of
    a line, and what was read.
    """

    name: str
    title: str
    allowed: str
    past: str
    send: Callable[[Room, str, Any], Awaitable[Receipt]]
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

    def show_machine(self, shown: dict[str, Any]) -> None:
        """Show a workflow in the time machine: {"order", "recording", "link"}, or nothing."""


class Panel:
    """A part of the room: the options that its page module receives once, and the messages that it answers.

    `name` is the name of its module in `page/room.js`.
    """

    name = ""

    def __init__(self, room: Room) -> None:
        self.room = room

    def options(self) -> dict[str, Any]:
        return {}

    def handlers(self) -> Mapping[str, Handler]:
        """A handler for each kind of message. An error that a handler raises is shown among the verdicts."""
        return {}

    def close(self) -> None:
        """Called when the room closes."""


@dataclass(frozen=True)
class Words:
    """What the page calls a line, and what it says where there is none yet. `a`: the line with its article."""

    one: str
    many: str
    a: str
    reading: str
    empty: str

    def counted(self, number: int) -> str:
        """A number of lines in words."""
        return f"{number} {self.one if number == 1 else self.many}"


@dataclass(frozen=True)
class Board:
    """A control room's specification. `side` and `main` hold its panels, from top to bottom.

    `feed`: makes what fills the board, for an engine, a function that shows a trait's value, and the lines of a page.
    `states`: name to [background, text] colours. `path`: (state, short word) for each state of an order that goes well.
    `ended`: final states.
    """

    title: str
    words: Words
    feed: Callable[[Engine, Show, int], Feed]
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
        """The specification as it is sent to the page."""
        requests = [
            {key: value for key, value in vars(request).items() if key not in ("send", "read")}
            for request in self.requests
        ]
        return {
            "title": self.title,
            "words": asdict(self.words),
            "columns": [asdict(column) for column in self.columns],
            "requests": requests,
            "side": [panel.name for panel in self.side],
            "main": [panel.name for panel in self.main],
            "states": list(self.states),
            "ended": list(self.ended),
            "path": [list(part) for part in self.path],
            "colours": {name: list(pair) for name, pair in self.colours.items()},
        }

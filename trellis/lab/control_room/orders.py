"""The board of orders: its columns, the requests to an order, and its panels."""

from __future__ import annotations

from trellis.db.board import BoardReader
from trellis.insight.colours import OUTCOMES, STATES, text_on
from trellis.lab.control_room import rows
from trellis.lab.control_room.board import Board, Column, Request, Words
from trellis.lab.control_room.break_panel import Break, Experiments
from trellis.lab.control_room.fault_panel import Faults
from trellis.lab.control_room.feed import Show
from trellis.lab.control_room.machine_panel import TimeMachines
from trellis.lab.control_room.new_orders import NewOrders
from trellis.lab.control_room.order_feed import OrderFeed
from trellis.lab.control_room.panels import Attempts, BackgroundLog, Lines
from trellis.lab.engine import Engine
from trellis.model import Address, State
from trellis.parsing import parse_address


def read_address(text: str) -> Address:
    """An address from "street and number, city". Raises BadInput."""
    line1, _, city = text.partition(",")
    return parse_address({"line1": line1, "city": city})


def feed(engine: Engine, show: Show, size: int) -> OrderFeed:
    """What fills the board of an engine's orders."""
    assert engine.desk.stack is not None
    url = engine.desk.stack.database_url
    return OrderFeed(engine.desk, BoardReader(engine.pool), url, lambda: engine.watch, show, size)


COLUMNS = (
    Column("id", "Order", "order", "minmax(124px, 1.3fr)"),
    Column("state", "Path", "path", "132px"),
    Column("step", "Now", "step", "minmax(84px, 0.6fr)", fold=2),
    Column("created", "Age", "age", "52px", fold=2),
    Column("error", "Last error", "text", "minmax(84px, 1.3fr)", fold=1),
)

REQUESTS = (
    Request(
        "approve", "Approve", "can_approve", "approved", lambda room, id_, _: room.engine.desk.approve(id_), style="go"
    ),
    Request(
        "cancel", "Cancel", "can_cancel", "cancelled",
        lambda room, id_, _: room.engine.desk.cancel(id_, "from the control room"), style="stop",
    ),
    Request(
        "update_address", "Change address", "can_update_address", "sent elsewhere",
        lambda room, id_, address: room.engine.desk.update_address(id_, address),
        field="new street and number, city", label="New address", read=read_address,
    ),
)  # fmt: skip

ORDERS = Board(
    title="Control room",
    words=Words(
        "order",
        "orders",
        "an order",
        "Reading the ledger …",
        "No orders yet. Describe one under “New order” and press Start: it appears here by itself.",
    ),
    feed=feed,
    columns=COLUMNS,
    requests=REQUESTS,
    side=(NewOrders, Break, Faults),
    main=(Lines, Experiments, Attempts, TimeMachines, BackgroundLog),
    states=tuple(State),
    ended=tuple(state for state in State if state.terminal),
    path=rows.PATH,
    colours={name: (colour, text_on(colour)) for name, colour in {**STATES, **OUTCOMES}.items()},
)

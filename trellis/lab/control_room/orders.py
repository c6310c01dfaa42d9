"""The board of orders: its columns, the requests to an order, and its panels."""

from __future__ import annotations

from trellis.insight.colours import OUTCOMES, STATES, text_on
from trellis.lab.control_room import rows
from trellis.lab.control_room.board import Board, Column, Request
from trellis.lab.control_room.break_panel import Break, Experiments
from trellis.lab.control_room.fault_panel import Faults
from trellis.lab.control_room.machine_panel import TimeMachines
from trellis.lab.control_room.new_orders import NewOrders
from trellis.lab.control_room.panels import Attempts, BackgroundLog, Orders
from trellis.model import Address, State
from trellis.parsing import parse_address


def read_address(text: str) -> Address:
    """An address from "street and number, city". Raises BadInput."""
    line1, _, city = text.partition(",")
    return parse_address({"line1": line1, "city": city})


COLUMNS = (
    Column("id", "Order", "order", "minmax(124px, 1.3fr)"),
    Column("state", "Path", "path", "132px"),
    Column("step", "Now", "step", "minmax(84px, 0.6fr)", fold=2),
    Column("created", "Age", "age", "52px", fold=2),
    Column("error", "Last error", "text", "minmax(84px, 1.3fr)", fold=1),
)

REQUESTS = (
    Request(
        "approve", "Approve", "can_approve", "approved", lambda desk, id_, _: desk.approve(id_), style="go"
    ),
    Request(
        "cancel", "Cancel", "can_cancel", "cancelled",
        lambda desk, id_, _: desk.cancel(id_, "from the control room"), style="stop",
    ),
    Request(
        "update_address", "Change address", "can_update_address", "sent elsewhere",
        lambda desk, id_, address: desk.update_address(id_, address),
        field="new street and number, city", label="New address", read=read_address,
    ),
)  # fmt: skip

ORDERS = Board(
    title="Control room",
    columns=COLUMNS,
    requests=REQUESTS,
    side=(NewOrders, Break, Faults),
    main=(Orders, Experiments, Attempts, TimeMachines, BackgroundLog),
    states=tuple(State),
    ended=tuple(state for state in State if state.terminal),
    path=rows.PATH,
    colours={name: (colour, text_on(colour)) for name, colour in {**STATES, **OUTCOMES}.items()},
)

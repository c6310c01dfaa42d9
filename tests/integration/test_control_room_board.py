"""Boards are exchanged by their specification: other columns, other requests, other panels."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.integration.rooms import FORM, Seen, asked, eventually
from trellis.desk import Receipt
from trellis.lab.control_room import assets
from trellis.lab.control_room.board import Column, Request
from trellis.lab.control_room.new_orders import in_words, read_form
from trellis.lab.control_room.orders import ORDERS
from trellis.lab.control_room.panels import BackgroundLog, Lines
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.flights.board import flight_board
from trellis.lab.session import Session
from trellis.model import Step
from trellis.policies import PRESETS


def test_a_board_with_other_columns_requests_and_panels_needs_no_other_widget(session: Session) -> None:
    """The page is sent the new specification; a request of its own is answered; a panel left out answers nothing."""
    held: list[str] = []

    async def hold(_: object, order_id: str, why: str) -> Receipt:
        held.append(f"{order_id} {why}")
        return Receipt("accepted")

    board = replace(
        ORDERS,
        title="Warehouse",
        columns=(Column("id", "Parcel"), Column("address", "To", fold=1)),
        requests=(Request("hold", "Hold", "can_cancel", "held", hold, field="why", label="Why"),),
        side=(),
        main=(Lines, BackgroundLog),
    )
    room = ControlRoom(session, board=board)
    try:
        assert room.setup["title"] == "Warehouse"
        assert [column["title"] for column in room.setup["columns"]] == ["Parcel", "To"]
        assert [request["name"] for request in room.setup["requests"]] == ["hold"]
        assert (room.setup["side"], room.setup["main"]) == ([], ["board", "log"])
        seen = Seen(room)
        order = session.start_order(policy="patient")
        assert eventually(lambda: seen.state(order) == "AWAITING_APPROVAL")
        assert {column["key"] for column in room.setup["columns"]} <= seen.lines[order].keys()
        assert asked(room, "ask", name="hold", ids=[order], text="no room")["error"] is None
        assert held == [f"{order} no room"]
        assert room.verdicts[0]["text"] == f"accepted ({order})"
        assert "start" not in room._handlers
        session.cancel(order)
    finally:
        room.close()
        assert eventually(lambda: room.closed)


def test_the_specifications_name_what_there_is(session: Session) -> None:
    """The page draws every cell and panel that they name, and no other; every column and permission is a value of a
    line."""
    boards = (ORDERS, flight_board(session, "", None))
    page = assets.ROOM.script()
    cells = re.search(r"^const cells = \{\n(.*?)^\};", page, re.MULTILINE | re.DOTALL)
    panels = re.search(r"^const PANELS = \{(.*?)\};", page, re.MULTILINE)
    assert cells
    assert panels
    assert {column.cell for board in boards for column in board.columns} <= set(
        re.findall(r"^  (\w+)\(", cells[1], re.MULTILINE)
    )
    assert {panel.name for board in boards for panel in board.panels} == set(
        re.findall(r"(\w+)(?=[,:} ]|$)", re.sub(r": \w+", "", panels[1]))
    )
    room = session.control_room()
    try:
        seen = Seen(room)
        order = session.start_order(policy="patient")
        assert eventually(lambda: order in seen.lines)
        named = {column.key for column in ORDERS.columns} | {request.allowed for request in ORDERS.requests}
        assert named <= seen.lines[order].keys()
    finally:
        room.close()
        assert eventually(lambda: room.closed)


@pytest.mark.parametrize("name", PRESETS)
def test_the_form_tells_each_policy_with_the_rules_of_single_steps(name: str) -> None:
    """A limit on the tries of a dispatch is part of the words, and can be changed for the orders of the form."""
    policy = PRESETS[name]
    limit = policy.retry_of(Step.DISPATCH).max_tries
    if limit != policy.retry.max_tries:
        assert f"dispatch: at most {limit} tries" in in_words(policy)
    form, errors = read_form({**FORM, "policy": name, "dispatch_tries": str(limit)})
    assert form is not None, errors
    assert form.policy == policy
    form, errors = read_form({**FORM, "policy": name, "dispatch_tries": "7"})
    assert form is not None, errors
    assert form.policy.retry_of(Step.DISPATCH).max_tries == 7
    assert form.policy.retry_of(Step.CHARGE) == policy.retry_of(Step.CHARGE)
    form, errors = read_form({**FORM, "policy": name, "dispatch_tries": "many"})
    assert form is None
    assert "whole number" in errors["dispatch_tries"]

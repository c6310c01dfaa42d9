"""Time machines of a running lab, and a run of its board recorded into a file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.integration.rooms import asked, eventually
from tests.unit.test_pages import data_of
from trellis import lab
from trellis.db.board import BoardReader
from trellis.errors import BadInput, OrderNotFound
from trellis.lab.control_room import rows
from trellis.lab.control_room.recording import LEFT_OUT
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session
from trellis.lab.time_machines import ENDED, FOLLOWED


def steps(page: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page["runs"][0]["steps"] if page.get("runs") else []
    return found


def test_an_order_is_followed_until_its_workflow_has_ended(session: Session) -> None:
    """The recording grows while the order goes on, with its child and its books, and then says that it has ended."""
    order = session.start_order(policy="patient")
    assert eventually(lambda: session.status(order)["state"] == "AWAITING_APPROVAL")
    machine = session.time_machine(order)
    assert eventually(lambda: machine.link == FOLLOWED)
    waiting = len(steps(machine.recording))
    assert waiting > 0
    session.approve(order)
    assert eventually(lambda: machine.link == ENDED)
    whole = session.replay(order)
    assert len(steps(machine.recording)) == len(whole.steps) > waiting
    assert [run["id"] for run in machine.recording["runs"]] == [f"order-{order}", f"shipping-{order}-1"]
    assert steps(machine.recording)[-1]["says"] == whole.explain(len(whole.steps))
    held = {book["name"]: [row[1] for row in book["rows"]] for book in machine.recording["books"]}
    assert held["Provider"] == ["charge", "parcel"]
    assert held["Ledger"][0] == "ORDER_RECEIVED"
    assert held["Ledger"][-1] == "ORDER_COMPLETED"
    assert len(held["Attempts"]) == 6
    machine.close()
    shown = lab.time_machine(whole, books=session.books(order))
    assert len(steps(shown.recording)) == len(whole.steps)
    shown.close()


def test_an_order_that_is_not_known_is_a_sentence(session: Session) -> None:
    """A mistyped id opens nothing."""
    for ask in (session.time_machine, session.replay):
        with pytest.raises(OrderNotFound, match="no workflow of order nobodys"):
            ask("nobodys")


def test_the_room_opens_one_order_at_a_time_and_closes_it(session: Session, room: ControlRoom) -> None:
    """Opening another order replaces the first. What is still on its way for the first is not shown."""
    first, second = (session.start_order(policy="patient") for _ in range(2))
    asked(room, "open machine", id=first)
    asked(room, "open machine", id=second)
    assert eventually(lambda: steps(room.machine["recording"]))
    assert room.machine["order"] == second
    assert room.machine["recording"]["runs"][0]["id"] == f"order-{second}"
    session.cancel(second)
    assert eventually(lambda: room.machine["link"] == ENDED)
    asked(room, "close machine")
    assert room.machine == {}
    asked(room, "open machine", id="nobodys")
    assert eventually(lambda: "no workflow of order nobodys" in room.machine["link"])
    asked(room, "close machine")
    session.cancel(first)
    assert asyncio.run(session.wait(first))["state"] == "CANCELLED"


def test_a_recorded_run_holds_the_board_as_it_was_at_its_end(session: Session, tmp_path: Path) -> None:
    """Followed through its frames, each order that changed ends as the ledger has it. Older orders are left out."""
    older = session.start_order()
    session.approve(older)
    assert asyncio.run(session.wait(older))["state"] == "COMPLETED"
    with session.record(tmp_path / "run.html") as run:
        orders = [session.start_order() for _ in range(3)]
        for order in orders[:2]:
            session.approve(order)
            assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
        assert eventually(lambda: session.status(orders[2])["state"] == "AWAITING_APPROVAL")
    assert run.stop() == tmp_path / "run.html", "a second end does nothing"
    data: Any = data_of((tmp_path / "run.html").read_text("utf-8"))
    lines: dict[str, dict[str, Any]] = {}
    for _, changes in data["frames"]:
        for place, *values in changes:
            line = lines.setdefault(data["ids"][place], {})
            line |= {data["fields"][field]: value for field, value in zip(values[::2], values[1::2], strict=True)}
    assert set(orders) <= set(lines)
    assert older not in lines
    for row in session.do(BoardReader(session.pool).orders(orders)):
        now = rows.line(row)
        assert lines[row.id] == {name: value for name, value in now.items() if name not in LEFT_OUT}
    session.cancel(orders[2])


def test_a_run_that_could_not_be_written_is_refused_before_it_begins(session: Session, tmp_path: Path) -> None:
    """A folder that is missing would be found out at the end of an hour."""
    with pytest.raises(BadInput, match="There is no folder"):
        session.record(tmp_path / "missing" / "run.html")

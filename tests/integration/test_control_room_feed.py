"""What feeds the board: reads that take turns, orders that start, servers that go away."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from tests.integration.rooms import FORM, Seen, asked, eventually, say
from trellis import stack
from trellis.config import Settings
from trellis.db.board import Key, View
from trellis.db.rows import BoardRow
from trellis.lab.control_room.order_feed import OrderFeed
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session

pytestmark = pytest.mark.slow


class Slow:
    """A reader whose page is a snapshot that takes its time to arrive."""

    def __init__(self) -> None:
        self.state, self.event, self.asked = "SHIPPED", 10, asyncio.Event()

    def row(self) -> BoardRow:
        now = datetime.now(UTC)
        return BoardRow(
            "o1", self.state, created_at=now, event=self.event, event_ts=now, last_type=f"ORDER_{self.state}",
            last_ts=now,
        )  # fmt: skip

    async def page(self, view: View, after: Key | None = None) -> list[BoardRow]:
        snapshot = self.row()
        self.asked.set()
        await asyncio.sleep(0.1)
        return [snapshot]

    async def orders(self, ids: set[str]) -> list[BoardRow]:
        return [self.row()]


def feed_of(reader: Any, desk: Any = None) -> tuple[OrderFeed, dict[str, Any]]:
    shown: dict[str, Any] = {}
    return OrderFeed(desk, reader, "", lambda: None, shown.__setitem__, 3), shown  # type: ignore[arg-type, return-value]


async def test_a_page_read_never_overwrites_a_newer_line() -> None:
    """A commit that is announced while the page is being read is on the page in the end."""
    reader = Slow()
    feed, shown = feed_of(reader)
    drawing = asyncio.create_task(feed._keep_lines())
    reading = asyncio.create_task(feed.reload())
    await reader.asked.wait()
    reader.state, reader.event = "COMPLETED", 11
    feed._changed.add("o1")
    feed._wake.set()
    await reading
    async with asyncio.timeout(20):
        while feed._lines["o1"]["state"] != "COMPLETED":
            await asyncio.sleep(0.01)
    drawing.cancel()
    assert shown["changes"]["rows"][0]["event"] == 11


class Nothing:
    async def page(self, view: View, after: Key | None = None) -> list[BoardRow]:
        return []

    async def orders(self, ids: set[str]) -> list[BoardRow]:
        return [BoardRow(id_) for id_ in ids]


class Ended:
    async def status(self, order_id: str) -> Any:
        return SimpleNamespace(workflow=SimpleNamespace(close_status="TERMINATED" if order_id == "o9" else "RUNNING"))


async def test_more_orders_starting_than_a_page_holds_leave_it_in_peace() -> None:
    """The newest of them are shown, the page is not read again for their sake; who was terminated goes."""
    feed, shown = feed_of(Nothing(), Ended())
    await feed.reload()
    drawing = asyncio.create_task(feed._keep_lines())
    for n in range(10):
        feed.show_starting(f"o{n}")
        feed._starting[f"o{n}"]["created"] = n
    async with asyncio.timeout(20):
        while feed._changed or set(feed._lines) != {"o7", "o8", "o9"}:
            await asyncio.sleep(0.01)
    drawing.cancel()
    assert not feed._page_stale
    await feed.reload()
    assert [line["id"] for line in shown["page"]["rows"]] == ["o9", "o8", "o7"]
    await feed._drop_ended()
    assert shown["changes"]["gone"] == ["o9"]
    assert set(feed._starting) == {f"o{n}" for n in range(9)}
    await feed.set_view(View(("ORDER_RECEIVED", "AWAITING_APPROVAL"), size=3))
    assert len(shown["page"]["rows"]) == 3, "an order that starts is an open one"


async def test_a_programming_error_is_not_called_a_lost_connection(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the background log; the board goes on."""
    room = ControlRoom(session)
    try:
        assert await asyncio.to_thread(eventually, lambda: room.link["live"])
        live_values: list[bool] = []
        room.observe(lambda change: live_values.append(change.new["live"]), "link")

        async def wrong() -> dict[str, int]:
            raise KeyError("a mistake of ours")

        feed = room.feed
        assert isinstance(feed, OrderFeed)
        monkeypatch.setattr(feed._reader, "counts", wrong)
        with structlog.testing.capture_logs() as logged:
            feed._counts_stale = True
            assert await asyncio.to_thread(eventually, lambda: logged)
        assert "a mistake of ours" in logged[0]["error"]
        monkeypatch.undo()
        order = session.start_order(policy="patient")
        seen = Seen(room)
        assert await asyncio.to_thread(eventually, lambda: seen.state(order) == "AWAITING_APPROVAL")
        assert False not in live_values
    finally:
        room.close()


def test_a_board_whose_servers_die_says_so_and_comes_back_by_itself(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Disconnected in words, live again when the servers are; orders finish, and nothing is printed."""
    home = Path(tempfile.mkdtemp(prefix="trellis-lab-"))
    settings = Settings.model_validate({"TRELLIS_HOME": home, "TRELLIS_FAULTS": "calm"})
    own_session = Session(settings)
    try:
        room = own_session.control_room()
        seen = Seen(room)
        assert eventually(lambda: room.link["live"])
        order = own_session.start_order(policy="patient")
        assert eventually(lambda: seen.state(order) == "AWAITING_APPROVAL")
        stack.down(settings)
        assert eventually(lambda: not room.link["live"])
        assert "Disconnected, trying again" in room.link["text"]
        say(room, "ask", name="approve", ids=[order], n=1)
        assert eventually(lambda: room.verdicts and room.verdicts[0]["ok"] is False, 40)
        asyncio.run(stack.up(settings))
        assert eventually(lambda: room.link["live"], 30)
        say(room, "ask", name="approve", ids=[order], n=2)
        assert eventually(lambda: seen.state(order) == "COMPLETED", 60)
        assert "Traceback" not in "".join(capfd.readouterr())
    finally:
        own_session.stop()
        assert "has stopped" in room.link["text"]
        # A click that comes even so is answered: its button would wait for ever.
        assert asked(room, "start", **FORM) == {"answer": "mine"}
        stack.down(settings)
        shutil.rmtree(home, ignore_errors=True)

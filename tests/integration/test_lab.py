"""The lab without a browser: the engine, code taken into use while orders run, and the control room's Python side."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import pandas as pd
import pytest

from trellis import stack
from trellis.bench.board import fill
from trellis.bench.floor import standing
from trellis.config import Settings
from trellis.db.board import CHANNEL, BoardReader, View, listening
from trellis.db.ledger import Row
from trellis.db.pool import Pool
from trellis.errors import DatabaseUnavailable, TrellisError
from trellis.faults import FaultPlan, Mix
from trellis.lab import reloading, rows
from trellis.lab.room import ControlRoom
from trellis.lab.session import Session


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    home = Path(tempfile.mkdtemp(prefix="trellis-lab-"))
    settings = Settings.model_validate({"TRELLIS_HOME": home, "TRELLIS_FAULTS": "calm"})
    session = Session(settings)
    yield session
    session.stop()
    stack.down(settings)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def room(session: Session) -> Iterator[ControlRoom]:
    room = session.control_room()
    assert eventually(lambda: room.link["live"])
    yield room
    room.close()
    assert eventually(lambda: room.closed)


def eventually(true: Callable[[], object], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return False


class Seen:
    """What a page would show: the whole page and the changes since, merged as board.js merges them."""

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


FORM = {
    "items": [{"sku": "book", "quantity": "2", "price": "12.50"}],
    "address": {"line1": "1 Main Street", "city": "Springfield"},
    "policy": "patient",
    "count": "1",
}


# --- the engine ----------------------------------------------------------------------------------------------


def test_a_sleeping_cell_and_a_heavy_groupby_hold_no_order_up(session: Session) -> None:
    """Orders complete while this thread, as a busy cell would, sleeps for six seconds or groups rows without pause."""
    numbers = pd.DataFrame({"key": range(400_000)})

    def sleep() -> None:
        time.sleep(6)

    def group() -> None:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            numbers.groupby(numbers["key"] % 997)["key"].apply(lambda one: one.sum())

    for busy in (sleep, group):
        order = session.start_order()
        session.approve(order)
        began = time.time()
        busy()
        ended = time.time()
        log = session.events(order).set_index("type")["ts"]
        assert began < log["ORDER_COMPLETED"].timestamp() < ended, busy.__name__


def test_a_lost_database_is_one_sentence_for_every_call(session: Session) -> None:
    """`events` reads by a way of its own; it too shows its error without a traceback."""
    assert session.desk.stack is not None
    away = session.desk.stack.__class__(session.desk.stack.temporal, "postgresql:///x?host=/nowhere", False, Path())
    before, session.desk.stack = session.desk.stack, away
    try:
        with pytest.raises(DatabaseUnavailable, match="trellis up") as failed:
            session.events()
        assert failed.value._render_traceback_() == [f"DatabaseUnavailable: {failed.value}"]  # type: ignore[attr-defined]
    finally:
        session.desk.stack = before


def test_workers_that_failed_are_replaced(session: Session) -> None:
    """A worker that was cut off from its server for too long ends; the lab starts both anew, and orders go on."""
    before = session.watch
    session.call_soon(before.worker_failed.set)
    assert eventually(lambda: session.watch is not before)
    order = session.start_order()
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"


# --- reload --------------------------------------------------------------------------------------------------


@pytest.fixture
def editable(tmp_path: Path, session: Session) -> Iterator[Callable[[str, str, str], None]]:
    """Edits copies of the package's modules; afterwards the real ones are back."""
    names = [name for name in reloading.MODULES if ".workflows." in name or ".activities." in name]
    folders = {}
    for package in ("workflows", "activities"):
        module = sys.modules[f"trellis.{package}"]
        folders[package] = list(module.__path__)
        shutil.copytree(folders[package][0], tmp_path / package)
        module.__path__ = [str(tmp_path / package)]
    specs = {name: sys.modules[name].__spec__ for name in names}
    session.reload()

    def edit(file: str, old: str, new: str) -> None:
        path = tmp_path / file
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    yield edit
    for package, before in folders.items():
        sys.modules[f"trellis.{package}"].__path__ = before
    for name, spec in specs.items():
        sys.modules[name].__spec__ = spec
    session.reload()
    assert all(str(tmp_path) not in str(sys.modules[name].__file__) for name in names)


Edit = Callable[[str, str, str], None]


def test_a_reload_takes_edits_into_kernel_and_sandbox_and_keeps_running_orders(
    session: Session, editable: Edit
) -> None:
    """An order under way ends with the new activity's and the new workflow's words in its log."""
    order = session.start_order(policy="patient")
    assert eventually(lambda: session.status(order)["state"] == "AWAITING_APPROVAL")
    editable("activities/books.py", "given.request_id, given.by)", "given.request_id, given.by + ', reloaded')")
    editable("workflows/order.py", 'request.reason or "cancelled on request"', 'request.reason or "by the new code"')
    assert session.reload().startswith("Reloaded")
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
    log = session.events(order).set_index("type")["payload_json"]
    assert json.loads(log["ORDER_APPROVED"])["by"] == "request, reloaded"
    other = session.start_order(policy="patient")
    assert eventually(lambda: session.status(other)["state"] == "AWAITING_APPROVAL")
    session.cancel(other)
    assert asyncio.run(session.wait(other))["state"] == "CANCELLED"
    log = session.events(other).set_index("type")["payload_json"]
    assert json.loads(log["ORDER_CANCELLED"])["reason"] == "by the new code"


def test_an_order_whose_history_does_not_fit_is_named_and_goes_on_after_the_edit_is_undone(
    session: Session, room: ControlRoom, editable: Edit
) -> None:
    """A reload that would break running orders says so in words, in its answer and in the control room's log."""
    order = session.start_order(policy="patient")
    assert eventually(lambda: session.status(order)["state"] == "AWAITING_APPROVAL")
    first = "        await self._outside(Step.RECEIVE, self._given)\n"
    editable("workflows/order.py", first, "        await workflow.sleep(0.01)\n" + first)
    said = session.reload()
    assert order in said
    assert "do not fit the new code" in said
    assert "Nondeterminism" in said
    assert eventually(lambda: any("do not fit" in line["text"] for line in room.troubles))
    editable("workflows/order.py", "        await workflow.sleep(0.01)\n" + first, first)
    assert session.reload().startswith("Reloaded")
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"


@pytest.mark.parametrize(
    ("file", "new", "sentence"),
    [("workflows/order.py", "def (:", "Nothing was reloaded"), ("activities/steps.py", "boom", "cannot be imported")],
)
def test_code_that_cannot_be_imported_leaves_the_old_code_at_work(
    session: Session, editable: Edit, file: str, new: str, sentence: str
) -> None:
    """A typo is a sentence that names the file; orders go on as before."""
    editable(file, "from __future__ import annotations\n", f"from __future__ import annotations\n{new}\n")
    with pytest.raises(TrellisError, match=sentence) as failed:
        session.reload()
    assert Path(file).name in str(failed.value)
    order = session.start_order()
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
    editable(file, f"from __future__ import annotations\n{new}\n", "from __future__ import annotations\n")


# --- the control room ----------------------------------------------------------------------------------------


def test_an_order_from_the_form_appears_is_approved_and_completes_on_the_board(room: ControlRoom) -> None:
    """Started, seen with its review running out, approved by message, followed to its end: nothing is refreshed."""
    seen = Seen(room)
    say(room, "start", **FORM)
    assert eventually(lambda: room.form.get("started"))
    (order,) = room.form["started"]
    assert eventually(lambda: seen.state(order) == "AWAITING_APPROVAL")
    line = seen.lines[order]
    assert line["step"] == "review"
    assert 0 < line["deadline"] - time.time() * 1000 < 301_000
    assert line["can_approve"]
    say(room, "focus", id=order)
    say(room, "ask", name="approve", ids=[order], n=1)
    say(room, "ask", name="approve", ids=[order], n=2)
    assert eventually(lambda: seen.state(order) == "COMPLETED")
    assert seen.lines[order]["step"] is None
    assert [verdict["ok"] for verdict in room.verdicts] == [True], "the second click was no second request"
    assert eventually(lambda: len(room.timeline["bars"]) == 6)
    assert {bar["outcome"] for bar in room.timeline["bars"]} == {"succeeded"}
    assert room.timeline["link"].endswith(f"/workflows/order-{order}")
    say(room, "ask", name="cancel", ids=[order], n=3)
    assert eventually(lambda: room.verdicts[0]["ok"] is False)
    assert "COMPLETED" in room.verdicts[0]["text"]


def test_running_the_cell_again_gives_the_same_room(session: Session, room: ControlRoom) -> None:
    """A listener and a connection for each run of a cell would add up; a closed room is replaced."""
    assert session.control_room() is room
    room.close()
    assert eventually(lambda: room.closed)
    fresh = session.control_room()
    assert fresh is not room
    assert eventually(lambda: fresh.link["live"])
    fresh.close()
    assert eventually(lambda: fresh.closed)


def test_many_orders_are_steered_at_once_and_each_refusal_has_its_reason(session: Session, room: ControlRoom) -> None:
    """Three accept the new address, one that is over does not, and one verdict tells both."""
    seen = Seen(room)
    over = session.start_order(policy="patient")
    assert eventually(lambda: session.status(over)["state"] == "AWAITING_APPROVAL")
    session.cancel(over)
    say(room, "start", **{**FORM, "count": "3"})
    assert eventually(lambda: sum(line["state"] == "AWAITING_APPROVAL" for line in seen.lines.values()) >= 3)
    ids = [line["id"] for line in seen.lines.values() if line["state"] == "AWAITING_APPROVAL"][:3]
    assert eventually(lambda: seen.state(over) == "CANCELLED")
    say(room, "ask", name="update_address", ids=[*ids, over], n=1, address={"line1": "2 New Road"})
    assert eventually(lambda: room.verdicts and room.verdicts[0]["ok"] is False)
    assert "accepted (3 orders)" in room.verdicts[0]["text"]
    assert f"Order {over} refused update_address: the order is CANCELLED" in room.verdicts[0]["text"]
    assert eventually(lambda: all(seen.lines[id_]["address"] == "2 New Road" for id_ in ids))
    say(room, "ask", name="cancel", ids=ids, n=2)
    assert eventually(lambda: all(seen.state(id_) == "CANCELLED" for id_ in ids))


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"items": [{"sku": "", "quantity": "1", "price": "1"}]}, "item 0", "must have a sku"),
        ({"items": [{"sku": "a", "quantity": "1.5", "price": "1"}]}, "item 0", "whole number"),
        ({"items": [{"sku": "a", "quantity": "1", "price": "NaN"}]}, "item 0", "finite number"),
        ({"items": [{"sku": "a", "quantity": "1000000", "price": "99999999"}]}, "form", "total must be at most"),
        ({"address": {"line1": " "}}, "address", "must have a line1"),
        ({"policy": "hasty"}, "policy", "no policy 'hasty'"),
        ({"count": "0"}, "count", "from 1 to 200"),
        ({"count": "many"}, "count", "from 1 to 200"),
    ],
)
def test_nonsense_in_the_form_is_a_sentence_beside_its_field_and_starts_nothing(
    session: Session, room: ControlRoom, change: dict[str, object], field: str, sentence: str
) -> None:
    """The field that is wrong is named, and no order comes into being."""
    before = len(session.events())
    say(room, "start", **{**FORM, **change})
    assert eventually(lambda: room.form.get("errors"))
    assert sentence in room.form["errors"][field]
    assert list(room.form["errors"]) == [field]
    assert len(session.events()) == before


def test_sliders_change_the_plan_that_running_orders_follow(session: Session, room: ControlRoom) -> None:
    """A charge that hangs for ever is let go by moving its slider back; the timeline has shown the attempts."""
    say(room, "fault", step="charge", name="hang", value=1.0)
    assert eventually(lambda: room.faults.get("steps", {}).get("charge", {}).get("hang") == 1.0)
    order = session.start_order(policy="swift")
    say(room, "focus", id=order)
    session.approve(order)
    assert eventually(lambda: any(bar["outcome"] == "timed out" for bar in room.timeline.get("bars", ())))
    say(room, "weather", name="calm")
    assert eventually(lambda: room.faults["steps"] == {})
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"


def test_a_change_by_somebody_else_shows_on_the_sliders(session: Session, room: ControlRoom) -> None:
    """The command line or another notebook may set faults; the board tells the plan in force."""
    session.faults(FaultPlan(Mix(error=0.25)))
    assert eventually(lambda: room.faults["mix"]["error"] == 0.25)
    session.faults("calm")


def test_what_does_not_fit_under_one_is_taken_from_the_other_sliders() -> None:
    """Probabilities never add up to more than 1, whatever is moved; a script ends, other steps are left alone."""
    plan = rows.turned(FaultPlan.canonical(), None, "error", 0.8)
    assert plan.mix.error == 0.8
    assert plan.mix.hang == pytest.approx(0.2)
    plan = rows.turned(plan, "charge", "reply_lost", 1.0)
    assert plan.steps["charge"] == Mix(reply_lost=1.0)
    assert plan.mix.error == 0.8
    assert rows.turned(FaultPlan.scripted("charge: error"), None, "latency", 1.5).script == ""


def test_filter_search_and_pages_are_walked_by_key(session: Session) -> None:
    """Pages of three hold every order once, newest first; a state and the beginning of an id narrow them."""
    room = ControlRoom(session, size=3)
    try:
        assert eventually(lambda: room.link["live"])
        tag = f"page{time.time_ns() % 10**6}"
        ids = [session.start_order(policy="patient", order_id=f"{tag}-{n}") for n in range(7)]
        assert eventually(lambda: all(session.status(id_)["state"] == "AWAITING_APPROVAL" for id_ in ids))
        for id_ in ids[:2]:
            session.cancel(id_)
        say(room, "view", states=[], prefix=tag)
        pages = []
        for number in (1, 2, 3):
            assert eventually(lambda number=number: room.page["number"] == number and room.page["prefix"] == tag)
            pages.append([line["id"] for line in room.page["rows"]])
            say(room, "turn", forward=True)
        assert [id_ for page in pages for id_ in page] == sorted(ids)
        say(room, "view", states=["CANCELLED"], prefix="")
        assert eventually(lambda: room.page["states"] == ["CANCELLED"])
        assert {line["state"] for line in room.page["rows"]} == {"CANCELLED"}
        assert [line["id"] for line in room.page["rows"]][:1] <= [ids[1], ids[0]]
        assert room.counts["CANCELLED"] >= 2
        for id_ in ids[2:]:
            session.cancel(id_)
        # The filter is live: those cancelled just now come in by themselves, the page keeps its size.
        assert eventually(lambda: {line["id"] for line in room.page["rows"]} <= set(ids[2:]))
        assert len(room.page["rows"]) == 3
    finally:
        room.close()


def test_a_board_whose_servers_die_says_so_and_comes_back_by_itself(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Disconnected in words, live again when the servers are; orders finish, and nothing is printed."""
    home = Path(tempfile.mkdtemp(prefix="trellis-lab-"))
    settings = Settings.model_validate({"TRELLIS_HOME": home, "TRELLIS_FAULTS": "calm"})
    mine = Session(settings)
    try:
        room = mine.control_room()
        seen = Seen(room)
        assert eventually(lambda: room.link["live"])
        order = mine.start_order(policy="patient")
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
        mine.stop()
        assert "has stopped" in room.link["text"]
        stack.down(settings)
        shutil.rmtree(home, ignore_errors=True)


async def test_nobody_watching_means_no_notifications(house: Any) -> None:
    """NOTIFY makes commits take turns; without a board a lone writer sends none, with one each change is told."""
    told = []
    assert house.desk.stack is not None
    async with house.pool.connection() as spy:
        await spy.execute(f"LISTEN {CHANNEL}")
        try:
            order = await house.start()
            await house.until(order, "AWAITING_APPROVAL")
            await house.desk.cancel(order.order_id)
            async for note in spy.notifies(timeout=0.5):
                told.append(note.payload)
            before = told.count(order.order_id)
            async with listening(house.desk.stack.database_url) as ids:
                other = await house.start()
                async with asyncio.timeout(20):
                    async for id_ in ids:
                        if id_ == other.order_id:
                            break
        finally:
            await spy.execute(f"UNLISTEN {CHANNEL}")
    # Two of one order's writers at once may each take the other for a watcher; most of its events are alone.
    assert before <= 1


class Explaining(BoardReader):
    """Asks how many blocks each query touches, instead of what it finds."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.blocks: list[int] = []

    async def _rows(self, sql: LiteralString, args: dict[str, object]) -> list[Row]:
        async with self._pool.connection() as connection:
            plan = await (await connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", args)).fetchone()
        assert plan is not None
        top = plan[0][0]["Plan"]
        self.blocks.append(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
        return []


async def test_the_board_reads_no_more_of_a_ledger_ten_times_as_large(settings: Settings) -> None:
    """Blocks touched by each of its queries, with 1,000 and with 10,000 old orders of 25 events each."""
    async with standing(settings) as floor:
        touched = []
        for orders in (1_000, 10_000):
            await floor.pool.check()
            async with floor.pool.connection() as connection:
                await connection.execute("DROP TRIGGER IF EXISTS events_append_only ON events")
                await connection.execute("TRUNCATE events, orders CASCADE")
            await fill(floor.pool, orders * 25)
            async with floor.pool.connection() as connection:
                await connection.execute("VACUUM ANALYZE orders, events")
            reader = Explaining(floor.pool)
            middle = (datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=orders), "old-")
            for view in (View(), View(("ORDER_RECEIVED", "FAILED")), View(prefix="old-5")):
                await reader.page(view)
            await reader.page(View(), middle)
            await reader.orders(f"old-{n}" for n in range(50))
            await reader.tries("old-7")
            await reader.counts()
            touched.append(reader.blocks)
        for small, large in zip(*touched, strict=True):
            # A level more of an index, for each of the page's fifty lines and their four look-ups.
            assert large <= 2 * small + 50, touched

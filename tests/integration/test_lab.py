"""The lab without a browser: the engine, code taken into use while orders run, and the control room's Python side."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

import pandas as pd
import pytest
import structlog

from trellis import lab, stack
from trellis.bench.board import fill
from trellis.bench.floor import standing
from trellis.config import Settings
from trellis.db.board import CHANNEL, COLUMNS, BoardReader, Key, View, listening
from trellis.db.ledger import Row
from trellis.db.pool import Pool
from trellis.errors import BadInput, DatabaseUnavailable, OrderNotFound, TrellisError
from trellis.faults import FaultPlan, Mix
from trellis.lab import reloading, rows
from trellis.lab.feed import Feed
from trellis.lab.keeper import KEPT, LogKeeper
from trellis.lab.room import BEAT, ControlRoom
from trellis.lab.session import Session


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
    """A worker that was cut off from its server for too long ends; both are started anew, after a reload as well."""
    for _ in range(2):
        before = session.watch
        session.call_soon(before.worker_failed.set)
        assert eventually(lambda before=before: session.watch is not before)
        completes(session)
        session.reload()


def completes(session: Session) -> None:
    order = session.start_order()
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.3])
def test_a_reload_that_is_interrupted_still_comes_to_its_end(session: Session, moment: float) -> None:
    """The cell stops waiting, the engine does not stop halfway: workers are there, and the next reload works."""
    before = session.watch
    waiting = session.submit(session._reload())
    time.sleep(moment)
    waiting.cancel()
    assert session.reload().startswith("Reloaded")
    assert session.watch is not before
    completes(session)


def test_workers_that_cannot_be_hired_after_a_reload_are_tried_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away in just that moment is a sentence; the lab gets its workers back by itself."""
    before, hire, failures = session.watch, session._hire_crew, [RuntimeError("away")]

    async def failing() -> None:
        if failures:
            raise failures.pop()
        await hire()

    monkeypatch.setattr(session, "_hire_crew", failing)
    with pytest.raises(TrellisError, match=r"could not be started again \(away\)"):
        session.reload()
    assert eventually(lambda: session.watch is not before)
    completes(session)


async def test_an_interrupted_wait_ends_at_once_and_leaves_nothing_behind(session: Session) -> None:
    """Every awaitable of the lab hears a cell's interrupt; the engine gives up what was awaited."""
    ended = threading.Event()

    async def for_ever() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    waiting = asyncio.create_task(session.awaiting(for_ever()))
    await asyncio.sleep(0.1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(ended.wait, 20)


def test_mistakes_in_a_cell_are_one_sentence(session: Session) -> None:
    """An order nobody knows, a request nobody knows: IPython shows the sentence, without a traceback."""
    with pytest.raises(OrderNotFound, match="no order nosuch") as failed:
        lab.side_by_side(session, "nosuch")
    assert failed.value._render_traceback_() == [f"OrderNotFound: {failed.value}"]
    with pytest.raises(BadInput, match="no request 'frobnicate'") as wrong:
        asyncio.run(lab.race(session, "frobnicate", [1]))
    assert len(wrong.value._render_traceback_()) == 1


def test_each_step_stands_beside_its_events_its_history_and_its_code(session: Session) -> None:
    """Every step of a calm order has a line, the steps of the ledger alone included."""
    order = session.start_order()
    session.approve(order)
    asyncio.run(session.wait(order))
    lines = lab.step_by_step(session, order).data.split("<tr>")[2:]
    steps = [re.search(r"<b>(\w+)</b>", one)[1] for one in lines]  # type: ignore[index]
    assert sorted(steps) == ["approve", "charge", "complete", "dispatch", "prepare", "receive", "ship", "validate"]
    charge = lines[steps.index("charge")]
    for words in (
        "PAYMENT_CHARGED, attempt 1",
        "activity charge, attempt 1: succeeded",
        "charge_key(order.payment_id)",
    ):
        assert words in charge
    assert "AWAITING_APPROVAL" in lines[steps.index("validate")]
    assert "local activity finish: succeeded" in lines[steps.index("complete")]


def test_the_log_keeper_counts_and_puts_the_latest_first() -> None:
    """A line that comes again moves to the front and keeps its number; readers never meet a writer halfway."""
    keeper = LogKeeper()
    for text in ("a", "b", "a"):
        keeper.add("WARNING", text, 0)
    assert [(line["text"], line["times"], line["id"]) for line in keeper] == [("a", 2, 1), ("b", 1, 2)]
    done = threading.Event()

    def write() -> None:
        for n in range(20_000):
            keeper.add("ERROR", str(n % 150), n)
        done.set()

    threading.Thread(target=write).start()
    while not done.is_set():
        assert len(list(keeper)) <= KEPT


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
    editable("activities/ledger_only.py", "given.request_id, given.by)", "given.request_id, given.by + ', reloaded')")
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
    order = asked(room, "start", **FORM)["started"]
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
        ({"items": [{"sku": "a", "quantity": "1", "price": "NaN"}]}, "item 0", "must be a number"),
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
    # The same mistake a second time is answered a second time.
    for _ in range(2):
        errors = asked(room, "start", **{**FORM, **change})["errors"]
        assert sentence in errors[field]
        assert list(errors) == [field]
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


def test_sliders_moved_at_once_all_count_and_the_last_place_of_each_wins(session: Session, room: ControlRoom) -> None:
    """Fifty messages without a pause: no slider's place is lost to another's, and none to its own earlier one."""
    say(room, "weather", name="calm")
    for n in range(1, 26):
        say(room, "fault", step=None, name="error", value=n / 100)
        say(room, "fault", step="charge", name="latency", value=n / 10)
    asked(room, "fault", step=None, name="hang", value=0.3)
    plan = session.do(session.desk.ledger.fault_plan()).plan
    assert plan.mix == Mix(error=0.25, hang=0.3)
    assert plan.steps["charge"].latency == 2.5
    asked(room, "weather", name="calm")
    assert session.do(session.desk.ledger.fault_plan()).plan == FaultPlan.calm()


def test_a_wrong_address_is_answered_each_time_and_asks_nobody(session: Session, room: ControlRoom) -> None:
    """The page's buttons wait for an answer; the same mistake, or an order that is being asked already, has one too."""
    order = session.start_order(policy="patient")
    for _ in range(2):
        answer = asked(room, "ask", name="update_address", ids=[order], address={"line1": ""})
        assert "must have a line1" in answer["error"]
    assert not room.verdicts
    room._busy.add((order, "cancel"))
    assert asked(room, "ask", name="cancel", ids=[order])["error"] is None
    room._busy.clear()
    assert asked(room, "ask", name="cancel", ids=[order])["error"] is None
    assert room.verdicts[0]["ok"]


def test_the_room_gives_signs_of_life_while_the_kernel_is_busy(room: ControlRoom) -> None:
    """Without them a page could not tell a kernel that is gone from one at work."""
    before = room.beat
    time.sleep(3 * BEAT)
    assert room.beat >= before + 2


class Slow:
    """A reader whose page is a snapshot that takes its time to arrive."""

    def __init__(self) -> None:
        self.state, self.event, self.asked = "SHIPPED", 10, asyncio.Event()

    def row(self) -> Row:
        now = datetime.now(UTC)
        known = {
            "id": "o1",
            "state": self.state,
            "created_at": now,
            "event": self.event,
            "last_ts": now,
            "event_ts": now,
        }
        return {**dict.fromkeys(COLUMNS), **known, "last_type": f"ORDER_{self.state}"}

    async def page(self, view: View, after: Key | None = None) -> list[Row]:
        snapshot = self.row()
        self.asked.set()
        await asyncio.sleep(0.1)
        return [snapshot]

    async def orders(self, ids: set[str]) -> list[Row]:
        return [self.row()]


def feed_of(reader: Any, desk: Any = None) -> tuple[Feed, dict[str, Any]]:
    shown: dict[str, Any] = {}
    return Feed(desk, reader, "", lambda: None, shown.__setitem__, 3), shown  # type: ignore[arg-type, return-value]


async def test_a_page_read_never_overwrites_a_newer_line() -> None:
    """A commit that is told while the page is being read is on the page in the end."""
    reader = Slow()
    feed, shown = feed_of(reader)
    drawing = asyncio.create_task(feed._draw())
    reading = asyncio.create_task(feed.reload())
    await reader.asked.wait()
    reader.state, reader.event = "COMPLETED", 11
    feed._heard.add("o1")
    feed._wake.set()
    await reading
    async with asyncio.timeout(20):
        while feed._lines["o1"]["state"] != "COMPLETED":
            await asyncio.sleep(0.01)
    drawing.cancel()
    assert shown["changes"]["rows"][0]["event"] == 11


class Nothing:
    async def page(self, view: View, after: Key | None = None) -> list[Row]:
        return []

    async def orders(self, ids: set[str]) -> list[Row]:
        return [{**dict.fromkeys(COLUMNS), "id": id_} for id_ in ids]


class Ended:
    async def status(self, order_id: str) -> dict[str, Any]:
        return {"workflow": {"close_status": "TERMINATED" if order_id == "o9" else "RUNNING"}}


async def test_more_orders_starting_than_a_page_holds_leave_it_in_peace() -> None:
    """The newest of them are shown, the page is not read again for their sake; who was terminated goes."""
    feed, shown = feed_of(Nothing(), Ended())
    await feed.reload()
    drawing = asyncio.create_task(feed._draw())
    for n in range(10):
        feed.expect(f"o{n}")
        feed._starting[f"o{n}"]["created"] = n
    async with asyncio.timeout(20):
        while feed._heard or set(feed._lines) != {"o7", "o8", "o9"}:
            await asyncio.sleep(0.01)
    drawing.cancel()
    assert not feed._stale_page
    await feed.reload()
    assert [line["id"] for line in shown["page"]["rows"]] == ["o9", "o8", "o7"]
    await feed._forget_ended()
    assert shown["changes"]["gone"] == ["o9"]
    assert set(feed._starting) == {f"o{n}" for n in range(9)}
    await feed.look(View(("ORDER_RECEIVED", "AWAITING_APPROVAL"), size=3))
    assert len(shown["page"]["rows"]) == 3, "an order that starts is an open one"


async def test_a_programming_error_is_not_called_a_lost_connection(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in the background log; the board goes on."""
    room = ControlRoom(session)
    try:
        assert await asyncio.to_thread(eventually, lambda: room.link["live"])
        told: list[bool] = []
        room.observe(lambda change: told.append(change.new["live"]), "link")

        async def wrong() -> dict[str, int]:
            raise KeyError("a mistake of ours")

        monkeypatch.setattr(room._feed._reader, "counts", wrong)
        with structlog.testing.capture_logs() as logged:
            room._feed._stale_counts = True
            assert await asyncio.to_thread(eventually, lambda: logged)
        assert "a mistake of ours" in logged[0]["error"]
        monkeypatch.undo()
        order = session.start_order(policy="patient")
        seen = Seen(room)
        assert await asyncio.to_thread(eventually, lambda: seen.state(order) == "AWAITING_APPROVAL")
        assert False not in told
    finally:
        room.close()


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
        # Orders started together are received in any order, and that is the order of a page.
        received = session.do(session.desk.ledger.orders(None, len(ids), None))
        ids = [row["id"] for row in reversed(received)]
        for id_ in ids[:2]:
            session.cancel(id_)
            assert asyncio.run(session.wait(id_))["state"] == "CANCELLED"
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
        assert [line["id"] for line in room.page["rows"]][:2] == [ids[1], ids[0]], "newest first"
        assert eventually(lambda: room.counts["CANCELLED"] >= 2)
        seen = Seen(room)
        for id_ in ids[2:]:
            session.cancel(id_)
        # The filter is live: those cancelled just now come in by themselves, the page keeps its size.
        assert eventually(lambda: set(seen.lines) == set(ids[4:])), "the three newest of five"
        # Two clicks, faster than a page is read, turn two pages.
        say(room, "view", states=[], prefix=tag)
        assert eventually(lambda: room.page["prefix"] == tag)
        say(room, "turn", forward=True)
        say(room, "turn", forward=True)
        assert eventually(lambda: room.page["number"] == 3)
        assert [line["id"] for line in room.page["rows"]] == sorted(ids)[6:]
        asked(room, "turn", forward=True)
        assert room.page["number"] == 3, "there is no page after the last"
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
        # A click that comes even so is answered: its button would wait for ever.
        assert asked(room, "start", **FORM) == {"answer": "mine"}
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

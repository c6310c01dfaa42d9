"""The lab's engine: a busy cell delays no order, lost workers come back, mistakes are one sentence."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.integration.rooms import completes, eventually
from trellis import lab
from trellis.errors import BadInput, DatabaseUnavailable, OrderNotFound, TrellisError
from trellis.lab.keeper import KEPT, LogKeeper
from trellis.lab.session import Session

pytestmark = pytest.mark.slow


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
        assert failed.value._render_traceback_() == [f"DatabaseUnavailable: {failed.value}"]
    finally:
        session.desk.stack = before


def lose_workers(session: Session) -> None:
    """As if the server had been away too long; wait until others are there."""
    before = session.watch
    session.call_soon(before.worker_failed.set)
    assert eventually(lambda: session.watch is not before)


def test_workers_that_failed_are_replaced(session: Session) -> None:
    """A worker that was cut off from its server for too long ends; both are started anew, after a reload as well."""
    for _ in range(2):
        lose_workers(session)
        completes(session)
        session.reload()


def test_workers_that_cannot_be_hired_after_a_reload_are_tried_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the database is unavailable at that moment, the user gets a sentence. The lab gets its workers back by
    itself."""
    before, hire, failures = session.watch, session._run_workers, [RuntimeError("away")]

    async def failing() -> None:
        if failures:
            raise failures.pop()
        await hire()

    monkeypatch.setattr(session, "_run_workers", failing)
    with pytest.raises(TrellisError, match=r"could not be started again \(away\)"):
        session.reload()
    assert eventually(lambda: session.watch is not before)
    completes(session)


async def test_an_interrupted_wait_ends_at_once_and_leaves_nothing_behind(session: Session) -> None:
    """A cell's interrupt reaches every awaitable of the lab, and the engine cancels what was awaited."""
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
        asyncio.run(lab.send_after(session, "frobnicate", [1]))
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
    """A line that comes again moves to the front and keeps its number. Readers never see a half-written state."""
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

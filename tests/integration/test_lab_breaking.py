"""Experiments in a running lab: workers in processes of their own, something broken on purpose, and a verdict."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import lab_of_its_own
from tests.integration.rooms import asked, completes, eventually, say
from trellis import lab
from trellis.errors import BadInput, StackError
from trellis.faults import FaultPlan, Mix
from trellis.insight import attempts
from trellis.lab.breaking import IN_KERNEL
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A lab with two worker processes."""
    with lab_of_its_own(2) as session:
        yield session


def pids(session: Session) -> set[int]:
    assert session.crew is not None
    return {member.pid for member in session.crew.members if member.alive}


def slow_orders(session: Session, number: int) -> list[str]:
    """Approved orders whose calls take half a second each."""
    session.faults(FaultPlan(mix=Mix(latency=0.5)))
    orders = [session.start_order(policy="patient") for _ in range(number)]
    for order in orders:
        session.approve(order)
    assert eventually(lambda: all(len(session.events(order)) > 3 for order in orders))
    return orders


def test_a_worker_is_killed_by_button_and_the_card_says_what_became_of_the_orders(
    session: Session, room: ControlRoom
) -> None:
    """One process ends and another takes its place. All orders complete, and the page gets band, line and verdict."""
    before = pids(session)
    assert [button["why"] for button in room.breaking["buttons"]] == [None] * 6
    phases: list[str] = []
    room.observe(lambda change: phases.extend(one["phase"] for one in change.new["experiments"][:1]), "breaking")
    orders = slow_orders(session, 4)
    say(room, "break", name="worker-killed", n=1)
    assert eventually(lambda: "broken" in phases or "healing" in phases)
    # Nobody can break two things at a time, by the button or in a cell.
    asked(room, "break", name="provider-raises")
    assert "is not over yet" in room.verdicts[0]["text"]
    for order in orders:
        assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
    session.faults("calm")
    assert eventually(lambda: phases[-1:] == ["over"], 90)
    assert phases.index("recovering") < phases.index("auditing")
    (card,) = room.breaking["experiments"]
    assert (card["verdict"], card["violations"], card["trouble"]) == ("clean", [], "")
    assert card["began"] < card["healed"] <= time.time() * 1000
    figures = dict(card["numbers"])
    assert (figures["faults that landed"], figures["violations"]) == ("1", "0")
    assert int(figures["histories replayed"]) >= len(orders)
    assert len(pids(session)) == 2
    assert len(before - pids(session)) == 1
    assert [session.charges(order) for order in orders] == [1] * len(orders)
    assert session.experiments()["verdict"].tolist() == ["clean"]


async def test_money_taken_just_before_a_crash_is_taken_once_and_recorded(session: Session) -> None:
    """The worker dies after the provider took the money and before our ledger knows. Another one asks again by the
    same key."""
    order = await lab.charged_but_not_recorded(session)
    assert lab.both_books(session, order)[["book", "entry"]].to_numpy().tolist() == [["provider", "charge"]]
    worker = session.events(order)["worker"].dropna().iloc[-1]
    async with session.breaking("worker-killed", worker_of=order) as experiment:
        assert int(worker.removeprefix("worker-")) not in pids(session), "the one that holds the order, not any"
    assert (await session.wait(order))["state"] == "COMPLETED"
    books = lab.both_books(session, order)
    assert books.query("book == 'provider'")["entry"].tolist() == ["charge", "parcel"]
    assert "PAYMENT_CHARGED" in books["entry"].tolist()
    assert experiment.verdict == "clean", experiment
    charge = attempts(session.events(order)).query("step == 'charge'")
    assert charge["worker"].nunique() == 2
    assert charge["execution"].tolist() == [1, 2]


async def test_a_frozen_worker_that_wakes_after_the_refund_takes_no_money(session: Session) -> None:
    """Its order was cancelled and refunded by others meanwhile. The fence stops it when it goes on."""
    order = await lab.charged_but_not_recorded(session, pause=4)
    async with session.breaking("worker-frozen", worker_of=order) as experiment:
        began = time.monotonic()
        await asyncio.to_thread(session.cancel, order)
        assert (await session.wait(order))["state"] == "CANCELLED"
        # It must wake after its pause is over, so that it tries the charge again at once.
        await asyncio.sleep(max(0.0, 4 - (time.monotonic() - began)))
    provider = lab.both_books(session, order).query("book == 'provider'")
    assert sorted(provider["entry"]) == ["charge", "refund", "void"]
    amounts = provider.set_index("entry")["amount"]
    assert amounts["refund"] == amounts["charge"]
    assert amounts["void"] == "", "no money moves"
    assert experiment.verdict == "clean", experiment
    assert session.breaker.current is None


def test_a_mistake_in_the_code_is_found_by_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the attempt's number in its idempotency key, the same crash takes the money twice. The card says so."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="no mistake 'laziness'"):
        lab.start_with_mistake("laziness")
    mistaken = lab.start_with_mistake()
    home = mistaken.settings.home
    try:

        async def crash() -> Any:
            order = await lab.charged_but_not_recorded(mistaken)
            async with mistaken.breaking("worker-killed", worker_of=order) as experiment:
                pass
            return order, experiment

        order, experiment = asyncio.run(crash())
        assert mistaken.charges(order) == 2
        assert experiment.verdict == "violations"
        assert experiment.report.found[1] == 1, "at most one charge per order"
        assert any(order in line for line in experiment.violations)
        assert "violations" in experiment._repr_html_()
    finally:
        mistaken.stop()
    assert not home.exists()


async def test_what_cannot_be_broken_is_refused_in_a_sentence_and_nothing_is_broken(session: Session) -> None:
    """An unknown name, several names, a time without end, an order that nobody works on."""
    before = pids(session)
    for name, sentence in (("laziness", "no scenario 'laziness'"), ("all", "one thing is broken at a time")):
        with pytest.raises(BadInput, match=sentence):
            await session.break_it(name)
    for seconds in (-1, 601, float("nan")):
        with pytest.raises(BadInput, match="0 to 600 s"):
            await session.break_it("worker-killed", seconds)
    with pytest.raises(BadInput, match="from 0 to 16"):
        Session(session.settings, 17)
    assert pids(session) == before
    assert session.breaker.current is None


async def test_a_break_without_orders_proves_nothing(session: Session) -> None:
    """The provider is out while nobody calls it: no fault landed, so the verdict is void."""
    experiment = await session.break_it("provider-raises", 0)
    assert experiment.verdict == "void"
    assert "No fault landed" in experiment.sentence
    assert (await asyncio.to_thread(session.do, session.desk.faults())).plan.outages == ()


async def test_an_interrupted_cell_leaves_nothing_broken(session: Session) -> None:
    """The cell is gone at once. The worker that it froze wakes, and the lab can break the next thing."""
    waiting = asyncio.create_task(session.break_it("worker-frozen", 300))
    async with asyncio.timeout(30):
        while not any(member.frozen for member in session.crew.members):  # type: ignore[union-attr]
            await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(30):
        while session.breaker.current is not None:
            await asyncio.sleep(0.02)
    assert not any(member.frozen for member in session.crew.members)  # type: ignore[union-attr]
    assert len(session.experiments()) >= 1


def test_a_reload_replaces_the_processes_and_a_worker_that_ends_by_itself_is_replaced(session: Session) -> None:
    """Running orders go on with the new processes; a process that was lost comes back without anybody's help."""
    before = pids(session)
    order = session.start_order(policy="patient")
    assert session.reload().startswith("Reloaded")
    assert pids(session).isdisjoint(before)
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
    lost = pids(session).pop()
    os.kill(lost, signal.SIGTERM)
    assert eventually(lambda: lost not in pids(session) and len(pids(session)) == 2)


def test_workers_that_cannot_start_leave_the_old_ones_at_work(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit that stops a new process is one sentence. The lab goes on with the processes that it has."""
    before = pids(session)
    monkeypatch.setattr(session, "worker_environment", {"TRELLIS_POLICY": "laziness"})
    with pytest.raises(StackError, match="The old worker processes go on"):
        session.reload()
    assert pids(session) == before
    completes(session)


def test_the_workers_move_between_kernel_and_processes(session: Session, room: ControlRoom) -> None:
    """The panel says what the kernel's workers cannot do and how to change it. Its buttons follow the change."""

    def why() -> dict[str, str | None]:
        return {button["name"]: button["why"] for button in room.breaking["buttons"]}

    session.do(session.employ(0))
    assert session.crew is None
    assert eventually(lambda: why()["worker-killed"] == IN_KERNEL)
    needs = {name for name, reason in why().items() if reason == IN_KERNEL}
    assert needs == {"worker-killed", "worker-frozen", "postgres-wire-cut"}
    asked(room, "break", name="worker-killed")
    assert "lab.start(workers=2)" in room.verdicts[0]["text"]
    completes(session)
    session.do(session.employ(2))
    assert eventually(lambda: set(why().values()) == {None})
    completes(session)


def test_servers_of_somebody_else_are_never_broken(session: Session) -> None:
    """A lab whose settings name its servers has no button that works, and says why."""
    assert session.desk.stack is not None
    target = session.desk.stack.temporal
    named = {"temporal_address": target.address, "database_url": session.desk.stack.database_url}
    other = Session(session.settings.model_copy(update=named))
    try:
        room = other.control_room()
        assert all("only servers that Trellis started" in button["why"] for button in room.breaking["buttons"])
        with pytest.raises(StackError, match="only servers that Trellis started"):
            asyncio.run(other.break_it("temporal-killed", 0))
    finally:
        other.stop()
    completes(session)


KERNEL = """
import time
from trellis.config import load
from trellis.lab.session import Session
session = Session(load(), 1)
print(session.crew.members[0].pid, flush=True)
time.sleep(600)
"""


def test_a_kernel_that_is_killed_leaves_no_worker_behind(session: Session) -> None:
    """SIGKILL gives the kernel no time to end its workers. They notice that it is gone."""
    environment = os.environ | session.settings.environment()
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as kernel:
        assert kernel.stdout is not None
        worker = psutil.Process(int(kernel.stdout.readline()))
        kernel.kill()
    assert eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 60)

"""A session of the lab can start and stop any number of times, and a busy cell delays no order."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest

from tests.integration.rooms import eventually
from trellis import insight, lab
from trellis.crew import Crew
from trellis.errors import BadInput, TrellisError
from trellis.lab.session import Session

pytestmark = pytest.mark.slow


def test_a_busy_cell_holds_no_order_up(session: Session) -> None:
    """While this thread does nothing but sleep, as a busy cell would, an order completes."""
    order = session.start_order()
    session.approve(order)
    time.sleep(4)
    done = session.events(order).set_index("type")["ts"]["ORDER_COMPLETED"]
    received = session.events(order).set_index("type")["ts"]["ORDER_RECEIVED"]
    assert (done - received).total_seconds() < 4


def test_frames_have_their_documented_types(session: Session) -> None:
    """UTC times, categories and nullable integers; an unknown order gives an empty frame of the same shape."""
    session.faults("charge: error, hang, ok")
    order = session.start_order()
    session.approve(order)
    asyncio.run(session.wait(order))
    events = session.events(order)
    types = {name: str(kind) for name, kind in events.dtypes.items()}
    assert types["ts"] == types["started_at"] == "datetime64[us, UTC]"
    assert types["type"] == types["step"] == "category"
    assert types["attempt"] == "Int32"
    assert (session.events("nobody").dtypes.astype(str) == events.dtypes.astype(str)).all()
    attempts = insight.attempts(events)
    charge = attempts[attempts["step"] == "charge"]
    assert list(charge["outcome"]) == ["failed", "timed out", "succeeded"]
    assert list(charge["attempt"]) == [1, 2, 3]
    assert insight.gantt(attempts).to_dict()["layer"]
    with pytest.raises(BadInput, match="start an order"):
        insight.gantt(attempts.iloc[:0])
    session.faults("calm")


@pytest.mark.slow
async def test_a_new_plan_is_in_force_for_the_next_order_whoever_works_on_it(session: Session) -> None:
    """Two notebooks may be open on one workspace: the workers of the other one follow a plan before the next order."""
    async with Crew(session.settings, session.settings.home / "other.log", 1) as crew:
        [other] = crew.members

        async def works() -> bool:
            found = await asyncio.to_thread(session.do, session.desk.workers())
            return any(worker["identity"].startswith(f"{other.pid}@") for worker in found)

        async with asyncio.timeout(30):
            while not await works():
                await asyncio.sleep(0.1)
        for plan, attempts in (("receive: error, error, ok", 3), ("calm", 1)) * 4:
            await asyncio.to_thread(session.faults, plan)
            order = session.start_order()
            session.approve(order)
            await session.wait(order)
            assert list(session.events(order).query("step == 'receive'")["attempt"]) == list(range(1, attempts + 1))


@pytest.fixture
def at_home(session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`lab.start()` finds the servers of this module's session."""
    monkeypatch.setenv("TRELLIS_HOME", str(session.settings.home))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("at_home")
def test_starting_the_lab_twice_gives_the_same_session(session: Session) -> None:
    """Running the first cell again starts no second engine; after a stop it starts a new one on the same servers."""
    first = lab.start()
    engines = [t for t in threading.enumerate() if t.name == "trellis-engine"]
    assert lab.start() is first
    assert lab.start(workers=0) is first
    with pytest.raises(BadInput, match="from 0 to 16"):
        lab.start(workers=17)
    assert [t for t in threading.enumerate() if t.name == "trellis-engine"] == engines
    first.stop()
    again = lab.start()
    assert again is not first
    assert again.desk.stack == session.desk.stack
    again.stop()


@pytest.mark.usefixtures("at_home")
def test_a_stopped_lab_says_so_and_keeps_nobody_waiting(session: Session) -> None:
    """After a stop every call is refused with a sentence, a wait under way ends, and an open panel goes quiet."""
    own_session = lab.start()
    order = own_session.start_order()
    panel = lab.panel(own_session, order)
    assert eventually(lambda: panel.state == "AWAITING_APPROVAL")

    async def stop_while_waiting() -> None:
        waiting = asyncio.create_task(own_session.wait(order))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own_session.stop)
        with pytest.raises(TrellisError, match=r"Run lab\.start"):
            await waiting

    asyncio.run(stop_while_waiting())
    with pytest.raises(TrellisError, match=r"Run lab\.start"):
        own_session.status(order)
    assert eventually(lambda: "has stopped" in panel.detail.value)
    assert panel.approve.disabled
    assert panel.cancel.disabled
    own_session.stop()
    session.cancel(order)


def test_a_lab_that_cannot_start_says_why_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A notebook shows the sentence and no traceback, and no engine is left behind."""
    monkeypatch.setenv("TRELLIS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRELLIS_POLICEY", "swift")
    monkeypatch.chdir(tmp_path)
    engines = [t for t in threading.enumerate() if t.name == "trellis-engine"]
    with pytest.raises(TrellisError, match="TRELLIS_POLICEY") as failed:
        lab.start()
    shown = failed.value._render_traceback_()
    assert shown == [f"{type(failed.value).__name__}: {failed.value}"]
    assert [t for t in threading.enumerate() if t.name == "trellis-engine"] == engines

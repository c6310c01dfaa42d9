"""Somebody's app in the lab: flown, replaced by new code, closed; and spoken to by forms."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from tests.apps import trips, typed, words
from tests.apps.trips import Leg, Plan, Trip
from tests.integration.rooms import asked, eventually, say
from trellis.errors import BadInput, TrellisError
from trellis.flying import calls
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.flights.flight import Flight
from trellis.lab.flights.forms import form_of
from trellis.lab.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture
def flight(session: Session) -> Iterator[Flight]:
    flight = session.fly([Trip], [trips.book, trips.pay])
    yield flight
    asyncio.run(flight.close())


def attempts(session: Session, workflow_id: str) -> list[tuple[str, int, str]]:
    """What the book holds about a workflow."""

    async def read() -> list[tuple[str, int, str]]:
        async with session.pool.connection() as connection:
            rows = await connection.execute(
                "SELECT activity_type, attempt, outcome FROM flights.attempts WHERE workflow_id = %s "
                "ORDER BY scheduled_at, attempt",
                (workflow_id,),
            )
            return list(await rows.fetchall())

    return session.do(read())


def test_an_app_flies_with_every_attempt_in_the_book(session: Session, flight: Flight) -> None:
    """Async and threaded activities; the flight says which need threads, and what it runs."""
    id_ = flight.start(Trip, Plan("north", [Leg("Ulm"), Leg("Bonn")]))
    assert asyncio.run(flight.result(id_)) == ["booked Ulm", "booked Bonn", "paid 6"]
    done = [("book", 1, "succeeded"), ("book", 1, "succeeded"), ("pay", 1, "succeeded")]
    assert eventually(lambda: attempts(session, id_) == done)
    assert session.flights == (flight,)
    assert (flight.task_queue, flight.namespace) == ("trips", "default")
    assert any("pay" in note and "activity_executor" in note for note in flight.notes)
    assert "workflow Trip; activities book, pay" in flight._repr_html_()
    # A worker that ends by itself gets a successor.
    assert flight._worker._worker is not None
    session.do(flight._worker._worker.shutdown())
    assert asyncio.run(flight.result(flight.start(Trip, Plan("after")))) == ["paid 0"]
    waiting = flight.start("Trip", Plan("again"), True)
    with pytest.raises(TrellisError, match="Choose another id"):
        flight.start("Trip", Plan("again"), id=waiting)
    with pytest.raises(BadInput, match="no workflow 'Tour'"):
        flight.start("Tour")


@activity.defn(name="pay")
async def pay_in_gold(amount: int) -> str:
    return f"paid {amount} in gold"


def test_a_flight_is_replaced_and_its_running_workflows_go_on_with_the_new_code(
    session: Session, flight: Flight
) -> None:
    """What the SDK refuses leaves the old flight in place. Otherwise the old one is closed, and none is there twice."""
    id_ = flight.start(Trip.run, Plan("south", [Leg("Ulm")]), True)
    for wrong in ({"use_worker_versioning": True}, {"no_such_option": 1}, {"faults": "sing: error"}):
        with pytest.raises(TrellisError, match=r"\.$"):
            session.fly([Trip], [trips.book, pay_in_gold], **wrong)
        assert session.flights == (flight,)
    new = session.fly([Trip], [trips.book, pay_in_gold])
    assert flight.closed
    assert session.flights == (new,)
    session.do(calls.signal(calls.Target(new.client, id_), "go", []))
    assert asyncio.run(new.result(id_)) == ["booked Ulm", "paid 3 in gold"]
    asyncio.run(new.close())
    asyncio.run(new.close())
    assert not session.flights
    assert "closed" in repr(new)


def test_faults_are_injected_into_a_flight_and_noted(session: Session) -> None:
    """A plan's steps are activity types; retries pass, and each attempt is in the book with its outcome."""
    flight = session.fly([Trip], [trips.book, trips.pay], faults="book: error, error, ok", task_queue="stormy")
    id_ = flight.start(Trip, Plan("west", [Leg("Ulm")]))
    assert asyncio.run(flight.result(id_)) == ["booked Ulm", "paid 3"]
    noted = [("book", 1, "failed"), ("book", 2, "failed"), ("book", 3, "succeeded"), ("pay", 1, "succeeded")]
    assert eventually(lambda: attempts(session, id_) == noted)
    asyncio.run(flight.close())


def test_a_namespace_that_the_own_server_lacks_is_made(session: Session) -> None:
    """Workflows run in it; what is no name is refused in a sentence."""
    flight = session.fly([Trip], [trips.book, trips.pay], namespace="elsewhere")
    assert flight.namespace == "elsewhere"
    id_ = flight.start(Trip, Plan("east"))
    assert asyncio.run(flight.result(id_)) == ["paid 0"]
    asyncio.run(flight.close())
    with pytest.raises(BadInput, match="no name for a namespace"):
        session.fly([Trip], namespace="no name")


def test_an_edited_file_is_read_again(session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cells run again after an edit: workflow and activity are both the new ones, or both the old ones."""
    name = f"edited_{uuid.uuid4().hex[:8]}"
    text = (
        "from datetime import timedelta\nfrom temporalio import activity, workflow\n\n"
        "@activity.defn\nasync def say() -> str:\n    return 'ONE'\n\n"
        "@workflow.defn\nclass Say:\n    @workflow.run\n    async def run(self) -> str:\n        return 'ONE ' + "
        "await workflow.execute_activity(say, start_to_close_timeout=timedelta(seconds=5))\n"
    )
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(name)
    try:
        flight = session.fly([module.Say], [module.say])
        assert asyncio.run(flight.result(flight.start("Say"))) == "ONE ONE"
        given = [module.Say], [module.say]
        file.write_text(text.replace("ONE", "TWO"))
        flight = session.fly(*given)
        assert any(f"{name}.py was edited" in note for note in flight.notes)
        assert asyncio.run(flight.result(flight.start("Say"))) == "TWO TWO"
        file.write_text(text.replace("class Say:", "class Say"))
        with pytest.raises(BadInput, match=rf"{name}\.py, line 9: .* The old code goes on\."):
            session.fly(*given)
        file.write_text(text.replace("@activity.defn", ""))
        with pytest.raises(BadInput, match=r"cannot be read again"):
            session.fly(*given)
        assert session.flights == (flight,)
    finally:
        asyncio.run(flight.close())
        del sys.modules[name]


CELL = """
import asyncio
from temporalio import workflow
from trellis import lab

@workflow.defn
class Greet:
    @workflow.run
    async def run(self, name: str) -> str:
        return f"hello {name}"

session = lab.start()
flight = session.fly([Greet])
print(*flight.notes)
print(asyncio.run(flight.result(flight.start(Greet.run, "you"))), flight.task_queue)
session.stop()
"""


def test_a_workflow_from_a_cell_flies(session: Session) -> None:
    """It runs without the sandbox, which cannot import a cell, and the flight says so. Here `-c` is the cell."""
    done = subprocess.run(
        [sys.executable, "-c", CELL], capture_output=True, text=True, timeout=100,
        env=os.environ | session.settings.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    note, result = done.stdout.splitlines()
    assert "Greet is defined in a cell and runs without the SDK's sandbox" in note
    assert result == "hello you Greet"


# --- by forms -------------------------------------------------------------------------------------------------


@pytest.fixture
def room(session: Session) -> Iterator[ControlRoom]:
    """The board of all workflows of the namespace."""
    room = session.board("")
    assert eventually(lambda: room.link["live"]), room.link
    yield room
    room.close()
    assert eventually(lambda: room.closed)


def ask(room: ControlRoom, kind: str, **message: Any) -> dict[str, Any]:
    """The answer of the panel, without the message's number."""
    answer = asked(room, f"talk {kind}", **message)
    return {name: value for name, value in answer.items() if name != "answer"}


def focus(room: ControlRoom, workflow_id: str) -> dict[str, Any]:
    """Choose a workflow on the board, and get its forms."""

    def line() -> Any:
        return next((line for line in room.feed._page()["rows"] if line["name"] == workflow_id), None)

    assert eventually(line)
    asked(room, "focus", id=line()["id"])
    return ask(room, "forms")


def test_a_form_starts_steers_and_asks_a_workflow(
    flight: Flight, room: ControlRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start, signal, update, query, each by its form; a mistake is told by its path and sends nothing."""
    monkeypatch.setattr(calls, "SOON", 60.0)
    [trip] = [one for one in ask(room, "types")["types"] if one["queue"] == "trips"]
    assert (trip["type"], trip["queue"], trip["run"]["doc"]) == ("Trip", "trips", "A trip from here to there.")
    raw = {"plan": {"name": "form", "legs": [{"to": "Ulm", "km": "far", "at": None}]}, "wait": True}
    wrong = ask(room, "start", type="Trip", queue="trips", raw=raw)
    assert wrong == {"errors": {"plan.legs.0.km": "This must be a whole number."}, "done": "", "started": None}
    raw["plan"]["legs"][0]["km"] = "12"  # type: ignore[index]
    started = ask(room, "start", type="Trip", queue="trips", raw=raw)
    id_, run_id = started["started"].split()
    assert id_.startswith("trip-")
    assert focus(room, id_)["run_id"] == run_id
    forms = ask(room, "forms")
    assert [one["name"] for one in forms["signal"]] == ["go", "say"]
    assert [one["doc"] for one in forms["update"]] == ["One leg more."]
    assert [one["name"] for one in forms["query"]] == ["plan", None]
    to = {"workflow_id": id_, "run_id": run_id, "type": "Trip"}

    far = {"leg": {"to": "Mars", "km": "2000", "at": None}}
    refused = ask(room, "update", name="add", raw=far, **to)
    assert refused["errors"] == {"@form": "add was refused: ValueError: Mars is too far."}
    near = {"leg": {"to": "Bonn", "km": "5", "at": None}}
    assert ask(room, "update", name="add", raw=near, **to)["shown"] == "2"
    said = ask(room, "query", name="plan", raw={"with_km": False}, **to)
    assert said["shown"] == '[\n  "Ulm",\n  "Bonn"\n]'
    assert ask(room, "query", name="weather", raw={"arguments": ["1", "2"]}, **to)["shown"] == '"weather of 2"'
    assert ask(room, "signal", name="say", raw={"word": "hi", "times": "x"}, **to)["errors"].keys() == {"times"}
    assert ask(room, "signal", name="say", raw={"word": "hi", "times": "2"}, **to)["errors"] == {}
    assert ask(room, "signal", name="nothing", raw={}, **to)["errors"] == {"@name": "Trip has no signal nothing."}
    assert ask(room, "signal", name="go", raw={}, **to)["done"] == "go is in the workflow's history."
    assert asyncio.run(flight.result(id_)) == ["booked Ulm", "booked Bonn", "paid 17", "hi", "hi"]
    ended = ask(room, "signal", name="go", raw={}, **to)
    assert "already completed" in ended["errors"]["@form"]
    assert room.verdicts[0]["ok"] is False


def test_a_second_click_starts_nothing_twice(session: Session, flight: Flight, room: ControlRoom) -> None:
    """Two clicks, the second before the first was answered: one workflow."""
    answers: list[dict[str, Any]] = []
    room.send = lambda content, buffers=None: answers.append(content)
    raw = {"plan": {"name": "twice", "legs": []}, "wait": False}

    async def both() -> None:
        # On the engine's thread, so that the first is not answered before the second is there.
        for _ in range(2):
            say(room, "talk start", type="Trip", queue="trips", raw=raw)

    session.do(both())
    assert eventually(lambda: len(answers) == 2)
    assert sorted(bool(one.get("started")) for one in answers) == [False, True]
    assert "This is under way already." in {one["done"] for one in answers}


def test_an_update_without_a_worker_is_pending_in_words(
    session: Session, flight: Flight, room: ControlRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded, and the verdict comes when a worker is there again. A query says that nobody answers."""
    id_ = flight.start(Trip, Plan("lonely", [Leg("Ulm")]), True)
    target = calls.Target(flight.client, id_)
    assert eventually(lambda: session.do(calls.query(target, "plan", [])) == ["Ulm 3 km"])
    asyncio.run(flight.close())
    monkeypatch.setattr(calls, "SOON", 1.0)
    to = {"workflow_id": id_, "run_id": None, "type": "Trip"}
    answer = ask(room, "update", name="add", raw={"arguments": ['{"to": "Bonn"}']}, **to)
    assert "pending" in answer["done"]
    asked = ask(room, "query", name="plan", raw={"arguments": []}, **to)
    assert "no worker answered in time" in asked["errors"]["@form"]
    assert "not flown here" in focus(room, id_)["note"]
    again = session.fly([Trip], [trips.book, trips.pay])
    try:
        assert eventually(lambda: any(one["ok"] and one["text"].startswith("accepted") for one in room.verdicts))
        session.do(calls.signal(target, "go", []))
        assert asyncio.run(again.result(id_)) == ["booked Ulm", "booked Bonn", "paid 6"]
    finally:
        asyncio.run(again.close())


def test_a_workflow_of_an_unknown_type_tells_its_handlers(session: Session, room: ControlRoom) -> None:
    """Its worker is no flight of this lab: the names come from the workflow, and the arguments are JSON."""

    async def beside() -> Worker:
        worker = Worker(
            session.desk.client, task_queue="beside", workflows=[Trip], activities=[trips.book, trips.pay],
            activity_executor=ThreadPoolExecutor(100),
        )  # fmt: skip
        await worker.__aenter__()
        return worker

    worker = session.do(beside())
    try:
        wrong = ask(room, "start", type="Trip", raw={"arguments": []})
        assert wrong["errors"] == {"@queue": "Name the task queue on which a worker of this type works."}
        plan = '{"name": "foreign", "legs": []}'
        id_ = ask(room, "start", type="Trip", queue="beside", raw={"arguments": [plan, "true"]})["started"].split()[0]
        # A machine that does much else may need longer than a person is left waiting.
        assert eventually(lambda: focus(room, id_)["note"] == "This type is not flown here: its arguments are JSON.")
        forms = ask(room, "forms")
        assert [one["name"] for one in forms["signal"]] == ["go", "say"]
        assert [one["name"] for one in forms["query"] if one["name"]] == ["plan"]
        to = {"workflow_id": id_, "run_id": None, "type": "Trip"}
        assert ask(room, "signal", name="go", raw={"arguments": []}, **to)["errors"] == {}
        assert session.do(calls.result(calls.Target(session.desk.client, id_))) == ["paid 0"]
    finally:
        session.do(worker.__aexit__(None, None, None))


def test_what_a_form_sends_is_what_the_users_own_client_sends(session: Session, room: ControlRoom) -> None:
    """The workflow tells type and value of what it got: the same for the form and for a client of the user's."""
    when = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
    plain = session.fly([typed.TellPlain], task_queue="plain")
    model = session.fly([typed.TellModel], task_queue="model", data_converter=pydantic_data_converter)
    guest = words.Guest.model_validate({"fullName": "Ada", "until": when})
    cases: list[tuple[Flight, type, list[Any]]] = [
        (
            plain,
            typed.TellPlain,
            [words.Visit("Ulm", when), words.Level.HIGH, uuid.UUID(int=7), {"a": 1}, b"\x00x", None],
        ),
        (model, typed.TellModel, [guest, [words.Colour.RED], {Decimal("1.20")}]),
    ]
    for flown, cls, args in cases:
        by_client = asyncio.run(flown.result(flown.start(cls, *args)))
        raw = form_of(cls.run).show(*args)  # type: ignore[attr-defined]
        id_ = ask(room, "start", type=cls.__name__, queue=flown.task_queue, raw=raw)["started"].split()[0]
        assert asyncio.run(flown.result(id_)) == by_client
        assert [one.split()[0] for one in by_client] == [type(one).__name__ for one in args]
    # Without its converter the user's own client could not send a Decimal either.
    with pytest.raises(BadInput, match="data converter cannot encode"):
        session.do(calls.encodable(plain.client, [Decimal("1.20")]))
    for flown in (plain, model):
        asyncio.run(flown.close())

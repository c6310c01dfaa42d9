"""The board of flights: anybody's workflows, by visibility, Describe and the book of attempts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import lab_of_its_own
from tests.integration.parcels import Letter, Parcel, parcels
from tests.integration.rooms import Seen, asked, eventually, say
from trellis.db.flights import FlightBook
from trellis.errors import BadInput
from trellis.faults import AnyName, FaultPlan
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.flights.board import flight_board
from trellis.lab.flights.fault_panel import no_faults_in
from trellis.lab.session import Session
from trellis.stack import breaking

pytestmark = pytest.mark.slow

NOTED, PLAIN = "noted-parcels", "plain-parcels"


@pytest.fixture(scope="module")
def app() -> Iterator[Session]:
    """A lab, and beside its own workers two of somebody's app: one with the plugin and one without."""
    with lab_of_its_own() as session:
        client, url = session.desk.client, session.runtime.stack.database_url
        workers = [parcels(client, NOTED, url), parcels(client, PLAIN, None)]
        for worker in workers:
            session.do(worker.__aenter__())
        # Temporal must have waited for a while before a worker is missed.
        start(session, Parcel.run, 0, queue="nobody-polls-it")
        try:
            yield session
        finally:
            for worker in workers:
                session.do(worker.__aexit__(None, None, None))


@contextmanager
def board(session: Session, query: str | None, size: int = 25) -> Iterator[tuple[ControlRoom, Seen]]:
    room = ControlRoom(session, board=flight_board(session, query, None), size=size)
    seen = Seen(room)
    try:
        assert eventually(lambda: room.link["live"]), room.link
        yield room, seen
    finally:
        room.close()
        assert eventually(lambda: room.closed)


def start(session: Session, workflow: Callable[..., Any], *args: Any, queue: str = NOTED, prefix: str = "p") -> str:
    id_ = f"{prefix}-{uuid.uuid4().hex[:8]}"
    session.do(session.desk.client.start_workflow(workflow, args=args, id=id_, task_queue=queue))
    return id_


def tell(session: Session, workflow_id: str) -> None:
    session.do(session.desk.client.get_workflow_handle(workflow_id).signal("go"))


def line(seen: Seen, workflow_id: str) -> dict[str, Any]:
    return next((one for one in seen.lines.values() if one["name"] == workflow_id), {})


def weighed(seen: Seen, workflow_id: str) -> dict[str, Any]:
    """Its line, once its first attempt has ended."""

    def ended() -> bool:
        shown = line(seen, workflow_id)
        return bool(shown.get("error") or (shown.get("event") and not shown["step"]))

    assert eventually(ended)
    return line(seen, workflow_id)


def test_a_workflow_of_somebody_appears_and_its_attempts_are_drawn_as_they_happen(app: Session) -> None:
    """Its failed attempts come from the book; its end comes from visibility."""
    with board(app, "WorkflowType = 'Parcel'") as (room, seen):
        one = start(app, Parcel.run, 2)
        assert eventually(lambda: line(seen, one).get("error") == "Wet: the scales are wet"), seen.lines
        id_ = line(seen, one)["id"]
        say(room, "focus", id=id_, n=1)
        assert eventually(
            lambda: [bar["outcome"] for bar in room.timeline.get("bars", ())] == ["failed", "failed", "succeeded"]
        )
        assert [bar["attempt"] for bar in room.timeline.get("bars", ())] == [1, 2, 3]
        assert room.feed.focused == (one, id_.split(" ")[1], "Parcel")
        assert eventually(lambda: room.note == {"text": ""})
        tell(app, one)
        assert eventually(lambda: line(seen, one).get("state") == "COMPLETED")
        assert line(seen, one)["error"] is None
        assert eventually(lambda: [bar["step"] for bar in room.timeline.get("bars", ())] == ["weigh"] * 3 + ["load"])
        assert eventually(lambda: room.counts.get("COMPLETED", 0) >= 1)


def test_without_the_plugin_describe_and_the_history_tell_what_they_know(app: Session) -> None:
    """The pending activity with its attempt and its last failure; the timeline says what it cannot show."""
    one = start(app, Parcel.run, 1000, queue=PLAIN)
    with board(app, f"WorkflowId = '{one}' OR TaskQueue = 'nobody-polls-it'") as (room, seen):
        assert eventually(lambda: any(each["note"] == "waits for a worker" for each in seen.lines.values()))
        assert eventually(lambda: (line(seen, one).get("attempt") or 0) >= 2)
        shown = line(seen, one)
        assert (shown["step"], shown["error"], shown["state"]) == ("weigh", "Wet: the scales are wet", "RUNNING")
        assert eventually(lambda: "TrellisPlugin" in room.note["text"])
        say(room, "focus", id=shown["id"], n=1)
        assert eventually(lambda: "does not hold every attempt" in room.timeline.get("note", ""))
        assert eventually(lambda: any(bar["outcome"] == "failed" for bar in room.timeline.get("bars", ())))

        assert asked(room, "ask", name="cancel", ids=[shown["id"]])["error"] is None
        assert (room.verdicts[0]["ok"], room.verdicts[0]["text"]) == (True, f"accepted ({one})")
        assert eventually(lambda: line(seen, one).get("state") == "CANCELED")
        assert not line(seen, one)["can_cancel"]
        asked(room, "ask", name="terminate", ids=[shown["id"]], text="too late")
        assert (room.verdicts[0]["ok"], "has ended" in room.verdicts[0]["text"]) == (False, True)


def test_filters_and_pages(app: Session) -> None:
    """By status, type and the beginning of the id; no page is empty, and the reason of an end is told."""
    prefix = f"page-{uuid.uuid4().hex[:6]}"
    parcels = [start(app, Parcel.run, 0, prefix=prefix) for _ in range(5)]
    letter = start(app, Letter.run, prefix=prefix)
    with board(app, f"WorkflowId STARTS_WITH '{prefix}'", size=2) as (room, seen):
        assert eventually(lambda: room.counts.get("RUNNING") == 5 and room.counts.get("FAILED") == 1)
        assert asked(room, "view", states=["FAILED"], prefix="", type="")["answer"]
        assert eventually(lambda: line(seen, letter).get("error") == "NoStamp: no stamp"), seen.lines
        assert list(seen.lines) == [line(seen, letter)["id"]]
        assert room.page["types"] == ["Letter", "Parcel"]

        asked(room, "view", states=[], prefix=parcels[0], type="Parcel")
        assert [one["name"] for one in seen.lines.values()] == [parcels[0]]
        asked(room, "view", states=[], prefix=parcels[0], type="Letter")
        assert seen.lines == {}

        asked(room, "view", states=[], prefix="it's \\ 100 % \" _", type="o'brien")
        assert (seen.lines, room.link["live"]) == ({}, True)

        asked(room, "view", states=["RUNNING"], prefix="", type="Parcel")
        found = [{one["name"] for one in seen.lines.values()}]
        for _ in range(2):
            assert eventually(lambda: room.page["more"])
            asked(room, "turn", forward=True)
            found.append({one["name"] for one in seen.lines.values()})
        assert [len(page) for page in found] == [2, 2, 1]
        assert set.union(*found) == set(parcels)
        assert not room.page["more"]
        asked(room, "turn", forward=True)
        assert room.page["number"] == 3
        asked(room, "turn", forward=False)
        assert {one["name"] for one in seen.lines.values()} == found[1]

        asked(room, "view", states=["RUNNING"], prefix=parcels[0], type="")
        (id_,) = seen.lines
        asked(room, "ask", name="terminate", ids=[id_], text="not wanted")
        asked(room, "view", states=["TERMINATED"], prefix=parcels[0], type="")
        assert eventually(lambda: seen.lines.get(id_, {}).get("error") == "terminated: not wanted")


def test_a_slider_makes_calls_of_the_app_fail_and_follows_who_else_changes_the_plan(app: Session) -> None:
    """The plan in force is one for all boards and workers of the app."""
    book, namespace = FlightBook(app.pool), app.desk.client.namespace
    with board(app, "WorkflowType = 'Parcel'") as (room, seen):
        start(app, Parcel.run, 0)

        def of_app() -> dict[str, Any]:
            return next((each for each in room.faults.get("apps", ()) if each["queue"] == NOTED), {})

        assert eventually(lambda: {"weigh"} <= set(of_app().get("names", ())))
        asked(room, "fault", app=NOTED, step="weigh", name="error", value=1.0)
        stored = app.do(book.plan(namespace, NOTED))
        assert stored is not None
        assert stored.plan.mix_of("weigh").error == 1.0
        assert of_app()["version"] == stored.version

        # The worker asks for the plan twice a second, so the first workflows may not meet it.
        for _ in range(30):
            if weighed(seen, one := start(app, Parcel.run, 0))["error"]:
                break
        say(room, "focus", id=line(seen, one)["id"], n=1)
        assert eventually(
            lambda: any("injected: error" in (bar["error"] or "") for bar in room.timeline.get("bars", ()))
        )

        app.do(book.set_plan(namespace, NOTED, FaultPlan(names=AnyName()).with_step("load", hang=0.25)))
        assert eventually(lambda: of_app()["steps"].get("load", {}).get("hang") == 0.25)
        asked(room, "preset faults", app=NOTED, name="calm")
        assert eventually(lambda: of_app()["steps"] == {})
        tell(app, one)
        assert eventually(lambda: line(seen, one).get("state") == "COMPLETED")


def test_what_cannot_be_shown_is_said_in_a_sentence(app: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that Temporal refuses, a namespace that does not exist, code that is not here, a server elsewhere."""
    with pytest.raises(BadInput, match="Temporal refuses the query 'Colour = 1'"):
        app.board("Colour = 1")
    with pytest.raises(BadInput, match="namespace nowhere does not exist"):
        app.board("", namespace="nowhere")
    with board(app, "") as (room, seen):
        one = start(app, Parcel.run, 0)
        assert eventually(lambda: line(seen, one))
        asked(room, "open machine", id=line(seen, one)["id"])
        assert "session.fly(workflows=[its class])" in room.verdicts[0]["text"]
        assert room.machine == {}

        order = app.start_order(policy="patient")
        assert eventually(lambda: line(seen, f"order-{order}"))
        asked(room, "open machine", id=line(seen, f"order-{order}")["id"])
        assert eventually(lambda: room.machine.get("recording")), "Trellis's own workflows are workflows, too"
        asked(room, "close machine")
        app.cancel(order)

        monkeypatch.setattr(app.desk.client.service_client.config, "target_host", "cluster.example:7233")
        assert "cluster.example:7233 is not on this machine" in (no_faults_in(app.desk.client) or "")
        asked(room, "fault", app=NOTED, step=None, name="error", value=0.5)
        assert "not on this machine" in room.verdicts[0]["text"]
        monkeypatch.undo()
        asked(room, "fault", app=None, step=None, name="error", value=0.5)
        assert "Choose the task queue" in room.verdicts[0]["text"]


def test_two_boards_and_the_control_room_are_open_at_once(app: Session) -> None:
    """Each shows its own lines. The same call gives the same board, until it is closed."""
    orders, parcels_, letters = (
        app.control_room(),
        app.board("WorkflowType = 'Parcel'"),
        app.board("WorkflowType = 'Letter'"),
    )
    rooms = {orders: Seen(orders), parcels_: Seen(parcels_), letters: Seen(letters)}
    assert app.board("WorkflowType = 'Letter'") is letters
    parcel, letter, order = start(app, Parcel.run, 0), start(app, Letter.run), app.start_order(policy="patient")
    assert eventually(lambda: line(rooms[parcels_], parcel))
    assert eventually(lambda: line(rooms[letters], letter))
    assert eventually(lambda: order in rooms[orders].lines)
    assert not line(rooms[letters], parcel)
    assert not line(rooms[parcels_], letter)
    letters.close()
    assert eventually(lambda: letters.closed)
    assert app.board("WorkflowType = 'Letter'") is not letters
    assert not parcels_.closed
    app.cancel(order)


def test_a_board_goes_on_while_a_server_is_away(app: Session) -> None:
    """Without the book it shows what Temporal tells. Without Temporal it says so, and comes back by itself."""
    with board(app, "WorkflowType = 'Parcel'") as (room, seen):
        app.do(breaking.kill(app.settings, "postgres"))
        assert eventually(lambda: "book of attempts is away" in room.note["text"], 40)
        one = start(app, Parcel.run, 0)
        assert eventually(lambda: line(seen, one)), "visibility goes on"
        assert room.link["live"]
        app.do(breaking.start_again(app.settings, "postgres"))
        assert eventually(lambda: room.note["text"] == "", 60)

        app.do(breaking.kill(app.settings, "temporal"))
        assert eventually(lambda: not room.link["live"], 40)
        assert "Temporal does not answer" in room.link["text"]
        app.do(breaking.start_again(app.settings, "temporal"))
        assert eventually(lambda: room.link["live"], 60)
        two = start(app, Parcel.run, 0)
        assert eventually(lambda: line(seen, two), 40)

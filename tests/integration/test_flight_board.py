"""The board of flights: anybody's workflows, by visibility, Describe and the book of attempts."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.conftest import lab_of_its_own
from tests.integration.parcels import Parcel, parcels
from tests.integration.rooms import Seen, eventually, say
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.flights.board import flight_board
from trellis.lab.session import Session

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


def test_a_workflow_of_somebody_appears_and_its_attempts_are_drawn_as_they_happen(app: Session) -> None:
    """Its failed attempts come from the book; its end comes from visibility."""
    with board(app, "WorkflowType = 'Parcel'") as (room, seen):
        one = start(app, Parcel.run, 2)
        assert eventually(lambda: line(seen, one).get("error") == "the scales are wet"), seen.lines
        id_ = line(seen, one)["id"]
        say(room, "focus", id=id_, n=1)
        assert eventually(
            lambda: [bar["outcome"] for bar in room.timeline.get("bars", ())] == ["failed", "failed", "succeeded"]
        )
        assert [bar["attempt"] for bar in room.timeline["bars"]] == [1, 2, 3]
        assert room.feed.focused == (one, id_.split(" ")[1], "Parcel")
        assert eventually(lambda: room.note == {"text": ""})
        tell(app, one)
        assert eventually(lambda: line(seen, one).get("state") == "COMPLETED")
        assert line(seen, one)["error"] is None
        assert eventually(lambda: [bar["step"] for bar in room.timeline["bars"]] == ["weigh"] * 3 + ["load"])
        assert eventually(lambda: room.counts.get("COMPLETED", 0) >= 1)

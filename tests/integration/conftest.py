"""A module's API process, the control room of its lab, and a place for other people's workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.flying import Airfield
from tests.integration.http_api import Api, serving
from tests.integration.rooms import eventually
from trellis import runtime, stack
from trellis.config import Settings
from trellis.db.flights import FlightBook
from trellis.db.pool import Pool
from trellis.desk import Desk
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session


@pytest.fixture
def room(session: Session) -> Iterator[ControlRoom]:
    room = session.control_room()
    assert eventually(lambda: room.link["live"])
    yield room
    room.close()
    assert eventually(lambda: room.closed)


@pytest.fixture(scope="module")
async def api(settings: Settings, running: stack.Stack, idle_desk: Desk) -> AsyncIterator[Api]:
    async with serving(settings) as api:
        yield api


@pytest.fixture
async def airfield(opened: runtime.Runtime, pool: Pool, tmp_path: Path) -> Airfield:
    """The module's servers and book, a folder for the plugin's files, and a task queue of the test's own."""
    return Airfield(
        opened.desk.client, FlightBook(pool), opened.stack.database_url,
        Settings.model_validate({"TRELLIS_HOME": tmp_path}),
    )  # fmt: skip

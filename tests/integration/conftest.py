"""A module's API process, and the control room of its lab."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.http_api import Api, serving
from tests.integration.rooms import eventually
from trellis import stack
from trellis.config import Settings
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

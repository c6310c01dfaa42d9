"""The control room of a module's lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.rooms import eventually
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session


@pytest.fixture
def room(session: Session) -> Iterator[ControlRoom]:
    room = session.control_room()
    assert eventually(lambda: room.link["live"])
    yield room
    room.close()
    assert eventually(lambda: room.closed)

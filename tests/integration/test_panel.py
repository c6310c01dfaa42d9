"""The panel of one order in a notebook: its buttons reach the ledger, and what it shows follows the order."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.integration.rooms import eventually
from trellis import lab
from trellis.errors import RequestRefused
from trellis.lab.session import Session


def test_the_panel_approves_and_shows_the_end(session: Session) -> None:
    """The button really approves; the panel follows to COMPLETED and disables what can no longer be asked."""
    order = session.start_order()
    panel = lab.panel(session, order)
    assert eventually(lambda: panel.state == "AWAITING_APPROVAL" and "left to approve" in panel.detail.value)
    panel.approve.click()
    panel.approve.click()
    assert eventually(lambda: panel.state == "COMPLETED")
    assert eventually(lambda: panel.approve.disabled and panel.cancel.disabled and panel.change.disabled)
    types = list(session.events(order)["type"])
    assert types.count("ORDER_APPROVED") == 1
    assert "accepted" in panel.answer.value
    assert "already" not in panel.answer.value, "the second click was no second request"
    assert "completed" in panel.path.value


@pytest.mark.slow
def test_a_run_of_all_cells_leaves_the_person_time_to_press(session: Session) -> None:
    """If nobody presses Approve, it is pressed when the time is over. If somebody does, the waiting ends."""
    order = session.start_order()
    panel = lab.panel(session, order)
    assert eventually(lambda: panel.state == "AWAITING_APPROVAL")
    began = time.monotonic()
    asyncio.run(panel.approved(within=1.5))
    assert time.monotonic() - began >= 1.5
    assert eventually(lambda: panel.state == "COMPLETED")

    order = session.start_order(policy="patient")
    panel = lab.panel(session, order)
    assert eventually(lambda: panel.state == "AWAITING_APPROVAL")
    panel.cancel.click()
    asyncio.run(asyncio.wait_for(panel.approved(within=100), 60))
    assert asyncio.run(session.wait(order))["state"] == "CANCELLED"
    assert "REQUEST_REFUSED" not in set(session.events(order)["type"])


def test_the_panel_cancels_and_changes_the_address(session: Session) -> None:
    """Change address and Cancel reach the ledger; a malformed address is a sentence beside the buttons."""
    order = session.start_order()
    panel = lab.panel(session, order)
    assert eventually(lambda: panel.state == "AWAITING_APPROVAL")
    panel.change.click()
    assert eventually(lambda: "must have a line1" in panel.answer.value)
    panel.address.value = "2 New Road"
    panel.change.click()
    assert eventually(lambda: "accepted" in panel.answer.value)
    assert session.status(order)["address"]["line1"] == "2 New Road"
    panel.cancel.click()
    assert eventually(lambda: panel.state == "CANCELLED")
    with pytest.raises(RequestRefused, match="CANCELLED"):
        session.approve(order)


def test_a_refusal_shows_as_text(session: Session) -> None:
    """What an error quotes is shown beside the buttons and never becomes part of the page."""
    order = session.start_order()
    panel = lab.panel(session, order)
    assert eventually(lambda: panel.state == "AWAITING_APPROVAL")
    panel.address.value = "<img src=x onerror=alert(1)>" * 40
    panel.change.click()
    assert eventually(lambda: 'role="alert"' in panel.answer.value)
    assert "<img" not in panel.answer.value
    assert not panel.cancel.disabled, "a refusal leaves the buttons ready"
    session.cancel(order)

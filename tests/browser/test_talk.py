"""A person's talk with somebody else's workflows: forms made from type hints, in a real browser."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, expect

from tests.browser.rooms import ARTEFACTS, Lab, lab

__all__ = ["lab"]  # the fixture of this module

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

CELLS = (
    "import sys\nsys.path.insert(0, ROOT)\nfrom tests.apps import trips\nfrom trellis import lab\n"
    # A busy machine may need longer than a person waits.
    "from trellis.flying import calls\ncalls.SOON = 60.0",
    "session = lab.start()\nflight = session.fly([trips.Trip], [trips.book, trips.pay])\nflight",
    "board = session.board()\nboard",
    'print("all cells", "have run")',
)


async def test_a_person_starts_steers_and_asks_a_workflow_by_forms(lab: Lab) -> None:
    """By keyboard and mouse: a mistake is told beside its field, an update is refused in words, a query answers."""
    cells = (CELLS[0].replace("ROOT", repr(str(ARTEFACTS.parent))), *CELLS[1:])
    async with lab.room(*cells) as (page, room):
        form = room.get_by_role("form", name="Start a workflow")
        await expect(form).to_be_visible()
        await expect(form).to_contain_text("A trip from here to there.")
        await form.get_by_label("name").fill("by hand")
        await form.get_by_role("button", name="+ add an entry").click()
        # The first field of the new entry has the focus. Tab leads on, and selects what is there.
        await page.keyboard.type("Ulm")
        await page.keyboard.press("Tab")
        await page.keyboard.type("far")
        km = form.get_by_label("km")
        await expect(km).to_have_value("far")
        await form.get_by_label("wait").check()
        await form.get_by_role("button", name="Start", exact=True).click()
        await expect(form).to_contain_text("This must be a whole number.")
        await expect(km).to_have_attribute("aria-invalid", "true")
        await expect(km).to_be_focused()
        wrong = await km.get_attribute("aria-describedby")
        assert wrong is not None
        await expect(room.locator(f"#{wrong.split()[-1]}")).to_have_text("This must be a whole number.")
        await km.fill("12")
        await page.keyboard.press("Enter")
        await expect(form.get_by_role("status")).to_contain_text("Started trip-")
        await page.screenshot(path=ARTEFACTS / "talk_start.png")

        say = room.get_by_role("form", name="Say something to the workflow")
        await expect(say).to_contain_text("Trip trip-")
        await choose(say, "add")
        await expect(say).to_contain_text("One leg more.")
        await say.get_by_label("to text").fill("Mars")
        await say.get_by_label("km").fill("2000")
        await say.get_by_role("button", name="Send the update").click()
        await expect(say).to_contain_text("add was refused: ValueError: Mars is too far.")
        await page.screenshot(path=ARTEFACTS / "talk_refused.png")
        await say.get_by_label("km").fill("20")
        await say.get_by_role("button", name="Send the update").click()
        await expect(say.get_by_role("status")).to_contain_text("add was accepted.")
        await choose(say, "plan")
        await say.get_by_role("button", name="Ask").click()
        await expect(say.get_by_label("Answer")).to_contain_text('"Mars 20 km"')
        await page.screenshot(path=ARTEFACTS / "talk_answer.png")
        await choose(say, "go")
        await say.get_by_role("button", name="Send the signal").dblclick()
        await expect(say.get_by_role("status")).to_contain_text("go is in the workflow's history.")
        await expect(room.locator(".tr-body")).to_contain_text("completed", ignore_case=True)
        signals = "SELECT count(*) FROM flights.attempts WHERE workflow_type = 'Trip' AND outcome = 'succeeded'"
        await lab.becomes(3, signals)


async def choose(say: Locator, name: str) -> None:
    await say.get_by_label("What to say").select_option(label=name)

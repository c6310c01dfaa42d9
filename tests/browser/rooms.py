"""A JupyterLab that shows a control room, and a browser on it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.browser.jupyter import FLAGS, Jupyter, chromium, serving
from trellis import stack
from trellis.config import Settings
from trellis.db.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]
ARTEFACTS = ROOT / "artefacts"
NOTEBOOK = (
    "from trellis import lab\n\nsession = lab.start()\nroom = session.control_room()\nroom",
    'print("all cells", "have run")',
)


@dataclass
class Lab:
    """A JupyterLab, a browser, and the stack behind both."""

    jupyter: Jupyter
    browser: Browser
    settings: Settings
    url: str

    @asynccontextmanager
    async def room(self, *cells: str, width: int = 1500, height: int = 1100) -> AsyncIterator[tuple[Page, Locator]]:
        """The notebook's page with the control room live, after all its cells have run."""
        page = await self.browser.new_page(viewport={"width": width, "height": height})
        errors: list[str] = []
        strangers: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: strangers.append(request.url) if _foreign(request.url) else None)
        try:
            self.jupyter.write("room.ipynb", *(cells or NOTEBOOK))
            await self.jupyter.run_all(page, "room.ipynb")
            await expect(page.get_by_text("all cells have run")).to_be_visible(timeout=60_000)
            room = page.locator(".tr-room")
            await expect(room).to_have_attribute("data-live", "true")
            yield page, room
            assert not errors
            assert not strangers, "nothing is fetched from elsewhere"
        except BaseException:
            ARTEFACTS.mkdir(exist_ok=True)
            await page.screenshot(path=ARTEFACTS / "control_room_failed.png")
            raise
        finally:
            await self.jupyter.close_all(page)
            await page.close()

    async def row(self, sql: str, *args: object) -> Any:
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            found = await (await connection.execute(sql, args)).fetchone()
        return found[0] if found else None

    async def becomes(self, expected: object, sql: str, *args: object, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while await self.row(sql, *args) != expected:
                await asyncio.sleep(0.05)

    async def start(self, room: Locator, number: int = 1, policy: str = "patient") -> list[str]:
        """Fill in the form, press Start, and wait until the board shows the new orders awaiting approval."""
        before = set(await ids(room))
        policies = room.get_by_label("Policy")
        if not await policies.is_visible():
            await room.get_by_text("New order", exact=True).click()
        await policies.select_option(policy)
        await room.get_by_label("How many").fill(str(number))
        await room.get_by_role("button", name="Start", exact=True).click()
        async with asyncio.timeout(30):
            while len(new := [id_ for id_ in await ids(room) if id_ not in before]) < number:
                await asyncio.sleep(0.05)
        for id_ in new:
            await expect(line(room, id_)).to_contain_text("awaiting approval")
        return new


def _foreign(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname != "127.0.0.1"


async def ids(room: Locator) -> list[str]:
    found: list[str] = await room.locator(".tr-body .tr-line").evaluate_all("lines => lines.map(l => l.dataset.id)")
    return found


async def press_calm(room: Locator) -> None:
    """Press *Calm*. JupyterLab takes cells that are out of view off the page, and a narrow room folds its panels."""
    calm, panel = room.get_by_role("button", name="Calm"), room.get_by_text("Faults", exact=True)
    async with asyncio.timeout(60):
        while not await calm.is_visible():
            if await panel.is_visible():
                await panel.click()
            elif await room.count():
                await room.scroll_into_view_if_needed()
            await asyncio.sleep(0.5)
    await calm.click()


def line(room: Locator, order_id: str) -> Locator:
    return room.locator(f'.tr-line[data-id="{order_id}"]')


@asynccontextmanager
async def opened(settings: dict[str, dict[str, object]]) -> AsyncIterator[Lab]:
    program = chromium()
    folder = Path(tempfile.mkdtemp(prefix="trellis-browser-"))
    # Where the tests run as root, the embedded Postgres runs as another user.
    folder.chmod(0o755)
    mine = Settings.model_validate({"TRELLIS_HOME": folder / "home", "TRELLIS_FAULTS": "calm"})
    try:
        up = await stack.up(mine)
        await migrate(up.database_url)
        async with serving(folder / "jupyter", mine.home, settings) as jupyter, async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=program, args=FLAGS)
            try:
                yield Lab(jupyter, browser, mine, up.database_url)
            finally:
                await browser.close()
    finally:
        stack.down(mine)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
async def lab() -> AsyncIterator[Lab]:
    async with opened({}) as lab:
        yield lab

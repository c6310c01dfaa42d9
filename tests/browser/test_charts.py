"""Charts as JupyterLab shows them, in a real browser that may fetch nothing from elsewhere."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from playwright.async_api import async_playwright, expect

from tests.browser.jupyter import FLAGS, chromium, serving
from trellis import stack
from trellis.bench.events import fill
from trellis.config import Settings
from trellis.db.migrate import migrate

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

ARTEFACTS = Path(__file__).resolve().parents[2] / "artefacts"
DRAWN = [
    "insight.gantt(attempts[attempts['order_id'] == 'order-30'])",
    "insight.timelines(orders, attempts, most=12)",
    "insight.attempts_per_step(attempts)",
    "insight.latency(steps)",
    "insight.where_the_seconds_go(orders, steps, events)",
    "insight.state_map(events)",
    "insight.completion(orders)",
    "insight.utilisation(attempts)",
]
READ = """
from trellis import insight
events = insight.events()
attempts, orders = insight.attempts(events), insight.orders()
steps = insight.steps(attempts)
"""


async def test_charts_are_live_in_jupyterlab_and_stored_with_a_picture() -> None:
    """JupyterLab draws each chart itself, a mark tells its numbers under the mouse, and the file holds an SVG too."""
    program = chromium()
    folder = Path(tempfile.mkdtemp(prefix="trellis-charts-"))
    folder.chmod(0o755)
    settings = Settings.model_validate({"TRELLIS_HOME": folder / "home"})
    try:
        url = (await stack.up(settings)).database_url
        await migrate(url)
        await asyncio.to_thread(fill, url, 2_000)
        async with serving(folder / "jupyter", folder / "home", {}) as jupyter, async_playwright() as player:
            browser = await player.chromium.launch(executable_path=program, args=FLAGS)
            page = await browser.new_page(viewport={"width": 1100, "height": 5200})
            foreign: list[str] = []
            page.on("request", lambda request: foreign.append(request.url) if jupyter.url not in request.url else None)
            jupyter.write("charts.ipynb", READ, *DRAWN, "print('all cells', 'have run')")
            await jupyter.run_all(page, "charts.ipynb")
            await expect(page.get_by_text("all cells have run")).to_be_visible(timeout=60_000)
            await expect(page.locator(".jp-OutputArea-output .vega-embed")).to_have_count(len(DRAWN))
            ARTEFACTS.mkdir(exist_ok=True)
            await page.screenshot(path=ARTEFACTS / "charts.png")
            await page.evaluate(
                "(() => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}); })()"
            )
            await page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
            await page.screenshot(path=ARTEFACTS / "charts_dark.png")
            assert await page.locator(".jp-OutputArea-output .vega-embed .error").count() == 0
            await page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
            stored = nbformat.read(jupyter.root / "charts.ipynb", as_version=4)
            nbformat.validate(stored)
            assert json.dumps(stored).count('"image/svg+xml"') == len(DRAWN)
            await jupyter.close_all(page)
            await browser.close()
            assert [one for one in foreign if one.startswith("http")] == []
    finally:
        stack.down(settings)
        shutil.rmtree(folder, ignore_errors=True)

"""Charts as JupyterLab shows them, in a real browser that may fetch nothing from elsewhere."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.jupyter import FLAGS, chromium, serving
from trellis import stack
from trellis.bench.filling import fill
from trellis.config import Settings
from trellis.db.migrate import migrate
from trellis.insight import colours
from trellis.insight.colours import contrast

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

ARTEFACTS = Path(__file__).resolve().parents[2] / "artefacts"
DRAWN = [
    "insight.gantt(attempts[attempts['order_id'] == 'order-30'])",
    "insight.gantt(undated)",
    "insight.timelines(orders, attempts, most=12)",
    "insight.attempts_per_step(many)",
    "insight.latency(steps)",
    "insight.where_the_seconds_go(orders, steps, events)",
    "insight.state_map(events)",
    "insight.completion(orders, 15, curve)",
    "insight.completion(orders, log=True)",
    "insight.utilisation(attempts)",
    "insight.completion_by_policy(runs, {'swift': curve})",
    "insight.frontier(recommended.frontier, recommended.policy.name)",
    "insight.recovery_map(pd.DataFrame({'load': [0.3, 0.9, 0.9], 'outage_s': 8, 'drained_s': [3, 20, None]}))",
]
READ = """
import pandas as pd
from trellis import insight
from trellis.insight.recommend import recommend
from trellis.insight.retries import predict
from trellis.policies import preset
events = insight.events()
attempts, orders = insight.attempts(events), insight.orders()
steps = insight.steps(attempts)
undated = attempts[attempts['order_id'] == 'order-31'].copy()
undated.loc[undated.index[1::2], ['started_at', 'ended_at']] = pd.NaT
many = pd.concat([attempts.assign(outcome='failed', order_id='order-1')] + [attempts])
found = predict(preset('swift'))
curve = (found.times, found.cdf_values)
runs = pd.DataFrame({'policy': 'swift', 'seconds': found.times[::900], 'outcome': 'completed'})
recommended = recommend(15, 1e-5)
"""
COLOURS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const seen = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
        return '#' + [r, g, b].map((one) => one.toString(16).padStart(2, '0')).join('');
    };
    const shown = (part, name) => seen(getComputedStyle(part)[name]);
    return [...document.querySelectorAll('.jp-OutputArea-output .vega-embed svg.marks')].map((svg) => ({
        paper: svg.querySelector(':scope > rect') ? shown(svg.querySelector(':scope > rect'), 'fill')
            : shown(svg, 'backgroundColor'),
        around: seen(getComputedStyle(document.querySelector('.jp-Notebook')).getPropertyValue('--jp-layout-color0')),
        texts: [...new Set([...svg.querySelectorAll('text')].map((text) => shown(text, 'fill')))],
        labels: svg.querySelectorAll('.role-axis-label text').length,
        marks: [...new Set([...svg.querySelectorAll('.role-legend-symbol path')].map((mark) =>
            shown(mark, getComputedStyle(mark).fill === 'none' ? 'stroke' : 'fill')))],
    }));
}"""


async def test_charts_are_live_in_jupyterlab_and_stored_with_a_picture() -> None:
    """JupyterLab draws each chart itself, a change of theme changes it at once, and the file holds an SVG too."""
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
            page = await browser.new_page(viewport={"width": 1100, "height": 7200})
            foreign: list[str] = []
            page.on("request", lambda request: foreign.append(request.url) if jupyter.url not in request.url else None)
            jupyter.write("charts.ipynb", READ, *DRAWN, "print('all cells', 'have run')")
            await jupyter.run_all(page, "charts.ipynb")
            await expect(page.get_by_text("all cells have run")).to_be_visible(timeout=60_000)
            await expect(page.locator(".jp-OutputArea-output .vega-embed")).to_have_count(len(DRAWN))
            ARTEFACTS.mkdir(exist_ok=True)
            papers = {}
            for theme in ("Light", "Dark", "Light", "Dark"):
                await page.evaluate(
                    "theme => { window.jupyterapp.commands.execute('apputils:change-theme', {theme}); }",
                    f"JupyterLab {theme}",
                )
                await page.wait_for_function(
                    "is => document.body.dataset.jpThemeLight === is", arg=str(theme == "Light").lower()
                )
                papers[theme] = await readable(page)
                await page.screenshot(path=ARTEFACTS / f"charts_{theme.lower()}.png")
            assert papers["Light"] != papers["Dark"]
            await page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
            # Drawn again, by a page that is dark from the beginning.
            await jupyter.open(page, "charts.ipynb")
            await expect(page.locator(".jp-OutputArea-output .vega-embed svg.marks")).to_have_count(len(DRAWN))
            assert await readable(page) == papers["Dark"]
            assert await page.locator(".jp-OutputArea-output .vega-embed .error").count() == 0
            stored = nbformat.read(jupyter.root / "charts.ipynb", as_version=4)
            nbformat.validate(stored)
            assert json.dumps(stored).count('"image/svg+xml"') == len(DRAWN)
            await jupyter.close_all(page)
            for scheme in ("light", "dark"):
                await stored_pictures_are_readable(browser, stored, scheme)
            await browser.close()
            assert [one for one in foreign if one.startswith("http")] == []
    finally:
        stack.down(settings)
        shutil.rmtree(folder, ignore_errors=True)


async def readable(page: Page) -> set[str]:
    """Check that each chart has the page's own background, and text and marks of enough contrast on it.

    Returns the colours of the backgrounds.
    """
    shown: list[dict[str, Any]] = []
    # The theme's style sheet arrives after the attribute that names it.
    async with asyncio.timeout(30):
        while not shown or any(chart["paper"] != chart["around"] for chart in shown):
            await asyncio.sleep(0.2)
            shown = await page.evaluate(COLOURS)
    assert len(shown) == len(DRAWN)
    assert sum(chart["labels"] > 0 for chart in shown) >= len(DRAWN) - 1, "the map of events has no axes"
    for number, chart in enumerate(shown):
        for text in chart["texts"]:
            assert contrast(text, chart["paper"]) >= 4.5, (DRAWN[number], text, chart["paper"])
        for mark in chart["marks"]:
            assert contrast(mark, chart["paper"]) >= 3.0, (DRAWN[number], mark, chart["paper"])
    return {chart["paper"] for chart in shown}


async def stored_pictures_are_readable(browser: Browser, stored: Any, scheme: Any) -> None:
    """Check that the stored SVGs have their own background, light or dark as the reader's system is."""
    page = await browser.new_page(viewport={"width": 1100, "height": 7200}, color_scheme=scheme)
    pictures = [out.data["image/svg+xml"] for cell in stored.cells for out in cell.get("outputs", [])
                if "image/svg+xml" in out.get("data", {})]  # fmt: skip
    frames = "".join(f"<p class='vega-embed'>{picture}</p>" for picture in pictures)
    await page.set_content(
        f"<div class='jp-OutputArea-output jp-Notebook' style='--jp-layout-color0: red'>{frames}</div>"
    )
    await page.screenshot(path=ARTEFACTS / f"charts_stored_{scheme}.png")
    shown = await page.evaluate(COLOURS)
    assert len(shown) == len(DRAWN)
    for chart in shown:
        assert chart["paper"] == (colours.PAPER if scheme == "light" else colours.DARK[colours.PAPER])
        assert all(contrast(text, chart["paper"]) >= 4.5 for text in chart["texts"]), chart
        assert all(contrast(mark, chart["paper"]) >= 3.0 for mark in chart["marks"]), chart
    await page.close()

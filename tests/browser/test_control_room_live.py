"""The control room when servers, kernel, theme or specification change, in a real browser."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
from collections.abc import Callable

import pytest
from playwright.async_api import expect

from tests.browser.rooms import ARTEFACTS, NOTEBOOK, ROOT, Lab, lab, line, press_calm
from trellis import stack
from trellis.lab.essays.executing import FOLDER

__all__ = ["lab"]  # the fixture of this module

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

OTHER_BOARD = """
from dataclasses import replace
from trellis import lab
from trellis.lab.control_room.board import Column
from trellis.lab.control_room.orders import ORDERS
from trellis.lab.control_room.panels import BackgroundLog, Lines
from trellis.lab.control_room.widget import ControlRoom

session = lab.start()
session.start_order(policy="patient")
columns = (Column("id", "Parcel"), Column("address", "To"))
ControlRoom(session, board=replace(ORDERS, title="Parcels", columns=columns, side=(), main=(Lines, BackgroundLog)))
"""


FLIGHTS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.integration.parcels import Parcel, load, weigh
from trellis import lab

session = lab.start()
flight = session.fly([Parcel], [weigh, load], task_queue="parcels")
flight.start(Parcel.run, 2, id="parcel-1")
flight.start(Parcel.run, 10_000, id="parcel-2")
session.board()
"""


RESTART = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"

CREW = """
from trellis import lab
from trellis.faults import FaultPlan, Mix

session = lab.start(workers=2)
session.faults(FaultPlan(mix=Mix(latency=1.0)))
session.control_room()
"""


async def test_the_first_notebook_waits_for_a_person_and_ends_with_the_control_room(lab: Lab) -> None:
    """All cells are run at once. A person presses the button, long before the notebook would do it."""
    page = await lab.browser.new_page(viewport={"width": 1500, "height": 1100})
    try:
        shutil.copy(FOLDER / "00_start_here.ipynb", lab.jupyter.root)
        await lab.jupyter.run_all(page, "00_start_here.ipynb")
        approve = page.locator(".widget-button").filter(has_text="Approve")
        await expect(approve).to_be_enabled(timeout=60_000)
        await approve.click()
        await expect(page.locator(".tr-room")).to_have_attribute("data-live", "true", timeout=60_000)
        order = await lab.row("SELECT order_id FROM events WHERE type = 'ORDER_APPROVED' ORDER BY id DESC LIMIT 1")
        waited = """SELECT extract(epoch FROM max(ts) FILTER (WHERE type = 'ORDER_APPROVED')
            - max(ts) FILTER (WHERE type = 'AWAITING_APPROVAL')) < 18 FROM events WHERE order_id = %s"""
        assert await lab.row(waited, order)
        # The tests after this one share the ledger and its fault plan.
        await press_calm(page.locator(".tr-room"))
        await lab.becomes("0.0", "SELECT plan_json -> 'mix' ->> 'hang' FROM fault_plans ORDER BY version DESC LIMIT 1")
        picture = page.locator(".jp-MarkdownOutput img").last
        await picture.scroll_into_view_if_needed()
        assert await picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 1000
    finally:
        await lab.jupyter.close_all(page)
        await page.close()


async def test_a_kernel_that_is_restarted_shows_on_the_page(lab: Lab) -> None:
    """The board says that it is not live, and pressing its buttons raises no error."""
    async with lab.room() as (page, room):
        await lab.start(room)
        await page.evaluate(RESTART)
        await room.get_by_role("button", name="Next page").dispatch_event("click")
        await room.get_by_role("button", name="Calm").click()
        await expect(room.locator(".tr-banner")).to_have_text("The kernel is gone. Run the first cell again.")
        await expect(room.get_by_role("button", name="Start", exact=True)).to_have_attribute("aria-disabled", "true")


async def test_a_narrow_window_and_the_dark_theme(lab: Lab) -> None:
    """At 1000 px nothing is wider than the page. In the dark theme the background is dark and the text light."""
    async with lab.room(width=1000) as (page, room):
        (order,) = await lab.start(room)
        await line(room, order).click()
        wide = await room.evaluate("room => [room.scrollWidth, room.clientWidth, room.parentElement.clientWidth]")
        assert wide[0] <= wide[1] <= wide[2]
        spills = await room.evaluate(
            """room => [...room.querySelectorAll('button, input, select, .tr-line > div')].filter((one) =>
                one.offsetParent && one.getBoundingClientRect().right > room.getBoundingClientRect().right + 1)
                .map((one) => one.outerHTML.slice(0, 80))"""
        )
        assert spills == []
        ARTEFACTS.mkdir(exist_ok=True)
        await page.screenshot(path=ARTEFACTS / "control_room_1000.png")
        # The board is near the top: the forms above it are folded once there are orders.
        await room.get_by_text("New order", exact=True).click()
        top = "room => room.querySelector('.tr-grid').getBoundingClientRect().top - room.getBoundingClientRect().top"
        assert await room.evaluate(top) < 250
        await page.evaluate(
            "(() => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}); })()"
        )
        await page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
        brightness = """room => { const of = (c) => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0);
            const style = getComputedStyle(room); return of(style.color) - of(style.backgroundColor); }"""
        async with asyncio.timeout(10):
            while await room.evaluate(brightness) < 250:
                await asyncio.sleep(0.05)
        await page.screenshot(path=ARTEFACTS / "control_room_dark.png")
        await page.evaluate(
            "(() => { window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'}); })()"
        )


async def test_servers_that_die_and_return_show_on_the_page(lab: Lab) -> None:
    """The page says that it is disconnected, and is live again by itself. The order goes on, without a traceback."""
    async with lab.room() as (page, room):
        (order,) = await lab.start(room)
        await line(room, order).click()
        await asyncio.to_thread(stack.down, lab.settings)
        await expect(room.locator(".tr-banner")).to_contain_text("Disconnected, trying again", timeout=20_000)
        await expect(room.get_by_role("button", name="Approve")).to_have_attribute("aria-disabled", "true")
        await stack.up(lab.settings)
        await expect(room).to_have_attribute("data-live", "true", timeout=40_000)
        await expect(room.locator(".tr-banner")).to_be_hidden()
        await room.get_by_role("button", name="Approve").click()
        await expect(line(room, order)).to_contain_text("completed", timeout=60_000)
        assert await lab.row("SELECT state FROM orders WHERE id = %s", order) == "COMPLETED"
        assert await page.get_by_text("Traceback").count() == 0
        # One output is the room, one is the sentence that all cells have run. So nothing else was printed.
        assert await page.locator(".jp-OutputArea-output").count() == 2


async def test_an_order_is_followed_in_the_time_machine_and_outlives_the_kernel(lab: Lab) -> None:
    """Opened from the board and by a cell, both replay what is new. Their pages need the kernel for nothing else."""
    cell = "order = session.start_order(policy='patient')\nsession.time_machine(order)"
    async with lab.room(NOTEBOOK[0], cell, NOTEBOOK[1]) as (page, room):
        newest = room.locator(".tr-body .tr-line").first
        await expect(newest).to_contain_text("awaiting approval")
        order = await newest.get_attribute("data-id")
        await newest.click()
        await room.get_by_role("button", name="Open in time machine").click()
        machines = page.get_by_role("region", name=f"Time machine: order-{order}")
        await expect(machines).to_have_count(2)
        machine = machines.first
        await expect(machine.locator(".tr-where")).to_contain_text("step 1 of")
        await expect(machine.get_by_role("slider")).to_be_focused()
        # At the last step the cursor would follow. The order stops at its third one, which may still be under way.
        await expect(machine.get_by_role("slider")).to_have_attribute("max", re.compile("^[3-9]"))
        before = int(await machine.get_by_role("slider").get_attribute("max") or 0)
        await page.keyboard.press("ArrowRight")
        await room.get_by_role("button", name="Approve").click()
        for one in await machines.all():
            await expect(one.get_by_text("the workflow has ended", exact=True)).to_be_attached()
        many = int(await machine.get_by_role("slider").get_attribute("max") or 0)
        assert many > before
        await expect(machine.locator(".tr-where")).to_contain_text(f"step 2 of {many}")
        await expect(machine.get_by_role("tab")).to_have_text(["OrderWorkflow", f"shipping-{order}-1"])
        await machine.scroll_into_view_if_needed()
        await page.screenshot(path=ARTEFACTS / "control_room_time_machine.png")
        await page.evaluate(RESTART)
        await expect(room.locator(".tr-banner")).to_have_text("The kernel is gone. Run the first cell again.")
        await machine.get_by_role("slider").focus()
        await page.keyboard.press("End")
        await expect(machine.locator(".tr-where")).to_contain_text(f"step {many} of {many}")
        cells = await page.locator(".jp-CodeCell").count()
        for key in ("a", "b", "x"):
            await page.keyboard.press(key)
        assert await page.locator(".jp-CodeCell").count() == cells, "the notebook gets none of its keys"


async def test_the_page_keeps_up_while_a_cell_is_busy(lab: Lab) -> None:
    """While a cell sleeps, the board shows an order all the way from received to completed."""
    busy = "import time; session.start_order(policy='compact'); time.sleep(20)"
    async with lab.room() as (page, room):
        await page.evaluate(
            """(code) => { const panel = window.jupyterapp.shell.currentWidget;
            panel.sessionContext.session.kernel.requestExecute({code}); }""",
            busy,
        )
        newest = room.locator(".tr-body .tr-line").first
        await expect(newest).to_contain_text("left", timeout=10_000)
        await expect(newest).to_contain_text("completed", timeout=10_000)
        status = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
        assert await page.evaluate(status) == "busy", "the cell was still asleep"
        # A busy kernel must not be reported as gone.
        await asyncio.sleep(7)
        await expect(room).to_have_attribute("data-live", "true")


async def test_a_click_has_its_verdict_soon_and_a_commit_is_on_the_page_soon(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    """The page measures both. The bounds are loose, because the machine may be busy with other work."""
    async with lab.room() as (_, room):
        orders = await lab.start(room, 20)
        for n, order in enumerate(orders):
            await line(room, order).click()
            await room.get_by_role("button", name="Approve" if n % 2 else "Cancel", exact=True).click()
            await expect(room.get_by_label("Verdicts")).to_contain_text(f"accepted ({order})")
        delays = await room.evaluate("room => room.delays()")
    p95 = {name: statistics.quantiles(values, n=20)[-1] for name, values in delays.items()}
    for name, value in p95.items():
        record_property(f"{name}_p95_ms", round(value))
        print(f"{name}: p95 {value:.0f} ms, median {statistics.median(delays[name]):.0f} ms of {len(delays[name])}")
    assert p95["verdict"] < 1500
    assert p95["commit"] < 1000


async def test_jupyterlab_does_not_ask_about_its_news(lab: Lab) -> None:
    """A person first sees the notebook, not a question about a news feed on the internet."""
    async with lab.room() as (page, _):
        setting = """async () => (await window.jupyterapp.serviceManager.settings.fetch(
            '@jupyterlab/apputils-extension:notification')).schema.properties.fetchNews.default"""
        assert await page.evaluate(setting) == "false"
        assert await page.get_by_text("official Jupyter news").count() == 0


async def test_a_board_with_other_columns_and_one_panel_less_is_drawn(lab: Lab) -> None:
    """The page draws what the specification names: two columns, no form, no sliders, and requests that still work."""
    async with lab.room(OTHER_BOARD, NOTEBOOK[1]) as (_, room):
        await expect(room.get_by_role("heading", name="Parcels")).to_be_visible()
        await expect(room.get_by_role("columnheader")).to_have_text(["", "Parcel", "To"])
        for gone in ("New order", "Faults", "Attempts"):
            await expect(room.get_by_text(gone, exact=True)).to_have_count(0)
        first = room.locator(".tr-body .tr-line").first
        await expect(first).to_contain_text("1 Main Street, Springfield")
        await first.click()
        await room.get_by_role("button", name="Cancel", exact=True).click()
        await expect(room.get_by_label("Verdicts")).to_contain_text("accepted")
        order = await first.get_attribute("data-id")
        await lab.becomes("CANCELLED", "SELECT state FROM orders WHERE id = %s", order)


async def test_a_person_kills_a_worker_and_reads_the_verdict(lab: Lab) -> None:
    """One press. The board has a line while it lasts, the order's attempts a band, and a card says what was proved."""
    async with lab.room(CREW, NOTEBOOK[1]) as (page, room):
        (order,) = await lab.start(room)
        await line(room, order).click()
        await room.get_by_role("button", name="Approve").click()
        await expect(room.locator(".tr-try").nth(1)).to_be_visible()
        await room.get_by_role("button", name="Kill a worker").focus()
        await page.keyboard.press("Enter")
        await expect(room.locator(".tr-broken")).to_contain_text("Worker killed")
        await expect(room.get_by_role("button", name="Restart Temporal")).to_have_attribute("aria-disabled", "true")
        await expect(room.locator(".tr-band title")).to_contain_text("Worker killed: broken on purpose for")
        ARTEFACTS.mkdir(exist_ok=True)
        await page.screenshot(path=ARTEFACTS / "control_room_broken.png")
        card = room.get_by_role("region", name="Verdict")
        await expect(card).to_contain_text("Worker killed: clean", timeout=60_000)
        await expect(card).to_contain_text("faults that landed1")
        await expect(room.locator(".tr-broken")).to_be_hidden()
        await expect(line(room, order)).to_contain_text("completed")
        await expect(room.get_by_role("button", name="Restart Temporal")).not_to_have_attribute("aria-disabled", "true")
        await expect(room.locator(".tr-gantt")).to_have_attribute(
            "aria-label", re.compile("broken meanwhile: Worker killed")
        )
        await page.screenshot(path=ARTEFACTS / "control_room_verdict.png")
        # The tests after this one share the ledger and its fault plan.
        await room.get_by_role("button", name="Calm").click()
        await lab.becomes(
            "0.0", "SELECT plan_json -> 'mix' ->> 'latency' FROM fault_plans ORDER BY version DESC LIMIT 1"
        )
        assert await lab.row("SELECT count(*) FROM provider.charges WHERE order_id = %s", order) == 1


async def test_a_person_steers_somebody_elses_workflows(lab: Lab) -> None:
    """Attempts are drawn, a slider reaches the plan of the app, a workflow is cancelled, and one is replayed."""
    async with lab.room(FLIGHTS, 'print("all cells", "have run")') as (page, room):
        first, second = (room.locator(".tr-line", has_text=f"parcel-{n}") for n in (1, 2))
        await expect(first).to_contain_text("running")
        await first.click()
        attempts = room.get_by_role("region", name="Attempts of the workflow in focus")
        await expect(attempts).to_contain_text("3 attempts of parcel-1", timeout=30_000)
        await expect(attempts.locator(".tr-failed")).to_have_count(2)
        await expect(attempts.locator(".tr-succeeded")).to_have_count(1)

        faults = room.get_by_role("region", name="Faults")
        await room.get_by_label("Which activity type's calls fail").select_option("load")
        await faults.get_by_label("Raise at once").fill("1")
        await lab.becomes(
            "1.0", "SELECT plan -> 'steps' -> 'load' ->> 'error' FROM flights.plans WHERE queue = 'parcels'"
        )
        await expect(faults).to_contain_text("With a mix of their own: load")
        await faults.get_by_role("button", name="Calm").click()
        await lab.becomes(
            None, "SELECT plan -> 'steps' -> 'load' ->> 'error' FROM flights.plans WHERE queue = 'parcels'"
        )

        await room.get_by_role("button", name="Open in time machine").click()
        machine = room.get_by_role("region", name="Time machine of the workflow in focus")
        await expect(machine.locator(".tr-machine")).to_contain_text("weigh", timeout=30_000)

        await expect(second).to_contain_text("the scales are wet")
        await second.click()
        bar = room.get_by_role("group", name="Requests to the selected workflows")
        await bar.get_by_role("button", name="Cancel", exact=True).click()
        await expect(room.get_by_label("Verdicts")).to_contain_text("accepted (parcel-2)")
        await expect(second).to_contain_text("canceled")
        await expect(bar.get_by_role("button", name="Cancel", exact=True)).to_have_attribute("aria-disabled", "true")

        # Nothing is cut off in a narrow window, and the arrows move on the board.
        await page.set_viewport_size({"width": 1000, "height": 1100})
        assert await room.evaluate("room => room.scrollWidth <= room.clientWidth")
        await first.press("ArrowUp")
        focus = await page.evaluate("document.activeElement.closest('.tr-line')?.dataset.id ?? ''")
        assert focus.startswith("parcel-")

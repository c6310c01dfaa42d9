"""The control room as a person meets it: JupyterLab in a real browser, and the ledger asked whether it is true."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.browser.jupyter import FLAGS, KERNELS, Jupyter, chromium, serving
from trellis import stack
from trellis.config import Settings
from trellis.db.migrate import migrate
from trellis.lab.essays.executing import FOLDER

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

ARTEFACTS = Path(__file__).resolve().parents[2] / "artefacts"
NOTEBOOK = (
    "from trellis import lab\n\nsession = lab.start()\nroom = session.control_room()\nroom",
    'print("all cells", "have run")',
)

# Dragged away and back to its start, a slider tells of no change: only the pointer goes up.
DRAG_AND_BACK = """slider => { const before = slider.value;
    for (const value of [0.5, before]) { slider.value = value; slider.dispatchEvent(new Event('input')); }
    document.dispatchEvent(new PointerEvent('pointerup')); }"""


@dataclass
class Lab:
    """A JupyterLab, a browser, and the stack that both look at."""

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
            found = await (await connection.execute(sql, args)).fetchone()  # type: ignore[arg-type]
        return found[0] if found else None

    async def becomes(self, expected: object, sql: str, *args: object, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while await self.row(sql, *args) != expected:
                await asyncio.sleep(0.05)

    async def start(self, room: Locator, number: int = 1, policy: str = "patient") -> list[str]:
        """Fill the form in, press Start, and wait until the new orders stand on the board awaiting approval."""
        before = set(await ids(room))
        policies = room.get_by_label("Policy")
        if not await policies.is_visible():
            await room.get_by_text("New order", exact=True).click()
        await policies.select_option(policy)
        await room.get_by_label("How many").fill(str(number))
        await room.get_by_role("button", name="Start").click()
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


def line(room: Locator, order_id: str) -> Locator:
    return room.locator(f'.tr-line[data-id="{order_id}"]')


@asynccontextmanager
async def opened(settings: dict[str, dict[str, object]]) -> AsyncIterator[Lab]:
    program = chromium()
    folder = Path(tempfile.mkdtemp(prefix="trellis-browser-"))
    # The embedded Postgres runs as a user of its own where the tests run as root.
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


async def steer(lab: Lab) -> None:
    """Approve, Cancel, Change address and a fault slider, each seen on the page and in the ledger."""
    async with lab.room() as (_, room):
        first, second = await lab.start(room, 2)
        address, verdicts = room.get_by_label("New address"), room.get_by_label("Verdicts")

        await line(room, first).click()
        await address.fill("2 New Road, Shelbyville")
        await room.get_by_role("button", name="Change address").click()
        await expect(verdicts).to_contain_text(f"accepted ({first})")
        await expect(line(room, first)).to_contain_text("2 New Road, Shelbyville")
        assert await lab.row("SELECT address_json ->> 'city' FROM orders WHERE id = %s", first) == "Shelbyville"

        # A double click is one request.
        await room.get_by_role("button", name="Approve").dblclick()
        await expect(line(room, first)).to_contain_text("completed")
        assert await lab.row("SELECT state FROM orders WHERE id = %s", first) == "COMPLETED"
        approved = "SELECT count(*) FROM events WHERE order_id = %s AND type = 'ORDER_APPROVED'"
        assert await lab.row(approved, first) == 1

        await line(room, second).click()
        await room.get_by_role("button", name="Cancel", exact=True).click()
        await expect(line(room, second)).to_contain_text("cancelled")
        assert await lab.row("SELECT state FROM orders WHERE id = %s", second) == "CANCELLED"

        # What is over can be asked for nothing more, unless something is selected with it that can.
        cancel = room.get_by_role("button", name="Cancel", exact=True)
        await expect(cancel).to_have_attribute("aria-disabled", "true")
        (third,) = await lab.start(room)
        await line(room, third).get_by_role("checkbox").check()
        await cancel.click()
        await expect(verdicts).to_contain_text(f"Order {second} refused cancel: the order is CANCELLED")
        await expect(line(room, third)).to_contain_text("cancelled")

        await room.get_by_label("Which step's calls fail").select_option("charge")
        await room.get_by_label("Hang").fill("1")
        plan = "SELECT plan_json -> 'steps' -> 'charge' ->> 'hang' FROM fault_plans ORDER BY version DESC LIMIT 1"
        await lab.becomes("1.0", plan)
        await expect(room.get_by_role("region", name="Faults")).to_contain_text("With a mix of their own: charge")
        await room.get_by_role("button", name="Calm").click()
        await lab.becomes(None, plan)


async def test_a_person_steers_orders_with_the_mouse(lab: Lab) -> None:
    """Every button and slider reaches the ledger, and the page shows what the ledger says."""
    await steer(lab)


async def test_a_person_steers_orders_without_subshells() -> None:
    """The other way in which JupyterLab can carry a widget's messages to the kernel works as well."""
    async with opened({KERNELS: {"commsOverSubshells": "disabled"}}) as lab:
        await steer(lab)


async def test_the_keyboard_alone_is_enough(lab: Lab) -> None:
    """Tab reaches every part, arrows walk the board, Enter chooses, and no key is taken for the notebook's own."""
    async with lab.room() as (page, room):
        orders = await lab.start(room, 2)
        cells = await page.locator(".jp-CodeCell").count()
        await room.get_by_role("button", name="All", exact=False).first.focus()
        for _ in range(30):
            await page.keyboard.press("Tab")
            here = await page.evaluate("document.activeElement.dataset.id ?? ''")
            if here:
                break
        await page.keyboard.press("Home")
        here = await page.evaluate("document.activeElement.dataset.id")
        assert here in orders, "the board is reached, and its first line is the newest order"
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", "where the focus is can be seen"
        order = await ids(room)
        await page.keyboard.press("ArrowDown")
        assert await page.evaluate("document.activeElement.dataset.id") == order[order.index(here) + 1]
        await page.keyboard.press("ArrowUp")
        # In a notebook's command mode these would add a cell and cut one.
        for key in ("a", "b", "x"):
            await page.keyboard.press(key)
        assert await page.locator(".jp-CodeCell").count() == cells
        await page.keyboard.press("Enter")
        await expect(line(room, here)).to_have_attribute("aria-selected", "true")
        for _ in range(20):
            await page.keyboard.press("Tab")
            if await page.evaluate("document.activeElement.textContent") == "Approve":
                break
        await page.keyboard.press("Enter")
        await expect(line(room, here)).to_contain_text("completed")
        assert await lab.row("SELECT state FROM orders WHERE id = %s", here) == "COMPLETED"
        assert await page.evaluate("document.activeElement.textContent") == "Approve", "the focus stays on the button"

        # A slider by its keys, and back: it follows the plan again.
        hang = room.get_by_label("Hang")
        await hang.focus()
        for _ in range(3):
            await page.keyboard.press("ArrowRight")
        plan = "SELECT plan_json -> 'mix' ->> 'hang' FROM fault_plans ORDER BY version DESC LIMIT 1"
        await lab.becomes("0.03", plan)
        await hang.evaluate(DRAG_AND_BACK)
        await expect(hang).to_have_value("0.03")
        await room.get_by_role("button", name="Calm").click()
        await expect(hang).to_have_value("0")

        # The line with the focus leaves the filter: the focus goes to another line, or to the sentence in their place.
        (other,) = [one for one in orders if one != here]
        await room.get_by_role("button", name="awaiting approval").click()
        await expect(line(room, here)).to_have_count(0)
        await line(room, other).click()
        await room.get_by_role("button", name="Approve").dispatch_event("click")
        await expect(line(room, other)).to_have_count(0)
        assert await page.evaluate("document.activeElement.closest('.tr-room') !== null")
        await expect(room.get_by_text("Select an order to steer it")).to_be_visible()


async def test_nonsense_in_the_form_is_told_beside_its_field(lab: Lab) -> None:
    """The sentence is tied to the field for those who hear the page; nothing was started."""
    async with lab.room() as (_, room):
        before = await lab.row("SELECT count(*) FROM orders")
        count = room.get_by_label("How many")
        told = room.locator(f"#{await count.get_attribute('aria-describedby')}")
        # The same mistake a second time, and the form still works.
        for _ in range(2):
            await count.fill("a dozen")
            await room.get_by_role("button", name="Start").click()
            await expect(count).to_have_attribute("aria-invalid", "true")
            await expect(told).to_contain_text("a whole number from 1 to 200")
        assert await lab.row("SELECT count(*) FROM orders") == before
        (order,) = await lab.start(room)
        await expect(told).to_be_empty()

        await line(room, order).click()
        address = room.get_by_label("New address")
        wrong = room.locator(f"#{await address.get_attribute('aria-describedby')}")
        for _ in range(2):
            await room.get_by_role("button", name="Change address").click()
            await expect(wrong).to_contain_text("must have a line1")
        await expect(told).to_be_empty()
        await address.fill("2 New Road")
        await room.get_by_role("button", name="Change address").click()
        await expect(wrong).to_be_empty()
        await expect(line(room, order)).to_contain_text("2 New Road")


async def test_a_page_loaded_again_goes_on_where_it_was_and_search_and_paging_are_kept_apart(lab: Lab) -> None:
    """F5 keeps filter, search and the order in focus; what is selected on another page is said, and can be cleared."""
    async with lab.room() as (page, room):
        (order,) = await lab.start(room)
        search = room.get_by_label("Order id begins with")
        await line(room, order).click()
        await lab.jupyter.save(page)
        context = await lab.browser.new_context(viewport={"width": 1500, "height": 1100})
        second = await context.new_page()
        await lab.jupyter.open(second, "room.ipynb")
        other = second.locator(".tr-room")
        await expect(line(other, order)).to_have_attribute("aria-selected", "true")
        await expect(other.get_by_role("heading", name=order)).to_be_visible()
        await other.get_by_label("New address").fill("2 New Road")
        await other.get_by_role("button", name="Change address").click()
        await expect(room.get_by_label("Verdicts")).to_contain_text(f"accepted ({order})")
        await context.close()

        # A chip pressed while a search is still being typed takes what was typed with it, and is not undone by it.
        await search.fill(order[:9])
        await room.get_by_role("button", name="Open").click()
        async with asyncio.timeout(30):
            while not all(id_.startswith(order[:9]) for id_ in await ids(room)):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await expect(room.get_by_role("button", name="Open")).to_have_attribute("aria-pressed", "true")

        await lab.jupyter.reload(page)
        await expect(room).to_have_attribute("data-live", "true")
        await expect(search).to_have_value(order[:9])
        await expect(line(room, order)).to_have_attribute("aria-selected", "true")
        await expect(room.get_by_role("heading", name=order)).to_be_visible()
        await room.get_by_role("button", name="Cancel", exact=True).click()
        await expect(room.get_by_label("Verdicts").locator("li").first).to_contain_text("Cancelaccepted")

        await room.get_by_role("button", name="All", exact=False).first.click()
        await search.fill("")
        await room.get_by_label("Policy").select_option("patient")
        await room.get_by_label("How many").fill("26")
        await room.get_by_role("button", name="Start").click()
        await expect(room.get_by_text("Started 26 orders.")).to_be_visible(timeout=30_000)
        awaiting = room.locator(".tr-body .tr-line").filter(has_text="awaiting approval")
        await expect(awaiting).to_have_count(25)
        await room.get_by_role("checkbox", name="Select every order on this page").check()
        await expect(room.get_by_text("25 selected")).to_be_visible()
        await room.get_by_role("button", name="Next page").click()
        await expect(room.get_by_text("25 selected, 25 not shown")).to_be_visible()
        await room.get_by_role("button", name="Clear the selection").click()
        await expect(room.get_by_text("Select an order to steer it")).to_be_visible()
        await room.get_by_role("button", name="Previous page").click()
        await expect(awaiting).to_have_count(25)
        await room.get_by_role("checkbox", name="Select every order on this page").check()
        await room.get_by_role("button", name="Cancel", exact=True).click()
        await expect(room.get_by_label("Verdicts")).to_contain_text("accepted (25 orders)")


async def test_what_is_drawn_is_changed_in_place(lab: Lab) -> None:
    """Bars and verdicts are kept, so that a tooltip can open and nothing is read out twice; a refusal shifts no bar."""
    async with lab.room() as (_, room):
        await room.get_by_label("Which step's calls fail").select_option("charge")
        await room.get_by_label("Hang").fill("1")
        (order,) = await lab.start(room, policy="swift")
        await line(room, order).click()
        await room.get_by_role("button", name="Approve").click()
        bars, verdicts = room.locator(".tr-try"), room.get_by_label("Verdicts").locator("li")
        await expect(bars.nth(4)).to_be_visible()
        for one in (bars, verdicts):
            await one.first.evaluate("node => { node.mine = true; }")
        before = await bars.count()
        await expect(bars.nth(before + 1)).to_be_visible()
        assert await bars.evaluate_all("all => all.some((one) => one.mine)")
        await room.get_by_text("As a table").click()
        failed = room.locator(".tr-time tbody tr").filter(has_text="no answer in 0.25 s")
        await expect(failed.first).to_contain_text("charge1timed out")
        await room.get_by_role("button", name="Calm").click()
        await expect(line(room, order)).to_contain_text("completed")
        await expect(room.locator(".tr-running")).to_have_count(0)
        span = await room.locator(".tr-gantt").get_attribute("aria-label")

        (other,) = await lab.start(room)
        await line(room, other).get_by_role("checkbox").check()
        await room.get_by_role("button", name="Cancel", exact=True).click()
        await expect(verdicts.first).to_contain_text(f"Order {order} refused cancel")
        await line(room, order).click()
        await expect(room.locator(".tr-mark title").last).to_contain_text("request refused after")
        assert await room.locator(".tr-gantt").get_attribute("aria-label") == span
        assert await verdicts.evaluate_all("all => all.some((one) => one.mine)")


async def test_the_first_notebook_waits_for_a_person_and_ends_with_the_control_room(lab: Lab) -> None:
    """All cells are run at once; the order is approved by the button, long before the notebook would do it."""
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
        # The tests after this one share the ledger, and its weather.
        await page.locator(".tr-room").get_by_role("button", name="Calm").click()
        await lab.becomes("0.0", "SELECT plan_json -> 'mix' ->> 'hang' FROM fault_plans ORDER BY version DESC LIMIT 1")
        picture = page.locator(".jp-MarkdownOutput img").last
        await picture.scroll_into_view_if_needed()
        assert await picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 1000
    finally:
        await lab.jupyter.close_all(page)
        await page.close()


async def test_a_kernel_that_is_restarted_shows_on_the_page(lab: Lab) -> None:
    """The board does not pretend to be live, and pressing its buttons is no error."""
    async with lab.room() as (page, room):
        await lab.start(room)
        restart = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        await page.evaluate(restart)
        await room.get_by_role("button", name="Next page").dispatch_event("click")
        await room.get_by_role("button", name="Calm").click()
        await expect(room.locator(".tr-banner")).to_have_text("The kernel is gone. Run the first cell again.")
        await expect(room.get_by_role("button", name="Start")).to_have_attribute("aria-disabled", "true")


async def test_a_narrow_window_and_the_dark_theme(lab: Lab) -> None:
    """At 1000 px nothing runs out of the page sideways; in the dark theme the paper is dark and the ink light."""
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
        # The board comes first: the forms above it are folded once there are orders.
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
    """Disconnected in words, then live again by itself; the order goes on, and no cell shows a traceback."""
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
        # One output is the room, one the sentence that all cells have run: nothing was printed meanwhile.
        assert await page.locator(".jp-OutputArea-output").count() == 2


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
        # A kernel that is at work is not a kernel that is gone.
        await asyncio.sleep(7)
        await expect(room).to_have_attribute("data-live", "true")


async def test_a_click_has_its_verdict_soon_and_a_commit_is_on_the_page_soon(
    lab: Lab, record_property: Callable[[str, object], None]
) -> None:
    """Measured in the page; the bounds are loose, for machines that do other things too."""
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
    """The first thing a person sees is the notebook, and not a question about a feed on the open internet."""
    async with lab.room() as (page, _):
        setting = """async () => (await window.jupyterapp.serviceManager.settings.fetch(
            '@jupyterlab/apputils-extension:notification')).schema.properties.fetchNews.default"""
        assert await page.evaluate(setting) == "false"
        assert await page.get_by_text("official Jupyter news").count() == 0

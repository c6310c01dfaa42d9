"""A person's use of the control room: JupyterLab in a real browser. The tests check the results in the ledger."""

from __future__ import annotations

import asyncio

import pytest
from playwright.async_api import expect

from tests.browser.jupyter import KERNELS
from tests.browser.rooms import Lab, ids, lab, line, opened

__all__ = ["lab"]  # the fixture of this module

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

# A slider that is dragged away and back to its start sends no "change" event. Only the pointer goes up.
DRAG_AND_BACK = """slider => { const before = slider.value;
    for (const value of [0.5, before]) { slider.value = value; slider.dispatchEvent(new Event('input')); }
    document.dispatchEvent(new PointerEvent('pointerup')); }"""


async def steer(lab: Lab) -> None:
    """Use Approve, Cancel, Change address and a fault slider. Check each on the page and in the ledger."""
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

        # An order that has ended grants no request. The button works if another selected order still grants it.
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
    """JupyterLab has a second way to carry a widget's messages to the kernel. The room works with it, too."""
    async with opened({KERNELS: {"commsOverSubshells": "disabled"}}) as lab:
        await steer(lab)


async def test_the_keyboard_alone_is_enough(lab: Lab) -> None:
    """Tab reaches every part, arrows move on the board, Enter chooses, and no key reaches the notebook."""
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
        # In a notebook's command mode these keys would add a cell and cut one.
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

        # The keys move a slider and move it back. Then it follows the plan again.
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


async def test_nonsense_in_the_form_is_explained_beside_its_field(lab: Lab) -> None:
    """A screen reader reads the sentence with its field. Nothing is started."""
    async with lab.room() as (_, room):
        before = await lab.row("SELECT count(*) FROM orders")
        count = room.get_by_label("How many")
        hint = room.locator(f"#{await count.get_attribute('aria-describedby')}")
        # The same mistake a second time, and the form still works.
        for _ in range(2):
            await count.fill("a dozen")
            await room.get_by_role("button", name="Start", exact=True).click()
            await expect(count).to_have_attribute("aria-invalid", "true")
            await expect(hint).to_contain_text("a whole number from 1 to 200")
        assert await lab.row("SELECT count(*) FROM orders") == before
        (order,) = await lab.start(room)
        await expect(hint).to_be_empty()

        await line(room, order).click()
        address = room.get_by_label("New address")
        wrong = room.locator(f"#{await address.get_attribute('aria-describedby')}")
        for _ in range(2):
            await room.get_by_role("button", name="Change address").click()
            await expect(wrong).to_contain_text("must have a line1")
        await expect(hint).to_be_empty()
        await address.fill("2 New Road")
        await room.get_by_role("button", name="Change address").click()
        await expect(wrong).to_be_empty()
        await expect(line(room, order)).to_contain_text("2 New Road")


async def test_a_page_loaded_again_goes_on_where_it_was_and_search_and_paging_are_kept_apart(lab: Lab) -> None:
    """F5 keeps filter, search and the order in focus. The page counts selected orders that it does not show, and can
    clear them."""
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

        # A chip that is pressed while a search is typed applies the typed text, too. The text does not undo the chip.
        await search.fill(order[:9])
        await room.locator(".tr-chip", has_text="Open").click()
        async with asyncio.timeout(30):
            while not all(id_.startswith(order[:9]) for id_ in await ids(room)):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        await expect(room.locator(".tr-chip", has_text="Open")).to_have_attribute("aria-pressed", "true")

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
        await room.get_by_role("button", name="Start", exact=True).click()
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
    """Bars and verdicts keep their nodes: a tooltip can open, and nothing is read out twice. A refusal moves no bar."""
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
        # The axis ends with the order. Its completion comes a moment after its last attempt.
        await expect(room.locator(".tr-mark title").filter(has_text="order completed")).to_have_count(1)
        span = await room.locator(".tr-gantt").get_attribute("aria-label")

        (other,) = await lab.start(room)
        await line(room, other).get_by_role("checkbox").check()
        await room.get_by_role("button", name="Cancel", exact=True).click()
        await expect(verdicts.first).to_contain_text(f"Order {order} refused cancel")
        await line(room, order).click()
        await expect(room.locator(".tr-mark title").last).to_contain_text("request refused after")
        assert await room.locator(".tr-gantt").get_attribute("aria-label") == span
        assert await verdicts.evaluate_all("all => all.some((one) => one.mine)")

"""A panel for one order: its path, its clock, and the buttons that steer it.

Callbacks never print, never touch a loop and never wait: they hand work to the engine, and the engine sets traits.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import ipywidgets as w  # type: ignore[import-untyped]

from trellis.desk import Receipt
from trellis.errors import TrellisError
from trellis.insight.colours import STATES, text_on
from trellis.lab.control_room.rows import PATH
from trellis.lab.engine import STOPPED
from trellis.lab.session import Session
from trellis.model import State
from trellis.status import OrderStatus

BEAT = 0.15
"""Seconds between two reads of the order's status."""


class OrderPanel(w.VBox):  # type: ignore[misc]
    """Approve, Cancel and Change address for one order, with its state as it changes."""

    def __init__(self, session: Session, order_id: str) -> None:
        self.session = session
        self.order_id = order_id
        self.state: str | None = None
        self._status: OrderStatus | None = None
        self._busy = False
        self._approved = False
        self.path = w.HTML()
        self.detail = w.HTML()
        self.approve = self._button("Approve", "success", "End the review: the order is charged and shipped")
        self.cancel = self._button("Cancel", "danger", "Cancel the order; what was charged is refunded")
        self.address = w.Text(
            placeholder="new street and number", description="Address", layout=w.Layout(width="300px")
        )
        self.change = self._button("Change address", "", "Send the parcel to the address on the left")
        self.answer = w.HTML()
        desk = session.desk
        self._wire(self.approve, lambda: desk.approve(order_id))
        self._wire(self.cancel, lambda: desk.cancel(order_id, "by button"))
        self._wire(self.change, lambda: desk.update_address(order_id, {"line1": self.address.value}))
        row = w.HBox([self.approve, self.cancel, self.address, self.change], layout=w.Layout(flex_flow="row wrap"))
        super().__init__([self.path, self.detail, row, self.answer])
        # A strong reference: a task that nobody holds may be collected while it runs.
        self._following = session.submit(self._follow())

    async def approved(self, within: float = 20.0) -> None:
        """Give a person `within` seconds to press a button. If nobody does, press Approve."""

        async def decided() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(within):
                    while self._can_approve and not self._approved:
                        await asyncio.sleep(BEAT)

        await self.session.awaiting(decided())
        # `click` on a button that was pressed already, or is disabled, does nothing.
        self.approve.click()

    @staticmethod
    def _button(text: str, style: str, tip: str) -> w.Button:
        return w.Button(description=text, button_style=style, tooltip=tip, layout=w.Layout(width="130px"))

    def _wire(self, button: w.Button, request: Callable[[], Coroutine[Any, Any, Receipt]]) -> None:
        def clicked(_: w.Button) -> None:
            # A second click can arrive before the page learns that the button is disabled.
            if not self._busy and not button.disabled:
                self._ask(button, request())

        button.on_click(clicked)

    def _ask(self, button: w.Button, request: Coroutine[Any, Any, Receipt]) -> None:
        name = button.description
        self._busy = True
        self._enable()
        self.answer.value = _note(f"{name}: asking …")

        async def work() -> None:
            try:
                receipt = await request
                self._approved |= button is self.approve
                self.answer.value = _note(
                    f"{name}: {receipt.verdict}" + (f" ({receipt.reason})" * bool(receipt.reason))
                )
            except asyncio.CancelledError:
                self.answer.value = _warning(STOPPED)
                raise
            except TrellisError as refused:
                self.answer.value = _warning(str(refused))
            except Exception as error:
                self.answer.value = _warning(f"{name} failed: {error}")
            finally:
                self._busy = False
                self._enable()

        try:
            self._asking = self.session.submit(work())
        except TrellisError as stopped:
            request.close()
            self._busy = False
            self.answer.value = _warning(str(stopped))

    @property
    def _can_approve(self) -> bool:
        return self._status is None or self._status.can_approve

    def _enable(self) -> None:
        """Enable the buttons whose request is still possible, while no other request is on its way."""
        shut = self._busy or not self.session.running
        self.approve.disabled = shut or self._approved or not self._can_approve
        known = self._status
        self.cancel.disabled = shut or (known is not None and not known.can_cancel)
        self.change.disabled = shut or (known is not None and not known.can_update_address)

    async def _follow(self) -> None:
        while True:
            try:
                self._status = await self.session.desk.status(self.order_id)
                self.state = str(self._status.state)
                self._enable()
                self._draw(self._status)
                if State(self.state).terminal:
                    return
                await asyncio.sleep(BEAT)
            except asyncio.CancelledError:
                self._enable()
                self.detail.value = _warning(STOPPED)
                raise
            except Exception as error:
                self.detail.value = _warning(f"Disconnected, trying again ({error}).")
                await asyncio.sleep(1)

    def _draw(self, status: OrderStatus) -> None:
        state = str(status.state)
        names = [name for name, _ in PATH]
        reached = names.index(state) if state in names else -1
        dots = [_dot(text, STATES[state] if n == reached else None, n <= reached) for n, (_, text) in enumerate(PATH)]
        if reached < 0:
            dots = [_dot(state.lower().replace("_", " "), STATES[state], True)]
        self.path.value = (
            f'<div role="status" aria-label="Order {html.escape(self.order_id)} is {state}" '
            f'style="color:var(--jp-content-font-color1)"><b>{html.escape(self.order_id)}</b> &nbsp; '
            + " &rsaquo; ".join(dots)
            + "</div>"
        )
        parts: list[str] = []
        if status.step:
            parts.append(f"now: {status.step}" + (f", attempt {status.attempt}" if status.attempt else ""))
        if status.seconds_left is not None:
            parts.append(f"{status.seconds_left:.0f} s left to approve")
        if status.last_failure or status.last_error:
            parts.append(f"last failure: {status.last_failure or status.last_error}")
        # The clock is not announced: a screen reader would read it out every second, and never anything else.
        self.detail.value = _note(" · ".join(parts) or "\xa0", role="none")


def _dot(text: str, colour: str | None, reached: bool) -> str:
    if colour:
        paint = f"background:{colour};color:{text_on(colour)};border-radius:9px;padding:1px 9px"
        return f'<span aria-current="step" style="{paint}"><b>{text}</b></span>'
    shade = "1" if reached else "3"
    return f'<span style="color:var(--jp-content-font-color{shade})">{text}</span>'


def _note(text: str, role: str = "status") -> str:
    return f'<span role="{role}" style="color:var(--jp-content-font-color2)">{html.escape(text)}</span>'


def _warning(text: str) -> str:
    edge = f"border-left:4px solid {STATES['FAILED']};padding-left:6px"
    return f'<span role="alert" style="{edge};color:var(--jp-content-font-color1)">{html.escape(text)}</span>'


def panel(session: Session, order_id: str) -> OrderPanel:
    """Buttons and live state for one order."""
    return OrderPanel(session, order_id)

"""One order under one's hands: its path, its clock, and the buttons that steer it.

Callbacks never print, never touch a loop and never wait: they hand work to the engine, and the engine sets traits.
"""

from __future__ import annotations

import asyncio
import html
from collections.abc import Coroutine
from typing import Any

import ipywidgets as w  # type: ignore[import-untyped]

from trellis.errors import TrellisError
from trellis.insight.colours import STATES
from trellis.lab.session import Session
from trellis.model import State

_PATH = [
    ("ORDER_RECEIVED", "received"),
    ("ORDER_VALIDATED", "validated"),
    ("AWAITING_APPROVAL", "review"),
    ("PAYMENT_CHARGED", "charged"),
    ("SHIPPING", "shipping"),
    ("SHIPPED", "shipped"),
    ("COMPLETED", "completed"),
]
BEAT = 0.15


class OrderPanel(w.VBox):  # type: ignore[misc]
    """Approve, Cancel and Change address for one order, with its state as it changes."""

    def __init__(self, session: Session, order_id: str) -> None:
        self.session = session
        self.order_id = order_id
        self.state: str | None = None
        self.path = w.HTML()
        self.detail = w.HTML()
        self.approve = self._button("Approve", "success", "End the review: the order is charged and shipped")
        self.cancel = self._button("Cancel", "danger", "Cancel the order; what was charged is refunded")
        self.address = w.Text(
            placeholder="new street and number", description="Address", layout=w.Layout(width="300px")
        )
        self.change = self._button("Change address", "", "Send the parcel to the address on the left")
        self.answer = w.HTML()
        self.approve.on_click(lambda _: self._ask("Approve", session.desk.approve(order_id)))
        self.cancel.on_click(lambda _: self._ask("Cancel", session.desk.cancel(order_id, "by button")))
        self.change.on_click(
            lambda _: self._ask("Change address", session.desk.update_address(order_id, {"line1": self.address.value}))
        )
        row = w.HBox([self.approve, self.cancel, self.address, self.change], layout=w.Layout(flex_flow="row wrap"))
        super().__init__([self.path, self.detail, row, self.answer])
        # A strong reference: a task that nobody holds may be collected while it runs.
        self._following = session.submit(self._follow())

    @staticmethod
    def _button(text: str, style: str, tip: str) -> w.Button:
        return w.Button(description=text, button_style=style, tooltip=tip, layout=w.Layout(width="130px"))

    def _ask(self, name: str, request: Coroutine[Any, Any, Any]) -> None:
        # Disabled until the verdict is there: a double click is one request.
        buttons = [self.approve, self.cancel, self.change]
        for button in buttons:
            button.disabled = True
        self.answer.value = _note(f"{name}: asking …")

        async def work() -> None:
            try:
                receipt = await request
                note = f" ({receipt.reason})" if receipt.reason else ""
                self.answer.value = _note(f"{name}: {receipt.verdict}{note}")
            except TrellisError as refused:
                self.answer.value = _note(str(refused), STATES["FAILED"])
            except Exception as error:
                self.answer.value = _note(f"{name} failed: {error}", STATES["FAILED"])
            finally:
                self._enable(None)

        self.session.submit(work())

    def _enable(self, status: dict[str, Any] | None) -> None:
        over = self.state is not None and State(self.state).terminal
        self.approve.disabled = over
        self.cancel.disabled = over if status is None else not status["can_cancel"]
        self.change.disabled = over if status is None else not status["can_update_address"]

    async def _follow(self) -> None:
        while True:
            try:
                status = await self.session.desk.status(self.order_id)
                if str(status["state"]) != self.state:
                    self.state = str(status["state"])
                    self._enable(status)
                self._draw(status)
                if State(self.state).terminal:
                    return
                await asyncio.sleep(BEAT)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.detail.value = _note(f"Disconnected, trying again ({error}).", STATES["FAILED"])
                await asyncio.sleep(1)

    def _draw(self, status: dict[str, Any]) -> None:
        state = str(status["state"])
        names = [name for name, _ in _PATH]
        reached = names.index(state) if state in names else -1
        dots = [_dot(text, STATES[state] if n == reached else None, n <= reached) for n, (_, text) in enumerate(_PATH)]
        if reached < 0:
            dots = [_dot(state.lower().replace("_", " "), STATES[state], True)]
        self.path.value = (
            f'<div role="status" aria-label="Order {html.escape(self.order_id)} is {state}" '
            f'style="color:var(--jp-content-font-color1)"><b>{html.escape(self.order_id)}</b> &nbsp; '
            + " &rsaquo; ".join(dots)
            + "</div>"
        )
        parts = []
        if status["step"]:
            step = html.escape(str(status["step"]))
            parts.append(f"now: {step}" + (f", attempt {status['attempt']}" if status["attempt"] else ""))
        if status["seconds_left"] is not None:
            parts.append(f"{status['seconds_left']:.0f} s left to approve")
        if status["last_failure"] or status["last_error"]:
            parts.append(f"last failure: {html.escape(str(status['last_failure'] or status['last_error']))}")
        self.detail.value = _note(" · ".join(parts) or "&nbsp;")


def _dot(text: str, colour: str | None, reached: bool) -> str:
    if colour:
        return f'<span style="background:{colour};color:#fff;border-radius:9px;padding:1px 9px"><b>{text}</b></span>'
    shade = "1" if reached else "3"
    return f'<span style="color:var(--jp-content-font-color{shade})">{text}</span>'


def _note(text: str, colour: str = "var(--jp-content-font-color2)") -> str:
    return f'<span role="status" style="color:{colour}">{text}</span>'


def panel(session: Session, order_id: str) -> OrderPanel:
    """Buttons and live state for one order."""
    return OrderPanel(session, order_id)

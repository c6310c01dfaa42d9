"""Lines of the board of orders as plain JSON values. Times are milliseconds since the epoch, or None."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from trellis import model
from trellis.db.board import View
from trellis.db.rows import BoardRow, TimelineRow
from trellis.model import ATTEMPTS, REVIEW, STATE_AFTER, STEPS, EventType, State, Step
from trellis.rules import next_step, permissions


def _short(state: State) -> str:
    return REVIEW if state is State.AWAITING_APPROVAL else state.removeprefix("ORDER_").removeprefix("PAYMENT_").lower()


PATH = tuple((str(state), _short(state)) for state in model.PATH)
"""The states of an order that goes well, and a short word for each."""

_REACHED: dict[str | None, int] = {state: index for index, state in enumerate(model.PATH)}


def millis(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp() * 1000)


def at(row: BoardRow) -> tuple[str | None, int | None]:
    """(step, attempt) at which the order is, by its last event. attempt is None where no outside system is called."""
    last = row.last_type
    step = next_step(row.state, closing=row.closing_at is not None, last=last, last_step=row.last_step)
    if step is None or step == REVIEW or not STEPS[Step(step)].calls_out:
        return step, None
    return step, (row.last_attempt or 0) + 1 if last in ATTEMPTS else 1


def line(row: BoardRow) -> dict[str, Any]:
    """One line of the board: the values that are drawn for an order, and the requests that are still possible."""
    state = row.state
    ended = state is not None and State(state).terminal
    step, attempt = at(row)
    reviewed = step == REVIEW and row.last_type == EventType.AWAITING_APPROVAL
    may = permissions(state, claimed=row.claimed_at is not None, closing=row.closing_at is not None, step=step)
    reached = STATE_AFTER[EventType(row.furthest)] if row.furthest else state
    return {
        "id": row.id,
        "state": state,
        "reached": _REACHED.get(reached, -1),
        "step": step,
        "attempt": attempt,
        "policy": row.policy,
        "total": None if row.total is None else str(row.total),
        "address": address_line(row.address_json),
        "created": millis(row.created_at),
        "ended": millis(row.last_ts) if ended else None,
        "deadline": (millis(row.last_ts) or 0) + int((row.review_window or 0) * 1000) if reviewed else None,
        "error": row.last_error or (None if state == State.COMPLETED else row.last_failure),
        "can_approve": may.approve,
        "can_cancel": may.cancel,
        "can_update_address": may.update_address,
        "event": row.event or 0,
        "event_at": millis(row.event_ts),
    }


def address_line(address: dict[str, str] | None) -> str:
    parts = (address or {}).get
    return ", ".join(filter(None, (parts(name) for name in ("line1", "city", "state", "zip", "country"))))


def belongs(view: View, row: dict[str, Any]) -> bool:
    """Whether a line passes the page's filter. An order that starts counts as received."""
    state = row["state"] or State.ORDER_RECEIVED
    return (not view.states or state in view.states) and row["id"].startswith(view.prefix)


def place(view: View, row: dict[str, Any]) -> tuple[Any, ...]:
    """Sorting by this puts the lines in the page's order."""
    # Newest first. Orders of the same moment are sorted by id, descending, as in the database.
    return (row["id"],) if view.prefix else (-(row["created"] or 0), [-ord(char) for char in row["id"]])


def timeline(order_id: str, events: list[TimelineRow], link: str | None, full: int) -> dict[str, Any]:
    """The attempts of one order as bars, and its other events as marks. `cut`: older attempts are left out."""
    bars = []
    for event in events:
        if event.attempt is None:
            continue
        start = event.started_at or event.ts
        bars.append(
            {
                "step": event.step, "attempt": event.attempt, "round": event.round, "lane": event.lane,
                "outcome": ATTEMPTS.get(EventType(event.type), "succeeded"), "error": event.error,
                "from": start.timestamp() * 1000, "to": start.timestamp() * 1000 + (event.duration_ms or 0),
            }
        )  # fmt: skip
    marks = [
        {"type": event.type, "at": event.ts.timestamp() * 1000, "reason": event.error}
        for event in events
        if event.type not in ATTEMPTS
    ]
    # A round of shipping that failed is followed by another one.
    round_ = 1 + sum(mark["type"] == EventType.DISPATCH_FAILED for mark in marks)
    return {"id": order_id, "bars": bars, "marks": marks, "round": round_, "link": link, "cut": len(events) >= full}

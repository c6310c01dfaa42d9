"""What the board shows, as plain JSON values: times in milliseconds since the epoch, None where there is nothing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from trellis.db.board import View
from trellis.db.ledger import Row
from trellis.model import State

PATH = (
    ("ORDER_RECEIVED", "received"),
    ("ORDER_VALIDATED", "validated"),
    ("AWAITING_APPROVAL", "review"),
    ("PAYMENT_CHARGED", "charged"),
    ("SHIPPING", "shipping"),
    ("SHIPPED", "shipped"),
    ("COMPLETED", "completed"),
)
"""The way of an order that goes well, and the short word for each state on it."""

_REACHED = {state: index for index, (state, _) in enumerate(PATH)} | {"SHIPPING_STARTED": 4}

_NEXT = {
    "ORDER_RECEIVED": "validate",
    "ORDER_VALIDATED": "review",
    "AWAITING_APPROVAL": "review",
    "ORDER_APPROVED": "charge",
    "PAYMENT_CHARGED": "prepare",
    "SHIPPING_STARTED": "prepare",
    "DISPATCH_FAILED": "prepare",
    "PACKAGE_PREPARED": "dispatch",
    "CARRIER_DISPATCHED": "ship",
    "ORDER_SHIPPED": "complete",
}

_OUTCOMES = {"ATTEMPT_FAILED": "failed", "ATTEMPT_TIMED_OUT": "timed out", "ATTEMPT_ABANDONED": "abandoned"}


def millis(when: datetime | None) -> int | None:
    return None if when is None else int(when.timestamp() * 1000)


def doing(row: Row) -> tuple[str | None, int | None]:
    """(step, attempt) that the order is at, by its last event; attempt None where no outside call is made."""
    if row["state"] is not None and State(row["state"]).terminal:
        return None, None
    last, at, number = row["last_type"], row["last_step"], row["last_attempt"]
    if last is not None and last.startswith("ATTEMPT_"):
        return at, (number or 0) + 1
    if row["closing_at"] is not None:
        return "refund", 1
    step = _NEXT.get(last or "", "receive")
    return step, None if step in ("review", "complete") else 1


def seen(row: Row) -> dict[str, Any]:
    """One line of the board: what is drawn of an order, and what may still be asked of it."""
    state = row["state"]
    ended = state is not None and State(state).terminal
    step, attempt = doing(row)
    reviewed = step == "review" and row["last_type"] == "AWAITING_APPROVAL"
    open_ = not ended and row["claimed_at"] is None and row["closing_at"] is None
    return {
        "id": row["id"],
        "state": state,
        "reached": _REACHED.get(row["furthest"] or state or "", -1),
        "step": step,
        "attempt": attempt,
        "policy": row["policy"],
        "total": None if row["total"] is None else str(row["total"]),
        "address": address_line(row["address_json"]),
        "created": millis(row["created_at"]),
        "ended": millis(row["last_ts"]) if ended else None,
        "deadline": (millis(row["last_ts"]) or 0) + int(row["review_window"] * 1000) if reviewed else None,
        "error": row["last_error"] or (None if state == "COMPLETED" else row["last_failure"]),
        "can_approve": open_ and state in (None, "ORDER_RECEIVED", "ORDER_VALIDATED", "AWAITING_APPROVAL")
        and step not in ("charge", "refund"),
        "open": open_,
        "event": row["event"] or 0,
        "event_at": millis(row["event_ts"]),
    }  # fmt: skip


def address_line(address: dict[str, str] | None) -> str:
    parts = (address or {}).get
    return ", ".join(filter(None, (parts(name) for name in ("line1", "city", "state", "zip", "country"))))


def belongs(view: View, row: dict[str, Any]) -> bool:
    """Whether a line is one that the page's filter lets through; an order that starts is on its way to received."""
    state = row["state"] or State.ORDER_RECEIVED
    return (not view.states or state in view.states) and row["id"].startswith(view.prefix)


def place(view: View, row: dict[str, Any]) -> tuple[Any, ...]:
    """Sorting by this puts the lines in the page's order."""
    # Newest first; ids of one moment in descending order, as the database has them.
    return (row["id"],) if view.prefix else (-(row["created"] or 0), [-ord(char) for char in row["id"]])


def timeline(order_id: str, events: list[Row], link: str | None, full: int) -> dict[str, Any]:
    """The tries of one order as bars, and what they led to as marks."""
    bars = []
    for event in events:
        if event["attempt"] is None:
            continue
        start = event["started_at"] or event["ts"]
        bars.append(
            {
                "step": event["step"], "attempt": event["attempt"], "round": event["round"], "lane": event["lane"],
                "outcome": _OUTCOMES.get(event["type"], "succeeded"), "error": event["error"],
                "from": start.timestamp() * 1000, "to": start.timestamp() * 1000 + (event["duration_ms"] or 0),
            }
        )  # fmt: skip
    marks = [
        {"type": event["type"], "at": event["ts"].timestamp() * 1000, "reason": event["error"]}
        for event in events
        if event["type"] not in _OUTCOMES
    ]
    return {"id": order_id, "bars": bars, "marks": marks, "link": link, "cut": len(events) >= full}

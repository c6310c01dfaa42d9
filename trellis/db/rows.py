"""The rows of the ledger as frozen values. A field has its column's name; `try_` is the column `try`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from trellis.model import Address, Item, Order, State


class Record:
    """A frozen dataclass whose fields can also be read as in a mapping: `row["state"]`. Notebooks do that."""

    def __getitem__(self, name: str) -> Any:
        found = self._fields().get(name)
        if found is None:
            raise KeyError(name)
        return getattr(self, found)

    def keys(self) -> Iterable[str]:
        """The names, in order: with them `dict(row)` works."""
        return self._fields()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: times as ISO 8601 text, money and ids as text, parts as objects and lists."""
        return {name: to_json(self[name]) for name in self.keys()}

    def _fields(self) -> dict[str, str]:
        # If a column's name is a keyword of Python, the field's name ends in an underscore.
        return {field.name.rstrip("_"): field.name for field in fields(self)}  # type: ignore[arg-type]


def to_json(value: object) -> Any:
    """A value and its parts as plain JSON values."""
    if isinstance(value, Record):
        return value.to_json()
    if isinstance(value, dict):
        return {key: to_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str | int | float | None) else str(value)


@dataclass(frozen=True)
class PaymentRow(Record):
    """`status` is PENDING, CHARGED, REFUNDED or FAILED. `amount` is for display; the database does the sums."""

    payment_id: str
    order_id: str
    status: str
    amount: float
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class ShipmentRow(Record):
    """One round of shipping. `status` is PREPARED, DISPATCHED or FAILED."""

    id: int
    order_id: str
    round: int
    status: str
    tracking: str | None
    payload_json: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class OrderRow(Record):
    """An order with its payment and its shipments by round.

    `claimed_at`: when a dispatch claimed the order. `closing_at`: when its undoing began; `ending`, `ending_reason` and
    `ending_request` say how it ends, why, and by which request. `reconciled`: `trellis reconcile` ended the order.
    """

    id: str
    state: State
    total: Decimal
    items_json: list[dict[str, Any]]
    address_json: dict[str, str] | None
    policy_json: dict[str, Any]
    fingerprint: str
    last_error: str | None
    claimed_at: datetime | None
    closing_at: datetime | None
    reconciled: bool
    ending: State | None
    ending_reason: str | None
    ending_request: str | None
    created_at: datetime
    updated_at: datetime
    payment: PaymentRow | None
    shipments: tuple[ShipmentRow, ...]

    def order(self) -> Order:
        """The order as it was started, with its present address."""
        return Order(
            self.id,
            self.payment.payment_id if self.payment else "",
            Address(**self.address_json) if self.address_json else None,
            tuple(Item(**item) for item in self.items_json),
        )


@dataclass(frozen=True)
class OrderLine(Record):
    """An order in a list."""

    id: str
    state: str
    total: Decimal
    last_error: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class EventRow(Record):
    """A line of the log. `attempt`, `round`, `execution`, `try_` and `started_at` are those of a try, else None."""

    id: int
    event_id: UUID
    order_id: str
    type: str
    step: str | None
    attempt: int | None
    round: int | None
    execution: int | None
    try_: int | None
    started_at: datetime | None
    duration_ms: float | None
    worker: str | None
    payload_json: dict[str, Any]
    ts: datetime


@dataclass(frozen=True)
class BoardRow(Record):
    """An order as a board shows it. If nothing is written of the order yet, all but the id are None.

    `event`, `event_ts`: its newest event. `last_*`: its newest event that is not a request's. `furthest`: for an
    order that did not complete, the last event on the way to completion.
    """

    id: str
    state: str | None = None
    total: Decimal | None = None
    address_json: dict[str, str] | None = None
    last_error: str | None = None
    claimed_at: datetime | None = None
    closing_at: datetime | None = None
    created_at: datetime | None = None
    policy: str | None = None
    review_window: float | None = None
    event: int | None = None
    event_ts: datetime | None = None
    last_type: str | None = None
    last_step: str | None = None
    last_attempt: int | None = None
    last_ts: datetime | None = None
    last_failure: str | None = None
    furthest: str | None = None


@dataclass(frozen=True)
class TimelineRow(Record):
    """An event as a timeline shows it. `error` is the error of a try, or the reason of another event."""

    id: int
    type: str
    step: str | None
    attempt: int | None
    round: int | None
    started_at: datetime | None
    duration_ms: float | None
    ts: datetime
    lane: str | None
    error: str | None


@dataclass(frozen=True)
class FindingRow(Record):
    """An order, the invariant that it breaks (1 to 11), what is wrong in words, and the figures behind it."""

    order_id: str
    invariant: int
    sentence: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class AuditedRow(Record):
    """What the audit compares a history with.

    `unchanged`: seconds since the row last changed. `events`: {type, round, request_id} of all events but failed tries.
    """

    state: str
    reconciled: bool
    ending: str | None
    unchanged: float
    events: list[dict[str, Any]]


def read_order(**columns: Any) -> OrderRow:
    """A row of `Ledger.order`. Payment and shipments come as JSON, whose times are text."""
    payment, shipments, ending = columns.pop("payment"), columns.pop("shipments"), columns.pop("ending")
    return OrderRow(
        **columns | {"state": State(columns["state"])},
        ending=State(ending) if ending else None,
        payment=PaymentRow(**_timed(payment)) if payment else None,
        shipments=tuple(ShipmentRow(**_timed(shipment)) for shipment in shipments),
    )


def _timed(part: dict[str, Any]) -> dict[str, Any]:
    return {name: datetime.fromisoformat(value) if name.endswith("_at") else value for name, value in part.items()}

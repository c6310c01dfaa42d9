"""The words: orders, money, addresses, states, steps and events. Imports nothing but the standard library.

Money is an integer number of cents everywhere in Python; only the ledger's columns are decimal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import uuid
from dataclasses import asdict, dataclass
from enum import StrEnum

_NAMESPACE = uuid.UUID("6f0d2f4e-6f0c-4a37-9c3e-7a1f2f0f8a11")


class State(StrEnum):
    ORDER_RECEIVED = "ORDER_RECEIVED"
    ORDER_VALIDATED = "ORDER_VALIDATED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    PAYMENT_CHARGED = "PAYMENT_CHARGED"
    SHIPPING = "SHIPPING"
    SHIPPED = "SHIPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    APPROVAL_TIMEOUT = "APPROVAL_TIMEOUT"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED, State.APPROVAL_TIMEOUT})

_PATH = (
    State.ORDER_RECEIVED,
    State.ORDER_VALIDATED,
    State.AWAITING_APPROVAL,
    State.PAYMENT_CHARGED,
    State.SHIPPING,
    State.SHIPPED,
    State.COMPLETED,
)
EDGES: frozenset[tuple[State, State]] = frozenset(
    [
        *itertools.pairwise(_PATH),
        (State.AWAITING_APPROVAL, State.APPROVAL_TIMEOUT),
        *((state, end) for state in _PATH[:5] for end in (State.FAILED, State.CANCELLED)),
    ]
)
"""Legal edges. Once a parcel is on its way (SHIPPED) an order can only be completed."""


class Step(StrEnum):
    """One unit of work done by one activity; the second group touches the ledger alone."""

    RECEIVE = "receive"
    VALIDATE = "validate"
    CHARGE = "charge"
    PREPARE = "prepare"
    DISPATCH = "dispatch"
    SHIP = "ship"
    REFUND = "refund"

    APPROVE = "approve"
    UPDATE_ADDRESS = "update_address"
    COMPLETE = "complete"
    CANCEL = "cancel"
    FAIL = "fail"

    @property
    def outside(self) -> bool:
        return self in OUTSIDE_STEPS


OUTSIDE_STEPS = (Step.RECEIVE, Step.VALIDATE, Step.CHARGE, Step.PREPARE, Step.DISPATCH, Step.SHIP, Step.REFUND)


class EventType(StrEnum):
    ORDER_RECEIVED = "ORDER_RECEIVED"
    ORDER_VALIDATED = "ORDER_VALIDATED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    ORDER_APPROVED = "ORDER_APPROVED"
    APPROVAL_TIMEOUT = "APPROVAL_TIMEOUT"
    PAYMENT_CHARGED = "PAYMENT_CHARGED"
    PAYMENT_FAILED = "PAYMENT_FAILED"
    PAYMENT_REFUNDED = "PAYMENT_REFUNDED"
    ADDRESS_UPDATED = "ADDRESS_UPDATED"
    SHIPPING_STARTED = "SHIPPING_STARTED"
    PACKAGE_PREPARED = "PACKAGE_PREPARED"
    CARRIER_DISPATCHED = "CARRIER_DISPATCHED"
    DISPATCH_FAILED = "DISPATCH_FAILED"
    ORDER_SHIPPED = "ORDER_SHIPPED"
    ORDER_COMPLETED = "ORDER_COMPLETED"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    ORDER_FAILED = "ORDER_FAILED"
    REQUEST_REFUSED = "REQUEST_REFUSED"
    ATTEMPT_FAILED = "ATTEMPT_FAILED"
    ATTEMPT_TIMED_OUT = "ATTEMPT_TIMED_OUT"
    ATTEMPT_ABANDONED = "ATTEMPT_ABANDONED"


@dataclass(frozen=True)
class Item:
    """sku, quantity >= 1, unit price in cents >= 0."""

    sku: str
    quantity: int = 1
    price_cents: int = 0


@dataclass(frozen=True)
class Address:
    line1: str
    city: str = ""
    state: str = ""
    zip: str = ""
    country: str = ""


@dataclass(frozen=True)
class Order:
    order_id: str
    payment_id: str
    address: Address | None = None
    items: tuple[Item, ...] = ()

    @property
    def total_cents(self) -> int:
        return sum(item.quantity * item.price_cents for item in self.items)

    def fingerprint(self) -> str:
        """SHA-256 of the normalised order: two starts of one id are the same start if these agree."""
        body = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(body.encode()).hexdigest()


def workflow_id(order_id: str) -> str:
    return f"order-{order_id}"


def shipping_workflow_id(order_id: str, round_: int) -> str:
    return f"shipping-{order_id}-{round_}"


def charge_key(payment_id: str) -> str:
    return f"charge:{payment_id}"


def dispatch_key(order_id: str) -> str:
    return f"dispatch:{order_id}"


def event_id(*cause: object) -> uuid.UUID:
    """The id of the event that `cause` brings about: the same cause gives the same id, and so one row."""
    return uuid.uuid5(_NAMESPACE, "\x1f".join(str(part) for part in cause))


@dataclass(frozen=True)
class TryId:
    """Identity of one call of a step's outside system. `lane` tells hedged tries apart."""

    order_id: str
    step: str
    round: int
    execution: int
    try_: int
    lane: int = 0

    @property
    def event_id(self) -> uuid.UUID:
        return event_id("try", self.order_id, self.step, self.round, self.execution, self.lane, self.try_)

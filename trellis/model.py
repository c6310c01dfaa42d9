"""The words: orders, money, addresses, states, steps and events. Imports nothing but the standard library.

Money is an integer number of cents everywhere in Python; only the ledger's columns are decimal.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import uuid
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from trellis.errors import BadInput

MAX_TOTAL_CENTS = 9_999_999_999
MAX_TOTAL = Decimal(MAX_TOTAL_CENTS) / 100
MAX_ITEMS = 500
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PRICE_PATTERN = re.compile(r"-?[0-9]+(\.[0-9]+)?")
NOT_IN_TEXT = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
"""Between the brackets of a regular expression: control characters, line separators, overrides of the text's direction.

A terminal obeys the first, and the last have a page show letters in another order than they are stored in.
"""
_NOT_IN_TEXT = re.compile(rf"[{NOT_IN_TEXT}\ud800-\udfff]")
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


# --- reading what people send -----------------------------------------------------------------------------


def parse_id(value: object, what: str = "order id") -> str:
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise BadInput(
            f"The {what} must be 1 to 64 letters, digits, dots, dashes or underscores, "
            f"and begin with a letter or digit."
        )
    return value


def parse_cents(value: object, what: str = "price") -> int:
    """A price such as 12, "12.50" or 12.5 in cents. Raises BadInput for NaN, negatives and a third decimal.

    As text it is plain digits with a point: Decimal would also take "1_000", and the digits of all alphabets.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise BadInput(f"The {what} must be a number, such as 12.50.")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"The {what} must be a finite number, such as 12.50.")
    try:
        if isinstance(value, str) and (len(value) > 32 or not PRICE_PATTERN.fullmatch(value.strip())):
            raise InvalidOperation
        amount = Decimal(str(value)) if not isinstance(value, int) or abs(value) < 10**15 else Decimal("1e15")
    except InvalidOperation:
        raise BadInput(f"The {what} must be a number, such as 12.50.") from None
    if not amount.is_finite():
        raise BadInput(f"The {what} must be a finite number, such as 12.50.")
    if amount < 0:
        raise BadInput(f"The {what} must not be negative.")
    # Compared before any arithmetic: 1e999999 overflows when multiplied, 1e-999999 silently becomes nothing.
    if amount > MAX_TOTAL:
        raise BadInput(f"The {what} must be at most 99,999,999.99.")
    rounded = amount.quantize(Decimal("0.01"))
    if amount != rounded:
        raise BadInput(f"The {what} must have at most two decimals.")
    return int(rounded * 100)


def _text(value: object, what: str, limit: int = 200) -> str:
    if not isinstance(value, str):
        raise BadInput(f"The {what} must be text.")
    text = value.strip()
    if len(text) > limit:
        raise BadInput(f"The {what} must be at most {limit} characters long.")
    if _NOT_IN_TEXT.search(text):
        raise BadInput(f"The {what} must not contain control characters or marks that turn the text's direction.")
    return text


def _only(raw: dict[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(str(key) for key in raw if key not in known)
    if unknown:
        raise BadInput(f"The {what} has an unknown field {unknown[0][:40]!r}. Known are {', '.join(sorted(known))}.")


def parse_reason(value: object) -> str:
    return _text("" if value is None else value, "reason", 500)


def parse_address(raw: object) -> Address:
    """An address from a mapping: `line1` (or `street`) is needed; city, state, zip, country are not.

    The mapping may also be wrapped, as `{"address": {...}}`.
    """
    if isinstance(raw, Address):
        raw = asdict(raw)
    if isinstance(raw, dict) and raw.keys() == {"address"}:
        raw = raw["address"]
    if not isinstance(raw, dict):
        raise BadInput("The address must be an object with at least line1.")
    _only(raw, {"line1", "street", "city", "state", "zip", "country"}, "address")
    if "line1" in raw and "street" in raw:
        raise BadInput("The address must give line1 or street, not both.")
    line1 = _text(raw.get("line1", raw.get("street", "")), "address's line1")
    if not line1:
        raise BadInput("The address must have a line1 (street and number).")
    rest = {
        name: _text("" if raw.get(name) is None else raw[name], f"address's {name}")
        for name in ("city", "state", "zip", "country")
        if name in raw
    }
    return Address(line1, **rest)


def parse_item(raw: object) -> Item:
    if isinstance(raw, Item):
        raw = {"sku": raw.sku, "quantity": raw.quantity, "price": Decimal(raw.price_cents) / 100}
    if not isinstance(raw, dict):
        raise BadInput("Each item must be an object with sku, quantity and price.")
    _only(raw, {"sku", "name", "quantity", "qty", "price"}, "item")
    for one, other in (("sku", "name"), ("quantity", "qty")):
        if one in raw and other in raw:
            raise BadInput(f"An item must give {one} or {other}, not both.")
    sku = _text(raw.get("sku", raw.get("name", "")), "item's sku")
    if not sku:
        raise BadInput("Each item must have a sku (or name).")
    quantity = raw.get("quantity", raw.get("qty", 1))
    if isinstance(quantity, bool) or not isinstance(quantity, int) or not 1 <= quantity <= 1_000_000:
        raise BadInput("The quantity must be a whole number from 1 to 1,000,000.")
    return Item(sku, quantity, parse_cents(raw.get("price", 0)))


def parse_start(order_id: object, body: object) -> Order:
    """An order from a start's body: payment_id, and perhaps items and address. Raises BadInput."""
    if not isinstance(body, dict):
        raise BadInput("The body must be an object with at least a payment_id.")
    _only(body, {"payment_id", "items", "address"}, "body")
    if "payment_id" not in body:
        raise BadInput("The body must have a payment_id.")
    return parse_order(order_id, body["payment_id"], body.get("items"), body.get("address"))


def parse_approve(body: object) -> None:
    """An approval says nothing: no body, or an empty object. Raises BadInput."""
    if body is not None and body != {}:
        raise BadInput("An approval has no body, or an empty object.")


def parse_cancel(body: object) -> str:
    """The reason in a cancel's body, which may be none, `{}` or `{"reason": ...}`. Raises BadInput."""
    if body is None:
        return ""
    if not isinstance(body, dict):
        raise BadInput("The body must be an object, such as {} or one with a reason.")
    _only(body, {"reason"}, "body")
    return parse_reason(body.get("reason"))


def parse_order(order_id: object, payment_id: object, items: object = (), address: object = None) -> Order:
    """An order from what people send. Raises BadInput, with a sentence that names the field."""
    items = () if items is None else items
    if not isinstance(items, list | tuple):
        raise BadInput("The items must be a list.")
    if len(items) > MAX_ITEMS:
        raise BadInput(f"An order must have at most {MAX_ITEMS} items.")
    order = Order(
        parse_id(order_id),
        parse_id(payment_id, "payment id"),
        None if address is None else parse_address(address),
        tuple(parse_item(item) for item in items),
    )
    if order.total_cents > MAX_TOTAL_CENTS:
        raise BadInput("The order's total must be at most 99,999,999.99.")
    return order

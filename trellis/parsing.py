"""Reading what people send: ids, prices, addresses, items and orders. Every refusal is a BadInput with one sentence."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Any

from trellis.errors import BadInput
from trellis.model import Address, Item, Order

MAX_TOTAL_CENTS = 9_999_999_999
MAX_TOTAL = Decimal(MAX_TOTAL_CENTS) / 100
MAX_ITEMS = 500
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PRICE_PATTERN = re.compile(r"-?[0-9]+(\.[0-9]+)?")
NOT_IN_TEXT = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
"""Characters that no text may hold: control characters, line separators, and marks that change the text's direction.

Written for use between the brackets of a regular expression. A terminal obeys control characters, and a direction mark
makes a page show the letters in another order than they are stored.
"""
_NOT_IN_TEXT = re.compile(rf"[{NOT_IN_TEXT}\ud800-\udfff]")


def read_json(body: bytes, what: str = "body") -> object:
    """The JSON value in `body`; None for an empty one. Raises BadInput for what JSON (RFC 8259) does not allow."""
    if not body.strip():
        return None
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"The {what} must be JSON in UTF-8.") from None
    try:
        # Decimal keeps 0.1 exact and can hold 1e400. A float would round 0.1 and turn 1e400 into infinity.
        value: object = json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise BadInput(f"The {what} is nested too deeply.") from None
    except InvalidOperation:
        raise BadInput(f"The {what} has a number that is too large.") from None
    except ValueError:
        raise BadInput(f"The {what} must be JSON.") from None
    return value


def _no_constant(name: str) -> object:
    raise BadInput(f"JSON has no {name}: numbers must be finite.")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Parsers disagree on which of the two values counts, and the field may be a price.
        raise BadInput("A field is named twice.")
    return found


def parse_id(value: object, what: str = "order id") -> str:
    if not isinstance(value, str) or not ID_PATTERN.fullmatch(value):
        raise BadInput(
            f"The {what} must be 1 to 64 letters, digits, dots, dashes or underscores, "
            f"and begin with a letter or digit."
        )
    return value


def parse_cents(value: object, what: str = "price") -> int:
    """A price such as 12, "12.50" or 12.5 in cents. Raises BadInput for NaN, negatives and a third decimal.

    Text must be plain digits with a point: Decimal alone would also take "1_000", and the digits of all alphabets.
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
    # Compare before any arithmetic: 1e999999 overflows when it is multiplied, and 1e-999999 silently becomes 0.
    if amount > MAX_TOTAL:
        raise BadInput(f"The {what} must be at most 99,999,999.99.")
    rounded = amount.quantize(Decimal("0.01"))
    if amount != rounded:
        raise BadInput(f"The {what} must have at most two decimals.")
    return int(rounded * 100)


def parse_text(value: object, what: str, limit: int = 200) -> str:
    """Text without white space at its ends. Raises BadInput for control characters, and above `limit` characters."""
    if not isinstance(value, str):
        raise BadInput(f"The {what} must be text.")
    text = value.strip()
    if len(text) > limit:
        raise BadInput(f"The {what} must be at most {limit} characters long.")
    if _NOT_IN_TEXT.search(text):
        raise BadInput(f"The {what} must not contain control characters or marks that change the text's direction.")
    return text


def _only(raw: dict[str, Any], known: set[str], what: str) -> None:
    unknown = sorted(str(key) for key in raw if key not in known)
    if unknown:
        raise BadInput(f"The {what} has an unknown field {unknown[0][:40]!r}. Known are {', '.join(sorted(known))}.")


def parse_reason(value: object) -> str:
    return parse_text("" if value is None else value, "reason", 500)


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
    line1 = parse_text(raw.get("line1", raw.get("street", "")), "address's line1")
    if not line1:
        raise BadInput("The address must have a line1 (street and number).")
    rest = {
        name: parse_text("" if raw.get(name) is None else raw[name], f"address's {name}")
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
    sku = parse_text(raw.get("sku", raw.get("name", "")), "item's sku")
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
    """Check the body of an approval, which must be absent or an empty object. Raises BadInput."""
    if body is not None and body != {}:
        raise BadInput("An approval must have no body, or an empty object.")


def parse_cancel(body: object) -> str:
    """The reason in a cancel's body, which may be absent, `{}` or `{"reason": ...}`. Raises BadInput."""
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

"""Reads what people send to an order through Temporal: the start's input, signals and updates.

Temporal's CLI and UI send whatever was typed, and the SDK drops a signal that it cannot decode. So workflows take
undecoded payloads and read them here. The audit reads histories with the same functions. They accept our own messages,
every form that the HTTP API accepts, and bare text where only one field is meant. Anything else raises BadInput.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from temporalio.converter import value_to_type

from trellis.errors import BadInput
from trellis.messages import Approve, Cancel, OrderInput, UpdateAddress
from trellis.parsing import parse_address, parse_order, parse_reason, parse_start, parse_text, read_json
from trellis.policies import read_policy

APPROVE, CANCEL, UPDATE_ADDRESS = "approve", "cancel", "update_address"

KINDS: Mapping[str, str] = {
    "approve": APPROVE,
    "approve_order": APPROVE,
    "cancel": CANCEL,
    "cancel_order": CANCEL,
    "update_address": UPDATE_ADDRESS,
}
"""What each signal and update asks for."""

DEFAULT_POLICY = "swift"
"""The policy of an order that somebody started by hand without a policy.

A workflow cannot read TRELLIS_POLICY: a replay may run in a process where it has another value.
"""

SHIPPING_QUEUE = "shipping-tq"

Request: TypeAlias = Approve | Cancel | UpdateAddress

_MESSAGES: dict[str, type[Request]] = {APPROVE: Approve, CANCEL: Cancel, UPDATE_ADDRESS: UpdateAddress}


class Payload(Protocol):
    """One argument as Temporal keeps it."""

    @property
    def metadata(self) -> Mapping[str, bytes]: ...
    @property
    def data(self) -> bytes: ...


@dataclass(frozen=True)
class NotOne:
    """Stands in for the payloads of a message that has more than one argument."""

    number: int


Given: TypeAlias = Sequence[Payload] | NotOne


def read_request(kind: str, given: Given) -> Request:
    """The message that a signal or update carries. Raises BadInput, with a sentence that says what is wrong."""
    value = _value(given)
    if kind == APPROVE:
        fields = _fields(value, "by", "approval")
        return Approve(_id(fields.get("request_id")), parse_text(fields.get("by") or "request", "approval's `by`"))
    if kind == CANCEL:
        fields = _fields(value, "reason", "cancel")
        return Cancel(_id(fields.get("request_id")), parse_reason(fields.get("reason")))
    request_id = ""
    if isinstance(value, dict) and "request_id" in value:
        request_id = _id(value["request_id"])
        value = {name: field for name, field in value.items() if name != "request_id"}
    return UpdateAddress(request_id, parse_address(value))


def read_request_as_before(kind: str, given: Given) -> Request | None:
    """Read a request as the first versions of Trellis did; None if they dropped it. Their open orders replay with
    this."""
    payloads = [] if isinstance(given, NotOne) else given
    try:
        value = _plain(payloads[0]) if payloads else None
        if value is None:
            return None if kind == UPDATE_ADDRESS else _MESSAGES[kind]()
        read: Request = value_to_type(_MESSAGES[kind], value)
        return read
    except Exception:
        return None


def read_text(given: Given) -> str:
    """One argument that is text. Raises BadInput."""
    value = _value(given)
    if not isinstance(value, str):
        raise BadInput("The argument must be text.")
    return value


def read_start(given: Given, workflow_id: str) -> OrderInput:
    """The order to run and its policy. Raises BadInput, with a sentence that says what is wrong.

    Takes `{"payment_id", "items", "address"}` as the HTTP API does, and these fields besides: `order_id` (else it is
    taken from the workflow's id), `policy` (a preset's name, or an object of fields), `shipping_queue`. Also takes our
    own OrderInput, as the desk sends it.
    """
    if is_our_own(given):
        return _read_our_own(_plain(_only(given)))
    value = _value(given)
    if not isinstance(value, dict):
        raise BadInput("The input must be an object with at least a payment_id.")
    body = dict(value)
    order_id = body.pop("order_id", workflow_id.removeprefix("order-"))
    policy = read_policy(body.pop("policy", None), DEFAULT_POLICY)
    queue = parse_text(body.pop("shipping_queue", None) or SHIPPING_QUEUE, "shipping_queue")
    return OrderInput(parse_start(order_id, body), policy, queue)


def read_start_as_before(given: Given) -> OrderInput | None:
    """What the first versions of Trellis made of a start: our own form, unchecked. None for every other one."""
    try:
        ours: Any = _plain(_only(given))
        read: OrderInput = value_to_type(OrderInput, {**ours, "policy": _our_policy(ours)})
    except Exception:
        return None
    return read


def _read_our_own(ours: Any) -> OrderInput:
    """OrderInput, checked like any other start: people write this form by hand, too. Raises BadInput."""
    raw = ours["order"]
    if not isinstance(raw, dict):
        raise BadInput("The order must be an object with at least an order_id and a payment_id.")
    policy = _our_policy(ours)
    items = raw.get("items")
    if isinstance(items, list):
        items = [_our_item(item) for item in items]
    order = parse_order(raw.get("order_id"), raw.get("payment_id"), items, raw.get("address"))
    try:
        read: OrderInput = value_to_type(
            OrderInput, {**ours, "order": {"order_id": "", "payment_id": ""}, "policy": policy}
        )
        read.policy.check()
    except Exception as error:
        raise BadInput(f"The order's input cannot be read: {error}") from None
    return replace(read, order=order)


def _our_policy(ours: dict[str, Any]) -> object:
    policy = ours.get("policy")
    return policy if isinstance(policy, dict) and "retry" in policy else asdict(read_policy(policy, DEFAULT_POLICY))


def _our_item(raw: object) -> object:
    if not isinstance(raw, dict) or "price_cents" not in raw:
        return raw
    rest = {name: value for name, value in raw.items() if name != "price_cents"}
    cents = raw["price_cents"]
    if not isinstance(cents, int):
        raise BadInput("The price_cents must be a whole number.")
    return {**rest, "price": Decimal(cents) / 100}


def is_our_own(given: Given) -> bool:
    """Whether a start has the form of OrderInput, as the desk sends it. Raises BadInput for what is not JSON."""
    value = _plain(_only(given))
    return isinstance(value, dict) and "order" in value


def _fields(value: object, field: str, what: str) -> Mapping[str, object]:
    """`field` and `request_id` of a message that may also be absent, empty, or the field's bare text."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {field: value}
    if not isinstance(value, dict):
        raise BadInput(f"The {what} must be empty, text, or an object such as {{}}.")
    unknown = [name for name in value if name not in (field, "request_id")]
    if unknown:
        raise BadInput(f"The {what} has an unknown field {unknown[0][:40]!r}. Known are {field}, request_id.")
    return value


def _id(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise BadInput("The request_id must be text.")
    return value or ""


def _only(given: Given) -> Payload | None:
    number = given.number if isinstance(given, NotOne) else len(given)
    if number > 1:
        raise BadInput(f"One argument is expected, and {number} were sent.")
    return None if isinstance(given, NotOne) or not given else given[0]


def _value(given: Given) -> object:
    """The JSON value of the one argument, read as strictly as a body of the HTTP API; None without an argument."""
    payload = _only(given)
    return None if payload is None or _is_null(payload) else read_json(payload.data, "argument")


def _plain(payload: Payload | None) -> object:
    """The JSON value as the SDK decodes it, with floats for numbers. Raises BadInput."""
    if payload is None or _is_null(payload):
        return None
    try:
        return json.loads(payload.data)
    except (ValueError, RecursionError):
        raise BadInput("The argument must be JSON.") from None


def _is_null(payload: Payload) -> bool:
    """Whether the argument is null. Raises BadInput for an encoding that is not JSON."""
    encoding = bytes(payload.metadata.get("encoding", b"")).decode("ascii", "replace")
    if encoding not in ("binary/null", "json/plain"):
        raise BadInput(f"The argument must be JSON, and this one is encoded as {encoding[:40] or 'nothing known'}.")
    return encoding == "binary/null"

"""The API's shapes, for its OpenAPI document. They parse nothing: `trellis/parsing.py` reads what people send."""

from __future__ import annotations

from dataclasses import is_dataclass
from datetime import datetime
from decimal import Decimal
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from trellis.model import State
from trellis.parsing import MAX_ITEMS, NOT_IN_TEXT
from trellis.policies import PRESETS
from trellis.status import OrderStatus

Json = dict[str, Any]

ID: Json = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", "examples": ["order-1"]}


def _text(limit: int, *, least: int = 0) -> Json:
    """Text without control characters. If it is needed, it must not be blank."""
    if least:
        return {
            "type": "string",
            "minLength": least,
            "maxLength": limit,
            "pattern": rf"^[^\s{NOT_IN_TEXT}][^{NOT_IN_TEXT}]*$",
        }
    return {"type": "string", "maxLength": limit, "pattern": f"^[^{NOT_IN_TEXT}]*$"}


def _object(properties: Json, required: list[str]) -> Json:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _either(one: str, other: str, properties: Json, alias: Json, *, required: bool = True) -> list[Json]:
    """The same object under two names of one field."""
    return [_object({name: alias} | properties, [name] if required else []) for name in (one, other)]


_REST: Json = {name: {"anyOf": [_text(200), {"type": "null"}]} for name in ("city", "state", "zip", "country")}
ADDRESS: Json = {"anyOf": _either("line1", "street", _REST, _text(200, least=1))}

_PRICE: Json = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": 99},
        {"type": "string", "pattern": r"^[0-9]{1,2}(\.[0-9]{1,2})?$"},
    ],
    "description": "Unit price, at least 0 and with at most two decimals, as a number or as text.",
}
_QUANTITY: Json = {"type": "integer", "minimum": 1, "maximum": 1000}
ITEM: Json = {
    "anyOf": [
        _object({sku: _text(200, least=1), quantity: _QUANTITY, "price": _PRICE}, [sku])
        for sku in ("sku", "name")
        for quantity in ("quantity", "qty")
    ]
}
POLICY: Json = {
    "anyOf": [{"enum": list(PRESETS)}, {"type": "object"}, {"type": "null"}],
    "description": "A preset, or an object of the fields to change. `preset` names the preset that is changed, `steps` "
    "holds the retry rules of single steps.",
    "examples": [{"preset": "swift", "max_tries": 20, "steps": {"dispatch": {"max_tries": 9}}}],
}
START: Json = _object(
    {
        "payment_id": ID | {"examples": ["pay-1"]},
        "items": {"type": "array", "items": ITEM, "maxItems": MAX_ITEMS},
        "address": {"anyOf": [ADDRESS, {"type": "null"}]},
        "policy": POLICY,
    },
    ["payment_id"],
)
NOTHING: Json = {"type": "object", "properties": {}, "additionalProperties": False}
REASON: Json = _object({"reason": {"anyOf": [_text(500), {"type": "null"}]}}, [])
MOVE: Json = {
    "anyOf": [*ADDRESS["anyOf"], _object({"address": ADDRESS}, ["address"])],
    "description": "The whole new address, bare or wrapped. A field that is left out becomes empty.",
}

START_EXAMPLES: Json = {
    "whole": {
        "summary": "Items and address",
        "value": {
            "payment_id": "pay-1",
            "items": [{"sku": "book", "quantity": 2, "price": "12.50"}],
            "address": {"line1": "1 Main Street", "city": "Springfield", "country": "US"},
        },
    },
    "bare": {"summary": "A payment id is enough: a total of 0.00", "value": {"payment_id": "pay-2"}},
    "aliases": {
        "summary": "name, qty and street say the same",
        "value": {"payment_id": "pay-3", "items": [{"name": "book", "qty": 1}], "address": {"street": "1 Main Street"}},
    },
}
MOVE_EXAMPLES: Json = {
    "bare": {
        "summary": "Fields that are left out become empty",
        "value": {"line1": "2 New Road", "city": "Springfield"},
    },
    "wrapped": {"value": {"address": {"street": "2 New Road"}}},
}
CANCEL_EXAMPLES: Json = {"reason": {"value": {"reason": "changed my mind"}}, "nothing": {"value": {}}}


def body(schema: Json, examples: Json, *, required: bool) -> Json:
    """The `requestBody` of an operation, for `openapi_extra`."""
    return {
        "requestBody": {"required": required, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


class Problem(BaseModel):
    """What went wrong, in one sentence.

    After a 4xx the order is unchanged. After a 503 or 500 the request may have been carried out, or may still be. Look
    at the order's status, or send the request again, which does no harm.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"error": "not_found", "message": "There is no order order-9."}]},
    )
    error: str
    message: str


class Started(BaseModel):
    """The order's workflow. `run_id` is empty if Temporal has deleted a run that the ledger still has."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"workflow_id": "order-order-1", "run_id": "019aa6b2-7c1f-7d6c-8a5e"}]}
    )
    workflow_id: str
    run_id: str


class Receipt(BaseModel):
    """`accepted`, or `pending` if no worker has judged it within a second. A worker judges it later."""

    verdict: Literal["accepted", "pending"]
    reason: str = ""


class Event(BaseModel):
    """A line of the log: `attempt` counts the tries of a step; `ts` is when it was committed (UTC)."""

    event_id: str
    order_id: str
    type: str
    step: str | None
    attempt: int | None
    started_at: str | None
    duration_ms: float | None
    payload_json: dict[str, Any]
    ts: str


def _as_json(kind: Any) -> Any:
    """The type of the JSON value that `to_json` makes of a value of this type."""
    if get_origin(kind) is tuple:
        return list[_as_json(get_args(kind)[0])]  # type: ignore[misc]  # made from a value, which mypy cannot read
    if get_origin(kind) is UnionType:
        return Union[tuple(_as_json(one) for one in get_args(kind))]  # noqa: UP007 - `|` takes no tuple
    if is_dataclass(kind):
        return dict[str, Any]
    return str if kind in (Decimal, datetime) else kind


# Made from the desk's own answer, so that a field that it gains is in the document too.
_STATUS: dict[str, Any] = {name: (_as_json(kind), ...) for name, kind in get_type_hints(OrderStatus).items()}
Status: type[BaseModel] = create_model(
    "Status",
    __doc__="Ledger, workflow and Temporal's pending activities, joined.",
    **_STATUS | {"events": (list[Event], ...)},
)


class OrderLine(BaseModel):
    id: str
    state: State
    total: str
    last_error: str | None
    created_at: str
    updated_at: str


class Page(BaseModel):
    """Orders, newest first. `next` goes into `after` for the page that follows; null at the end."""

    orders: list[OrderLine]
    next: str | None


class Log(BaseModel):
    events: list[Event]


class Health(BaseModel):
    ok: bool
    temporal: bool
    database: bool

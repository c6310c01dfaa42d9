"""Fields for single values: how each type is typed in, and how a value of it is shown."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any

from trellis.lab.flights.forms.fields import Field, Unshowable
from trellis.lab.flights.forms.kinds import Boolean, Leaf

_UNITS: dict[str, int | Decimal] = {
    "d": 86_400, "h": 3_600, "m": 60, "min": 60, "s": 1, "ms": Decimal("0.001"), "us": Decimal("0.000001"),
}  # fmt: skip
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(d|h|min|ms|us|m|s)?(?![a-z])", re.IGNORECASE)
_BASE64 = "base64:"


def _exactly(kind: type, show: Callable[[Any], str] = str) -> Callable[[Any], str]:
    """Shows values of this type, and of no subclass: a bool is no number, and a datetime is no date."""

    def took(value: Any) -> str:
        if type(value) is not kind:
            raise Unshowable
        return show(value)

    return took


def _stripped(make: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: make(text.strip())


def read_float(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        # JSON has no such number, so the worker could not read it.
        raise ValueError(text)
    return value


def _show_float(value: Any) -> str:
    if type(value) not in (int, float) or not isfinite(value):
        raise Unshowable
    return repr(value)


def read_decimal(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(text) from None
    if not value.is_finite():
        raise ValueError(text)
    return value


def read_duration(text: str) -> timedelta:
    """A duration from "1h 30m", "90 s", "250 ms" or a plain number of seconds; a minus at its beginning counts."""
    rest = text.strip()
    sign = -1 if rest.startswith("-") else 1
    rest = rest.removeprefix("-")
    seconds, at = Decimal(0), 0
    while at < len(rest):
        part = _PART.match(rest, at)
        if part is None:
            raise ValueError(text)
        seconds += Decimal(part[1]) * _UNITS[(part[2] or "s").lower()]
        at = part.end()
    if not rest:
        raise ValueError(text)
    whole, part_of_one = divmod(seconds, 1)
    return sign * timedelta(seconds=int(whole), microseconds=int(part_of_one * 1_000_000))


def show_duration(value: timedelta) -> str:
    """The duration in seconds, exactly."""
    sign, size = ("-", -value) if value < timedelta() else ("", value)
    seconds = Decimal(size.days * 86_400 + size.seconds) + Decimal(size.microseconds) / 1_000_000
    return f"{sign}{seconds.normalize():f} s"


def read_bytes(text: str) -> bytes:
    """The text in UTF-8, or what follows "base64:"."""
    if text.startswith(_BASE64):
        return base64.b64decode(text.removeprefix(_BASE64), validate=True)
    return text.encode("utf-8")


def show_bytes(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and not text.startswith(_BASE64) and text.encode("utf-8") == value:
        return text
    return _BASE64 + base64.b64encode(value).decode("ascii")


LEAVES: dict[type, Field] = {
    str: Leaf(says="text", took=_exactly(str), wrong="This must be a text."),
    bool: Boolean(says="yes or no"),
    int: Leaf(
        box="integer", says="whole number", make=_stripped(int), took=_exactly(int),
        wrong="This must be a whole number.",
    ),
    float: Leaf(
        box="number", says="number", make=_stripped(read_float), took=_show_float,
        wrong="This must be a number, such as 2.5.",
    ),
    Decimal: Leaf(
        box="number", says="decimal number", make=_stripped(read_decimal), took=_exactly(Decimal),
        wrong="This must be a decimal number, such as 12.50.",
    ),
    datetime: Leaf(
        box="datetime", says="date and time", make=_stripped(datetime.fromisoformat),
        took=_exactly(datetime, datetime.isoformat),
        wrong="This must be a date and a time, such as 2026-01-31T12:30:00+00:00.",
    ),
    date: Leaf(
        box="date", says="date", make=_stripped(date.fromisoformat), took=_exactly(date, date.isoformat),
        wrong="This must be a date, such as 2026-01-31.",
    ),
    time: Leaf(
        box="time", says="time of day", make=_stripped(time.fromisoformat), took=_exactly(time, time.isoformat),
        wrong="This must be a time of day, such as 12:30.",
    ),
    timedelta: Leaf(
        box="duration", says="duration", make=read_duration, took=_exactly(timedelta, show_duration),
        wrong="This must be a duration, such as 90 s, 1h 30m or 250 ms.",
    ),
    uuid.UUID: Leaf(
        says="UUID", make=_stripped(uuid.UUID), took=_exactly(uuid.UUID),
        wrong="This must be a UUID, such as 123e4567-e89b-12d3-a456-426614174000.",
    ),
    bytes: Leaf(
        box="bytes", says="bytes: text in UTF-8, or base64: and base64", make=read_bytes,
        took=_exactly(bytes, show_bytes), wrong="What follows base64: is not base64.",
    ),
}  # fmt: skip
"""The field of each type; `dataclasses.replace` gives it a name."""

"""What goes over the wire: strict JSON in, JSON out, and one shape of error."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation

from starlette.responses import JSONResponse

from trellis.errors import BadInput
from trellis.parsing import parse_id


def error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """`{"error": kind, "message": sentence}`: the only shape in which this API says no."""
    return JSONResponse({"error": kind, "message": message}, status, headers)


def busy(message: str) -> JSONResponse:
    """503, and when to come back [s]."""
    return error(503, "unavailable", message, {"Retry-After": "1"})


def read_json(body: bytes) -> object:
    """The body's value; None for an empty one. Raises BadInput for all that JSON itself (RFC 8259) does not allow."""
    if not body.strip():
        return None
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput("The body must be JSON in UTF-8.") from None
    try:
        # Decimal keeps 0.1 exact and takes 1e400 for what it is; a float would round the one and lose the other.
        value: object = json.loads(text, parse_float=Decimal, parse_constant=_no_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise BadInput("The body is nested too deeply.") from None
    except InvalidOperation:
        raise BadInput("The body has a number that no computer can hold.") from None
    except ValueError:
        raise BadInput("The body must be JSON.") from None
    return value


def _no_constant(name: str) -> object:
    raise BadInput(f"The body must be JSON, and JSON has no {name}: numbers must be finite.")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Which of the two was meant? Readers disagree, and a price may hang on it.
        raise BadInput("The body names a field twice.")
    return found


def write_cursor(created_at: datetime, id_: str) -> str:
    """Where a page ended, by its last order."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {id_}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> tuple[datetime, str]:
    """(created_at, id) of the last order of the page before. Raises BadInput."""
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        created, _, id_ = plain.partition(" ")
        position = datetime.fromisoformat(created), parse_id(id_)
        # Anything but our own writing is a mistake, however readable.
        if position[0].tzinfo is None or write_cursor(*position) != text:
            raise ValueError
    except (ValueError, BadInput):
        raise BadInput("The cursor in `after` must be the `next` of an earlier answer.") from None
    return position

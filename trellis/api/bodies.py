"""What goes over the wire: strict JSON in, JSON out, and one shape of error."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime

from starlette.responses import JSONResponse

from trellis.errors import BadInput
from trellis.parsing import parse_id


def error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """`{"error": kind, "message": sentence}`: the shape of every error of this API."""
    return JSONResponse({"error": kind, "message": message}, status, headers)


def busy(message: str) -> JSONResponse:
    """503 with the seconds to wait before the next try."""
    return error(503, "unavailable", message, {"Retry-After": "1"})


def write_cursor(created_at: datetime, id_: str) -> str:
    """Where a page ended, by its last order."""
    return base64.urlsafe_b64encode(f"{created_at.isoformat()} {id_}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> tuple[datetime, str]:
    """(created_at, id) of the last order of the page before. Raises BadInput."""
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        created, _, id_ = plain.partition(" ")
        position = datetime.fromisoformat(created), parse_id(id_)
        # Only the exact text that `write_cursor` makes is accepted.
        if position[0].tzinfo is None or write_cursor(*position) != text:
            raise ValueError
    except (ValueError, BadInput):
        raise BadInput("The cursor in `after` must be the `next` of an earlier answer.") from None
    return position

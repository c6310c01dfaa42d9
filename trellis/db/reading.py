"""Reading many rows at once, for analysis."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from trellis.errors import DatabaseUnavailable

EVENTS: LiteralString = (
    "SELECT id, order_id, type, step, attempt, round, execution, try, started_at, duration_ms, worker, "
    "payload_json, ts FROM events WHERE (%(order)s::text IS NULL OR order_id = %(order)s) ORDER BY id"
)


def events(url: str, order_id: str | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(column names, rows) of the log, oldest first. Raises DatabaseUnavailable."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            cursor = connection.execute(EVENTS, {"order": order_id})
            assert cursor.description is not None
            return [column.name for column in cursor.description], cursor.fetchall()
    except psycopg.OperationalError as error:
        why = " ".join(str(error).split())[:300]
        raise DatabaseUnavailable(f"Postgres does not answer ({why}). Start it with `trellis up`.") from None

"""What a live board reads: pages, single rows, tries, and notifications of which order changed.

Every query is limited to a page and uses an index, so its cost does not grow with the ledger.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import BaseRowFactory, class_row, tuple_row
from psycopg_pool import PoolTimeout

from trellis.db.pool import Pool, unavailable
from trellis.db.rows import BoardRow, TimelineRow
from trellis.model import PATH, REQUEST_EVENTS, STATE_AFTER, TERMINAL

T = TypeVar("T")

CHANNEL = "trellis_orders"
COUNTED = 1000
"""Counts of orders stop here: an exact count would read all of them."""
TRIES = 400
"""The newest events of one order that a timeline shows."""

_SELECT: LiteralString = """
    SELECT o.id, o.state, o.total, o.address_json, o.last_error, o.claimed_at, o.closing_at, o.created_at,
           o.policy_json ->> 'name' AS policy, (o.policy_json ->> 'review_window')::float8 AS review_window,
           newest.id AS event, newest.ts AS event_ts, step.type AS last_type, step.step AS last_step,
           step.attempt AS last_attempt, step.ts AS last_ts, failed.error AS last_failure, far.type AS furthest
"""
_DETAILS: LiteralString = """
    LEFT JOIN LATERAL (SELECT id, ts FROM events WHERE order_id = o.id ORDER BY id DESC LIMIT 1) newest ON true
    LEFT JOIN LATERAL (SELECT type, step, attempt, ts FROM events WHERE order_id = o.id
        AND type <> ALL (%(beside)s) ORDER BY id DESC LIMIT 1) step ON true
    LEFT JOIN LATERAL (SELECT payload_json ->> 'error' AS error FROM events WHERE order_id = o.id
        AND type IN ('ATTEMPT_FAILED', 'ATTEMPT_TIMED_OUT') ORDER BY id DESC LIMIT 1) failed ON true
    LEFT JOIN LATERAL (SELECT type FROM events WHERE order_id = o.id
        AND o.state = ANY (%(not_completed)s) AND type = ANY (%(on_the_path)s) ORDER BY id DESC LIMIT 1) far ON true
"""
_NAMES: dict[str, object] = {
    # Events of requests do not say what the order does now.
    "beside": [str(event) for event in REQUEST_EVENTS],
    "not_completed": [str(state) for state in TERMINAL - set(PATH)],
    "on_the_path": [str(event) for event, state in STATE_AFTER.items() if state in PATH],
}
_COLUMNS: LiteralString = "id, state, total, address_json, last_error, claimed_at, closing_at, created_at, policy_json"


@dataclass(frozen=True)
class View:
    """Which lines a page shows: newest first, or by id where `prefix` is given. No states means all.

    `type`: the type of workflows, empty for all. Orders have no types.
    """

    states: tuple[str, ...] = ()
    prefix: str = ""
    size: int = 50
    type: str = ""


Key = tuple[datetime, str]
"""(created_at, id) of a row: where the page after it begins."""


class BoardReader:
    """Reads through a pool. Raises DatabaseUnavailable when the database is away."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def _rows(self, kind: BaseRowFactory[T], sql: LiteralString, args: dict[str, object]) -> list[T]:
        try:
            # A board must show "disconnected" soon, so it waits less than an order does.
            async with self._pool.connection(timeout=3) as connection:
                cursor = connection.cursor(row_factory=kind)
                return await (await cursor.execute(sql, _NAMES | args)).fetchall()
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise unavailable(error) from None

    async def page(self, view: View, after: Key | None = None) -> list[BoardRow]:
        """The rows of the page, and one more if there is a next page."""
        args: dict[str, object] = {
            "states": list(view.states), "limit": view.size + 1, "prefix": view.prefix,
            "created": after[0] if after else None, "id": after[1] if after else None,
            "like": view.prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%",
        }  # fmt: skip
        before: LiteralString = "(%(created)s::timestamptz IS NULL OR (created_at, id) < (%(created)s, %(id)s))"
        if view.prefix:
            order: LiteralString = "o.id USING ~<~"
            found: LiteralString = f"""
                SELECT {_COLUMNS} FROM orders WHERE id LIKE %(like)s AND (%(id)s::text IS NULL OR id ~>~ %(id)s)
                AND (cardinality(%(states)s::text[]) = 0 OR state = ANY (%(states)s))
                ORDER BY id USING ~<~ LIMIT %(limit)s"""
        elif view.states:
            # One short walk of the index per state, rather than a sort of all that are in any of them. The
            # state is given as a range and stands in the inner ORDER BY, so that only orders_by_state has this order.
            # With `state = wanted` Postgres may walk orders_by_time: for a state without orders, the whole table.
            order = "o.created_at DESC, o.id DESC"
            found = f"""
                SELECT one.* FROM unnest(%(states)s::text[]) wanted CROSS JOIN LATERAL (
                    SELECT {_COLUMNS} FROM orders WHERE state >= wanted AND state <= wanted AND {before}
                    ORDER BY state DESC, created_at DESC, id DESC LIMIT %(limit)s) one
                ORDER BY created_at DESC, id DESC LIMIT %(limit)s"""
        else:
            order = "o.created_at DESC, o.id DESC"
            found = f"SELECT {_COLUMNS} FROM orders WHERE {before} ORDER BY created_at DESC, id DESC LIMIT %(limit)s"
        sql: LiteralString = f"WITH o AS MATERIALIZED ({found}) {_SELECT} FROM o {_DETAILS} ORDER BY {order}"
        return await self._rows(class_row(BoardRow), sql, args)

    async def orders(self, ids: Iterable[str]) -> list[BoardRow]:
        """Single rows. An order whose `receive` has not succeeded yet has only events, and its state is NULL."""
        sql: LiteralString = f"""
            WITH o AS MATERIALIZED (
                SELECT {_COLUMNS} FROM unnest(%(ids)s::text[]) AS wanted (id) LEFT JOIN orders USING (id))
            {_SELECT} FROM o {_DETAILS}"""
        return await self._rows(class_row(BoardRow), sql, {"ids": list(ids)})

    async def counts(self) -> dict[str, int]:
        """Orders in each state, none of them above `COUNTED`."""
        # The range and the order make Postgres use the index, as in `page`.
        sql: LiteralString = """
            SELECT from_state AS state, (SELECT count(*) FROM (
                SELECT FROM orders WHERE state >= from_state AND state <= from_state
                ORDER BY state, created_at LIMIT %(most)s) few) AS n
            FROM (SELECT from_state FROM order_edges UNION SELECT to_state FROM order_edges) states"""
        return dict(await self._rows(tuple_row, sql, {"most": COUNTED}))

    async def tries(self, order_id: str) -> list[TimelineRow]:
        """The newest `TRIES` events of one order, oldest first: tries, and what they led to."""
        sql: LiteralString = """
            SELECT * FROM (
                SELECT id, type, step, attempt, round, started_at, duration_ms, ts, payload_json ->> 'lane' AS lane,
                       coalesce(payload_json ->> 'error', payload_json ->> 'reason') AS error
                FROM events WHERE order_id = %(id)s ORDER BY id DESC LIMIT %(most)s) newest
            ORDER BY id"""
        return await self._rows(class_row(TimelineRow), sql, {"id": order_id, "most": TRIES})


@asynccontextmanager
async def listening(url: str, channel: LiteralString = CHANNEL) -> AsyncIterator[AsyncIterator[str]]:
    """The payloads of a channel: by default the ids of orders as they change, once each transaction has committed.

    A change that a read after the block's start does not show is yielded. Raises DatabaseUnavailable if there is no
    connection, and when it ends.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=5, application_name="trellis board",
            keepalives=1, keepalives_idle=5, keepalives_interval=2, keepalives_count=3,
        )  # fmt: skip
    except psycopg.OperationalError as error:
        raise unavailable(error) from None
    ids = _ids(connection)
    try:
        await connection.execute(f"LISTEN {channel}")
        if channel == CHANNEL:
            # The ledger tells of changes only while somebody holds this lock.
            await connection.execute("SELECT pg_advisory_lock_shared(7234, 6)")
        yield ids
    except psycopg.OperationalError as error:
        raise unavailable(error) from None
    finally:
        # Close the connection and do not use `async with`: that would commit, and wait for those who still listen.
        await ids.aclose()
        await connection.close()


async def _ids(connection: psycopg.AsyncConnection[Any]) -> AsyncGenerator[str, None]:
    try:
        async for note in connection.notifies():
            yield note.payload
    except psycopg.OperationalError as error:
        raise unavailable(error) from None

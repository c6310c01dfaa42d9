"""What a live board reads of the book of flights: where each run is now, one run's attempts, and the apps it holds.

Every read is limited to the runs of a page, or to the newest rows, so its cost does not grow with the book.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.rows import BaseRowFactory, class_row, dict_row, tuple_row
from psycopg_pool import PoolTimeout

from trellis.db.board import listening
from trellis.db.pool import Pool, unavailable
from trellis.errors import SchemaMismatch
from trellis.flights import CHANNEL, FlightRow

T = TypeVar("T")

Run = tuple[str, str]
"""(workflow id, run id)"""

NEWEST = 5000
"""Apps are looked for among this many of the newest attempts."""

_NO_BOOK = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege)


@dataclass(frozen=True)
class BookLine:
    """Where one run is, by the book. The fields up to `local` are those of the attempt that a board shows: of the open
    one that began last, or else of the one that ended last.

    `open`: how many attempts are open. `changed_at`: the newest start or end. `failed_*`: the newest attempt without
    success, None if there is none.
    """

    workflow_id: str
    run_id: str
    activity_type: str
    attempt: int
    outcome: str
    started_at: datetime | None
    local: bool
    open: int
    attempts: int
    changed_at: datetime
    failed_error: str | None
    failed_activity: str | None
    failed_at: datetime | None


@dataclass(frozen=True)
class App:
    """A task queue, and the activity types that ran on it."""

    queue: str
    activity_types: tuple[str, ...]


class FlightBoardReader:
    """Reads through a pool. Raises DatabaseUnavailable when the database is away, SchemaMismatch without a book."""

    def __init__(self, pool: Pool, namespace: str) -> None:
        self._pool = pool
        self._namespace = namespace

    async def lines(self, runs: Iterable[Run]) -> dict[Run, BookLine]:
        """Where each of these runs is. One that the book does not know is left out."""
        wanted = list(runs)
        sql: LiteralString = """
            WITH a AS MATERIALIZED (
                SELECT a.workflow_id, a.run_id, a.activity_type, a.attempt, a.outcome, a.started_at, a.ended_at,
                       a.scheduled_at, a.local, a.error, a.failure_type
                FROM unnest(%(ids)s::text[], %(runs)s::text[]) AS wanted (workflow_id, run_id)
                JOIN flights.attempts a USING (workflow_id, run_id)
                WHERE a.namespace = %(namespace)s AND a.try = 0
            ), shown AS (
                SELECT DISTINCT ON (workflow_id, run_id) workflow_id, run_id, activity_type, attempt, outcome,
                       started_at, local
                FROM a ORDER BY workflow_id, run_id, (outcome = 'open') DESC,
                       CASE WHEN outcome = 'open' THEN started_at ELSE coalesce(ended_at, scheduled_at) END DESC,
                       attempt DESC
            ), failed AS (
                SELECT DISTINCT ON (workflow_id, run_id) workflow_id, run_id, activity_type AS failed_activity,
                       coalesce(nullif(error, ''), failure_type, outcome) AS failed_error,
                       coalesce(ended_at, started_at, scheduled_at) AS failed_at
                FROM a WHERE outcome IN ('failed', 'timed out', 'lost')
                ORDER BY workflow_id, run_id, coalesce(ended_at, started_at, scheduled_at) DESC
            ), sums AS (
                SELECT workflow_id, run_id, count(*) FILTER (WHERE outcome = 'open') AS open, count(*) AS attempts,
                       max(greatest(scheduled_at, started_at, ended_at)) AS changed_at
                FROM a GROUP BY workflow_id, run_id
            )
            SELECT shown.*, open, attempts, changed_at, failed_error, failed_activity, failed_at
            FROM shown JOIN sums USING (workflow_id, run_id) LEFT JOIN failed USING (workflow_id, run_id)"""
        args = {"ids": [one for one, _ in wanted], "runs": [run for _, run in wanted]}
        found = await self._read(class_row(BookLine), sql, args) if wanted else []
        return {(line.workflow_id, line.run_id): line for line in found}

    async def attempts(self, run: Run, most: int) -> list[FlightRow]:
        """The newest attempts of one run, and the tries of loops inside them, in the order of their start."""
        sql: LiteralString = """
            SELECT * FROM (
                SELECT * FROM flights.attempts
                WHERE namespace = %(namespace)s AND workflow_id = %(id)s AND run_id = %(run)s
                ORDER BY coalesce(started_at, scheduled_at) DESC, attempt DESC, try DESC LIMIT %(most)s) newest
            ORDER BY coalesce(started_at, scheduled_at), attempt, try"""
        rows = await self._read(dict_row, sql, {"id": run[0], "run": run[1], "most": most})
        return [FlightRow.from_columns(row) for row in rows]

    async def apps(self, workflow_types: Iterable[str]) -> list[App]:
        """The apps of these workflow types in this namespace, by the newest attempts of the book."""
        # The limit stands before every condition: a quiet namespace must not cost a walk through the whole book.
        sql: LiteralString = """
            SELECT queue, array_agg(DISTINCT activity_type ORDER BY activity_type) FROM (
                SELECT namespace, queue, activity_type, workflow_type FROM flights.attempts
                ORDER BY scheduled_at DESC LIMIT %(most)s) newest
            WHERE namespace = %(namespace)s AND workflow_type = ANY (%(types)s) GROUP BY queue ORDER BY queue"""
        rows = await self._read(tuple_row, sql, {"types": list(workflow_types), "most": NEWEST})
        return [App(queue, tuple(types)) for queue, types in rows]

    async def _read(self, kind: BaseRowFactory[T], sql: LiteralString, args: dict[str, Any]) -> list[T]:
        try:
            # A board must say soon that the book is away, so it waits less than an order does.
            async with self._pool.connection(timeout=3) as connection:
                cursor = connection.cursor(row_factory=kind)
                return await (await cursor.execute(sql, {**args, "namespace": self._namespace})).fetchall()
        except _NO_BOOK as error:
            why = " ".join(str(error.diag.message_primary or error).split())[:200]
            raise SchemaMismatch(f"This database has no book of flights that can be read ({why}).") from None
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            raise unavailable(error) from None


def changes(url: str) -> AbstractAsyncContextManager[AsyncIterator[str]]:
    """As `board.listening`: namespace and workflow id (`flights.changed`) of each workflow whose attempts changed."""
    return listening(url, CHANNEL)

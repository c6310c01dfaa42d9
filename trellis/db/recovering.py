"""What a run that breaks things reads from the ledger: when orders ended or moved again, and which faults landed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString

from psycopg.rows import class_row

from trellis.db.pool import Pool, borrowed
from trellis.model import TERMINAL, State

_ENDS: LiteralString = """
SELECT id AS order_id, state, CASE WHEN state = ANY(%(terminal)s) THEN updated_at END AS ended_at
FROM orders WHERE id = ANY(%(ids)s)
"""

# An order moves when a try begins, or when something is recorded. A try that began before the moment went on
# undisturbed, and counts when it was recorded.
_MOVES: LiteralString = """
SELECT given.id AS order_id, first.moved_at, first.execution
FROM unnest(%(ids)s::text[]) AS given (id), LATERAL (
    SELECT CASE WHEN started_at > %(at)s THEN started_at ELSE ts END AS moved_at, coalesce(execution, 1) AS execution
    FROM events WHERE order_id = given.id AND ts > %(at)s
    ORDER BY 1 LIMIT 1
) AS first
"""

_MARKED: LiteralString = """
SELECT count(*) FROM events
WHERE ts >= %(since)s AND ts < %(until)s AND attempt IS NOT NULL AND payload_json ?| %(marks)s::text[]
"""

# The second execution of a step exists because the first was lost with its worker.
_TAKEN_OVER: LiteralString = """
SELECT count(DISTINCT (order_id, step, round, execution)) FROM events
WHERE started_at >= %(since)s AND started_at < %(until)s AND execution > 1 AND worker <> ALL(%(not_by)s)
"""

# An order whose last attempt this worker made in vain stood in its loop of tries. Others could go on with it only
# because the worker was given up.
_LEFT: LiteralString = """
SELECT count(DISTINCT moved.order_id) FROM events moved, LATERAL (
    SELECT worker, type FROM events
    WHERE order_id = moved.order_id AND attempt IS NOT NULL AND ts < %(since)s
    ORDER BY id DESC LIMIT 1
) AS last
WHERE moved.ts >= %(since)s AND moved.ts < %(until)s AND moved.worker <> %(by)s
AND last.worker = %(by)s AND last.type LIKE 'ATTEMPT%%'
"""


@dataclass(frozen=True)
class EndRow:
    """An order's state, and when it ended; None while it runs [UTC]."""

    order_id: str
    state: State
    ended_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", State(self.state))


@dataclass(frozen=True)
class MoveRow:
    """When an order moved first after a moment [UTC], and in which execution of its step. Above 1: the step was in
    flight when its worker was lost."""

    order_id: str
    moved_at: datetime
    execution: int


class Recovering:
    """Raises DatabaseUnavailable where Postgres does not answer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ends(self, ids: Sequence[str]) -> list[EndRow]:
        """The orders among these that the ledger has."""
        async with borrowed(self._pool) as connection, connection.cursor(row_factory=class_row(EndRow)) as cursor:
            await cursor.execute(_ENDS, {"ids": list(ids), "terminal": [str(state) for state in TERMINAL]})
            return await cursor.fetchall()

    async def moves(self, ids: Sequence[str], at: datetime) -> list[MoveRow]:
        """The first move after `at` of each of these orders that moved at all."""
        async with borrowed(self._pool) as connection, connection.cursor(row_factory=class_row(MoveRow)) as cursor:
            await cursor.execute(_MOVES, {"ids": list(ids), "at": at})
            return await cursor.fetchall()

    async def marked(self, since: datetime, until: datetime, *marks: str) -> int:
        """How many tries carry one of these marks in their payload, such as "outage"."""
        return await self._count(_MARKED, since=since, until=until, marks=list(marks))

    async def taken_over(self, since: datetime, until: datetime, *not_by: str) -> int:
        """How many executions of steps other workers began because the worker of an earlier execution was lost."""
        return await self._count(_TAKEN_OVER, since=since, until=until, not_by=list(not_by))

    async def left(self, since: datetime, until: datetime, by: str) -> int:
        """How many orders others moved in a period, of those that this worker was trying to move before it."""
        return await self._count(_LEFT, since=since, until=until, by=by)

    async def _count(self, statement: LiteralString, **args: object) -> int:
        async with borrowed(self._pool) as connection:
            row = await (await connection.execute(statement, args)).fetchone()
        return int(row[0]) if row else 0

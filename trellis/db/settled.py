"""Which runs of the book must be compared with the server, and which were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg

from trellis.db.pool import Pool, borrowed
from trellis.errors import SchemaMismatch

_MISSING: LiteralString = (
    "FROM flights.attempts a LEFT JOIN flights.settled s USING (namespace, workflow_id, run_id) "
    "WHERE (%(namespace)s::text IS NULL OR a.namespace = %(namespace)s) AND a.workflow_id <> '' "
    "AND (s.at IS NULL OR (a.outcome = 'open' AND (NOT s.gone OR %(workflows)s::text[] IS NOT NULL))) "
    "AND (%(workflows)s::text[] IS NULL OR a.workflow_id = ANY(%(workflows)s)) "
    "AND (%(types)s::text[] IS NULL OR a.workflow_type = ANY(%(types)s)) "
    "AND (%(since)s::timestamptz IS NULL OR a.scheduled_at >= %(since)s) "
    "AND (%(until)s::timestamptz IS NULL OR a.scheduled_at < %(until)s)"
)


@dataclass(frozen=True)
class Asked:
    """Which runs: with rows of these workflow ids and types, first scheduled in this time. None: any."""

    workflows: Sequence[str] | None = None
    types: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def parameters(self) -> dict[str, object]:
        return {
            "workflows": None if self.workflows is None else list(self.workflows),
            "types": None if self.types is None else list(self.types), "since": self.since, "until": self.until,
        }  # fmt: skip


ALL = Asked()


@dataclass(frozen=True)
class Unsettled:
    """One run to compare."""

    workflow_id: str
    run_id: str


class SettledRuns:
    """The table `flights.settled`. Every call raises DatabaseUnavailable and SchemaMismatch."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def namespaces(self, asked: Asked = ALL) -> list[str]:
        """The namespaces that have such runs to compare."""
        rows = await self._all(
            f"SELECT DISTINCT a.namespace {_MISSING} ORDER BY 1", namespace=None, **asked.parameters()
        )
        return [str(row[0]) for row in rows]

    async def missing(self, namespace: str, asked: Asked = ALL, *, limit: int) -> list[Unsettled]:
        """Runs to compare, the newest first: those that nobody compared since they ended, and those with an open row.

        A run whose history is gone is asked for again only by its workflow's id.
        """
        rows = await self._all(
            f"SELECT a.workflow_id, a.run_id {_MISSING} "
            "GROUP BY 1, 2 ORDER BY max(a.scheduled_at) DESC LIMIT %(limit)s",
            namespace=namespace, limit=limit, **asked.parameters(),
        )  # fmt: skip
        return [Unsettled(*row) for row in rows]

    async def heard(self, namespace: str, workers: Sequence[str]) -> dict[str, datetime]:
        """When each of these workers last began an attempt, or wrote the end of one."""
        rows = await self._all(
            "SELECT worker, max(greatest(started_at, CASE WHEN outcome IN ('succeeded', 'failed', 'timed out') "
            "THEN ended_at END)) FROM flights.attempts "
            "WHERE namespace = %(namespace)s AND worker = ANY(%(workers)s) GROUP BY 1",
            namespace=namespace, workers=list(workers),
        )  # fmt: skip
        return {str(worker): at for worker, at in rows if at is not None}

    async def remember(self, namespace: str, run: Unsettled, *, gone: bool = False) -> None:
        """This run has ended and was compared, or its history is gone."""
        await self._all(
            "INSERT INTO flights.settled (namespace, workflow_id, run_id, gone) "
            "VALUES (%(namespace)s, %(workflow)s, %(run)s, %(gone)s) "
            "ON CONFLICT (namespace, workflow_id, run_id) DO UPDATE SET at = now(), gone = excluded.gone RETURNING 1",
            namespace=namespace, workflow=run.workflow_id, run=run.run_id, gone=gone,
        )  # fmt: skip

    async def forget(self) -> int:
        """Forget runs that have no rows any more, because they were older than rows are kept."""
        rows = await self._all(
            "DELETE FROM flights.settled s WHERE at < now() - interval '1 day' AND NOT EXISTS (SELECT FROM "
            "flights.attempts a WHERE (a.namespace, a.workflow_id, a.run_id) = (s.namespace, s.workflow_id, s.run_id)) "
            "RETURNING 1"
        )
        return len(rows)

    async def _all(self, statement: LiteralString, **given: object) -> list[tuple[Any, ...]]:
        try:
            async with borrowed(self._pool) as connection:
                return await (await connection.execute(statement, given)).fetchall()
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            raise SchemaMismatch(
                "This database has no book of flights, or an older one. Run `trellis migrate`."
            ) from None

"""The book of flights: what TrellisPlugin notes, the plans of its apps, and its providers of finite capacity.

The board's reads are in `flight_board`, reading into frames is in `flight_table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from trellis.db.migrate import apply_book
from trellis.db.pool import Pool, borrowed, unavailable
from trellis.errors import BadInput, DatabaseUnavailable, SchemaMismatch
from trellis.faults import AnyName, FaultPlan, PlanInForce
from trellis.flights import FlightRow
from trellis.outages import Capacity


async def migrate_flights(url: str) -> list[str]:
    """Bring the book's tables up to date and return the names of the files applied. Safe when several start together.

    A user who may not create them needs no right to, if they are up to date. Raises SchemaMismatch, and
    DatabaseUnavailable with a sentence that says who must.
    """
    try:
        async with (
            await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection,
            connection.transaction(),
        ):
            return await apply_book(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise _who_must(error) from None
    except psycopg.OperationalError as error:
        raise unavailable(error) from None


def _who_must(error: psycopg.Error) -> DatabaseUnavailable:
    why = " ".join(str(error.diag.message_primary or error).split())[:300]
    return DatabaseUnavailable(
        f"Postgres refuses ({why}). The owner of the database must run `trellis migrate`, which makes the tables of "
        f"the book of flights, and must grant this user the schema flights."
    )


def _equal(columns: dict[str, str]) -> sql.Composed:
    conditions = [sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in columns.items()]
    return sql.SQL(" AND ").join([sql.Composed([sql.SQL("true")]), *conditions])


class FlightBook:
    """The book in the database of this pool. Every call raises DatabaseUnavailable and SchemaMismatch."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def write(self, rows: Sequence[FlightRow]) -> int:
        """Write rows, each of them once however often it comes. Returns how many changed the book."""
        return await self.write_json(row.to_json() for row in rows)

    async def write_json(self, lines: Iterable[str]) -> int:
        """The same for rows that are JSON already. Raises BadInput for a row that Postgres cannot hold."""
        row = await self._one("SELECT flights.note(%s)", f"[{','.join(lines)}]")
        return int(row[0]) if row else 0

    async def of_workflow(self, namespace: str, workflow_id: str, run_id: str | None = None) -> list[FlightRow]:
        """The attempts of one workflow, of all its runs or of one."""
        run = {} if run_id is None else {"run_id": run_id}
        return await self.attempts(namespace=namespace, workflow_id=workflow_id, **run)

    async def attempts(self, **columns: str) -> list[FlightRow]:
        """The attempts with these values in these columns, tries inside them too, in the order of their schedule."""
        found = await self._all(
            sql.SQL(
                "SELECT * FROM flights.attempts WHERE {} ORDER BY scheduled_at, activity_id, attempt, lane, try"
            ).format(_equal(columns)), (), dict_row,
        )  # fmt: skip
        return [FlightRow.from_columns(row) for row in found]

    async def count(self, **columns: str) -> int:
        """How many attempts have these values in these columns; tries inside them are not counted."""
        found = await self._all(
            sql.SQL("SELECT count(*) FROM flights.attempts WHERE try = 0 AND {}").format(_equal(columns)), ()
        )
        return int(found[0][0])

    async def plan(self, namespace: str, queue: str) -> PlanInForce | None:
        """The plan in force for an app. It may name types that no worker of the app knows. Raises ConfigError."""
        row = await self._one(
            "SELECT plan, version, since FROM flights.plans WHERE (namespace, queue) = (%s, %s)", namespace, queue
        )
        return PlanInForce(FaultPlan.from_json(row[0], AnyName()), int(row[1]), row[2]) if row else None

    async def set_plan(self, namespace: str, queue: str, plan: FaultPlan, *, keep_outages: bool = False) -> PlanInForce:
        """Put a plan in force for an app. Its outages begin now. With `keep_outages`, those of the plan before go on if
        they are the same."""
        row = await self._one(
            "INSERT INTO flights.plans AS p (namespace, queue, version, plan, since) "
            "VALUES (%s, %s, 1, %s, clock_timestamp()) ON CONFLICT (namespace, queue) DO UPDATE SET "
            "version = p.version + 1, plan = excluded.plan, since = CASE WHEN %s AND p.plan -> 'outages' = "
            "excluded.plan -> 'outages' THEN p.since ELSE excluded.since END RETURNING version, since",
            namespace, queue, Jsonb(plan.to_json()), keep_outages,
        )  # fmt: skip
        assert row is not None
        return PlanInForce(plan, int(row[0]), row[1])

    async def reserve(self, namespace: str, queue: str, step: str, capacity: Capacity) -> float:
        """Take the place at the provider behind an activity type; returns the seconds until the call is answered."""
        # As in `Provider.reserve`: calls take turns, and none waits for the disk.
        row = await self._one(
            "SELECT flights.reserve(%s, %s, %s, %s, %s), set_config('synchronous_commit', 'off', true)",
            namespace, queue, step, capacity.calls, float(capacity.seconds),
        )  # fmt: skip
        assert row is not None
        return float(row[0])

    async def drop_older(self, seconds: float, batch: int = 5000) -> int:
        """Drop one batch of the rows that ended, or else began, longer ago than that. Returns how many it dropped."""
        row = await self._one(
            "WITH old AS (SELECT ctid FROM flights.attempts WHERE scheduled_at < now() - make_interval(secs => %s) "
            "AND coalesce(ended_at, started_at, scheduled_at) < now() - make_interval(secs => %s) LIMIT %s "
            "FOR UPDATE SKIP LOCKED), dropped AS (DELETE FROM flights.attempts a USING old WHERE a.ctid = old.ctid "
            "RETURNING 1) SELECT count(*) FROM dropped",
            seconds, seconds, batch,
        )  # fmt: skip
        return int(row[0]) if row else 0

    async def _one(self, statement: str, *args: object) -> tuple[Any, ...] | None:
        found: list[tuple[Any, ...]] = await self._all(statement, args)
        return found[0] if found else None

    async def _all(self, statement: str | sql.Composed, args: Sequence[object], rows: Any = tuple_row) -> list[Any]:
        try:
            async with borrowed(self._pool) as connection, connection.cursor(row_factory=rows) as cursor:
                await cursor.execute(statement if isinstance(statement, sql.Composed) else statement.encode(), args)
                return await cursor.fetchall()
        except (
            psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedColumn,
            psycopg.errors.InvalidSchemaName,
        ):  # fmt: skip
            raise SchemaMismatch(
                "This database has no book of flights, or an older one. Run `trellis migrate`."
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise _who_must(error) from None
        except psycopg.IntegrityError as error:
            raise BadInput(f"The book cannot hold this row ({' '.join(str(error).split())[:200]}).") from None

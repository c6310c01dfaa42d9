"""The ledger's tables on a disk of their own, and back: for chaos, which fills that disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from trellis.db.pool import unavailable

TABLESPACE = "trellis_small_disk"

_TABLES: LiteralString = """
    SELECT c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'i') AND (t.spcname IS NOT DISTINCT FROM %s)
    ORDER BY c.relkind DESC, c.relname
"""


class SmallDisk:
    """`url`: the owner's address. Each call raises DatabaseUnavailable where Postgres does not answer."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ledger_bytes(self) -> int:
        """How much room the tables of the schema `public` take, with their indexes."""
        async with self._owner() as connection:
            cursor = await connection.execute(
                "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            row = await cursor.fetchone()
            return int(row[0]) if row else 0

    async def move_in(self, folder: Path) -> None:
        """Make a tablespace in this folder and move the ledger's tables and indexes there."""
        async with self._owner() as connection:
            await connection.execute(
                sql.SQL("CREATE TABLESPACE {} LOCATION {}").format(sql.Identifier(TABLESPACE), str(folder))
            )
            await self._move(connection, None, TABLESPACE)

    async def move_out(self) -> None:
        """Move them back and drop the tablespace. Safe to call twice, and after a `move_in` that failed half-way."""
        async with self._owner() as connection:
            await self._move(connection, TABLESPACE, "pg_default")
            await connection.execute(sql.SQL("DROP TABLESPACE IF EXISTS {}").format(sql.Identifier(TABLESPACE)))

    async def _move(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], from_: str | None, to: str) -> None:
        rows = await (await connection.execute(_TABLES, (from_,))).fetchall()
        for name, kind in rows:
            # Each in a transaction of its own: one lock on all tables would have to wait for all writers at once.
            await connection.execute(
                sql.SQL("ALTER {} public.{} SET TABLESPACE {}").format(
                    sql.SQL("TABLE" if kind == "r" else "INDEX"), sql.Identifier(str(name)), sql.Identifier(to)
                )
            )

    @asynccontextmanager
    async def _owner(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        try:
            async with await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=5
            ) as connection:
                yield connection
        except psycopg.OperationalError as error:
            raise unavailable(error) from None

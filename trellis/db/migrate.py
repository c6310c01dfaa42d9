"""Plain SQL files, numbered, applied once each, under a lock, in one transaction.

There are two sets: the ledger's, and that of the book of flights, which can live in a database without a ledger.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from trellis.db.pool import not_allowed, unavailable
from trellis.db.roles import ROLE
from trellis.errors import SchemaMismatch

log = logging.getLogger("trellis.database")


def sql_folder() -> Path:
    """The folder of migrations: beside the package in a clone, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_sql"
    return inside if inside.is_dir() else package.parent / "sql"


@dataclass(frozen=True)
class Schema:
    """A set of migrations. `folder`: below `sql_folder()`. `applied`: the table that knows which ones were applied.
    `schema`: is made before it, None for the connection's own. `lock`: the advisory lock of those who migrate."""

    what: str
    folder: str
    applied: tuple[LiteralString, ...]
    lock: int
    schema: LiteralString | None = None

    def files(self) -> list[tuple[int, str, str]]:
        """(number, name, text) in order."""
        return [
            (int(path.name.split("_", 1)[0]), path.name, path.read_text("utf-8"))
            for path in sorted((sql_folder() / self.folder).glob("[0-9]*.sql"))
        ]

    def names(self) -> list[str]:
        """The files, below `sql_folder()`."""
        return [Path(self.folder, name).as_posix() for _, name, _ in self.files()]

    @property
    def newer(self) -> SchemaMismatch:
        return SchemaMismatch(f"The {self.what}'s schema is newer than this Trellis. Update Trellis and try again.")


LEDGER = Schema("ledger", ".", ("trellis_migrations",), 0x7472656C)
BOOK = Schema("book", "flights", ("flights", "migrations"), 0x7472656D, "flights")


def migrations() -> list[tuple[int, str, str]]:
    """The ledger's (number, name, text) in order."""
    return LEDGER.files()


async def migrate(url: str) -> list[str]:
    """Bring the ledger and the book of flights up to date and return the names applied.

    Safe when several processes start together. Raises SchemaMismatch when the database is newer than this code, or an
    applied file was edited since.
    """
    try:
        async with (
            await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection,
            connection.transaction(),
        ):
            applied = await apply(connection, LEDGER)
            if not await _role_is_ready(connection):
                cursor = await connection.execute("SELECT grant_application_role()")
                why = await cursor.fetchone()
                if why and why[0]:
                    log.warning(
                        "desk and workers have no role of their own in this database (%s); "
                        "Trellis works with all the rights of the user that it was given",
                        why[0],
                    )
            applied += await apply_book(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        # Since Postgres 15 a user may create tables only in a database that belongs to it.
        raise not_allowed(error) from None
    except psycopg.OperationalError as error:
        raise unavailable(error) from None
    return applied


async def apply_book(connection: psycopg.AsyncConnection[Any]) -> list[str]:
    """Bring the book of flights up to date in the connection's transaction. Raises SchemaMismatch.

    A user who may not create its tables needs no right to, if they are up to date.
    """
    found, newest = await version(connection, BOOK), BOOK.files()[-1][0]
    if found > newest:
        raise BOOK.newer
    applied = [] if found == newest else await apply(connection, BOOK)
    cursor = await connection.execute(
        # Only the tables' owner can grant. The role may be younger than the tables.
        "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s AND NOT has_table_privilege(oid, t.oid, 'INSERT')) "
        "AND pg_has_role(t.relowner, 'MEMBER') FROM pg_class t WHERE t.oid = 'flights.attempts'::regclass",
        (ROLE,),
    )
    if (row := await cursor.fetchone()) and row[0]:
        await connection.execute("SELECT flights.grant_application_role()")
    return applied


async def apply(connection: psycopg.AsyncConnection[Any], schema: Schema) -> list[str]:
    """Apply what is missing in the connection's transaction, and return the names applied. Raises SchemaMismatch."""
    applied: list[str] = []
    table = sql.Identifier(*schema.applied)
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (schema.lock,))
    if schema.schema is not None:
        await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema.schema)))
    await connection.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} (number int PRIMARY KEY, name text NOT NULL, "
            "sha256 text NOT NULL, ts timestamptz NOT NULL DEFAULT now())"
        ).format(table)
    )
    cursor = await connection.execute(sql.SQL("SELECT number, sha256 FROM {}").format(table))
    known = {int(number): str(digest) for number, digest in await cursor.fetchall()}
    files = schema.files()
    if known and max(known) > files[-1][0]:
        raise schema.newer
    for number, name, text in files:
        digest = hashlib.sha256(text.encode()).hexdigest()
        if number not in known:
            await connection.execute(text.encode())
            await connection.execute(
                sql.SQL("INSERT INTO {} (number, name, sha256) VALUES (%s, %s, %s)").format(table),
                (number, name, digest),
            )
            applied.append(Path(schema.folder, name).as_posix())
        elif known[number] != digest:
            raise SchemaMismatch(
                f"{Path('sql', schema.folder, name)} was changed after it was applied to this {schema.what}. "
                f"Restore the file, or start afresh with `trellis reset`."
            )
    return applied


async def _role_is_ready(connection: psycopg.AsyncConnection[Any]) -> bool:
    # Ask first: a grant writes to the catalog each time, even if nothing changes.
    cursor = await connection.execute(
        "SELECT CASE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = %s) "
        "THEN has_table_privilege(%s, 'events', 'INSERT') END",
        (ROLE, ROLE),
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def check_schema(url: str) -> None:
    """Raise SchemaMismatch unless the ledger has exactly this code's schema."""
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
            found = await version(connection, LEDGER)
    except psycopg.errors.InsufficientPrivilege as error:
        raise not_allowed(error) from None
    except psycopg.OperationalError as error:
        raise unavailable(error) from None
    check_version(found, LEDGER)


async def version(connection: psycopg.AsyncConnection[Any], schema: Schema) -> int:
    """The number of the last migration applied, 0 for none."""
    known = await (await connection.execute("SELECT to_regclass(%s)", (".".join(schema.applied),))).fetchone()
    if not known or known[0] is None:
        return 0
    cursor = await connection.execute(sql.SQL("SELECT max(number) FROM {}").format(sql.Identifier(*schema.applied)))
    row = await cursor.fetchone()
    return int(row[0] or 0) if row else 0


def check_version(found: int, schema: Schema) -> None:
    """Raise SchemaMismatch unless `found` is this code's version."""
    newest = schema.files()[-1][0]
    if found < newest:
        raise SchemaMismatch(
            f"The {schema.what}'s schema is at {found}, this Trellis needs {newest}. Run `trellis migrate`."
        )
    if found > newest:
        raise schema.newer

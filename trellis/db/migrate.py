"""Plain SQL files, numbered, applied once each, under a lock, in one transaction."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import psycopg

from trellis.db.pool import not_allowed, unavailable
from trellis.db.roles import ROLE
from trellis.errors import SchemaMismatch

log = logging.getLogger("trellis.database")

_LOCK = 0x7472656C


def sql_folder() -> Path:
    """The folder of migrations: beside the package in a clone, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_sql"
    return inside if inside.is_dir() else package.parent / "sql"


def migrations() -> list[tuple[int, str, str]]:
    """(number, name, text) in order."""
    return [
        (int(path.name.split("_", 1)[0]), path.name, path.read_text("utf-8"))
        for path in sorted(sql_folder().glob("[0-9]*.sql"))
    ]


async def migrate(url: str) -> list[str]:
    """Apply what is missing and return the names applied. Safe when several processes start together.

    Raises SchemaMismatch when the database is newer than this code, or an applied file was edited since.
    """
    applied: list[str] = []
    try:
        async with (
            await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection,
            connection.transaction(),
        ):
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS trellis_migrations (number int PRIMARY KEY, name text NOT NULL, "
                "sha256 text NOT NULL, ts timestamptz NOT NULL DEFAULT now())"
            )
            cursor = await connection.execute("SELECT number, sha256 FROM trellis_migrations")
            known = {int(number): str(digest) for number, digest in await cursor.fetchall()}
            files = migrations()
            if known and max(known) > files[-1][0]:
                raise SchemaMismatch("The ledger's schema is newer than this Trellis. Update Trellis and try again.")
            for number, name, text in files:
                digest = hashlib.sha256(text.encode()).hexdigest()
                if number not in known:
                    await connection.execute(text.encode())
                    await connection.execute(
                        "INSERT INTO trellis_migrations (number, name, sha256) VALUES (%s, %s, %s)",
                        (number, name, digest),
                    )
                    applied.append(name)
                elif known[number] != digest:
                    raise SchemaMismatch(
                        f"sql/{name} was changed after it was applied to this ledger. "
                        f"Restore the file, or start afresh with `trellis reset`."
                    )
            if not await _role_is_ready(connection):
                cursor = await connection.execute("SELECT grant_application_role()")
                why = await cursor.fetchone()
                if why and why[0]:
                    log.warning(
                        "desk and workers have no role of their own in this database (%s); "
                        "Trellis works with all the rights of the user that it was given",
                        why[0],
                    )
    except psycopg.errors.InsufficientPrivilege as error:
        # Since Postgres 15 a user may create tables only in a database that belongs to it.
        raise not_allowed(error) from None
    except psycopg.OperationalError as error:
        raise unavailable(error) from None
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
            cursor = await connection.execute("SELECT max(number) FROM trellis_migrations")
            row = await cursor.fetchone()
    except psycopg.errors.UndefinedTable:
        row = (0,)
    except psycopg.errors.InsufficientPrivilege as error:
        raise not_allowed(error) from None
    except psycopg.OperationalError as error:
        raise unavailable(error) from None
    newest = migrations()[-1][0]
    found = int(row[0] or 0) if row else 0
    if found < newest:
        raise SchemaMismatch(f"The ledger's schema is at {found}, this Trellis needs {newest}. Run `trellis migrate`.")
    if found > newest:
        raise SchemaMismatch("The ledger's schema is newer than this Trellis. Update Trellis and try again.")

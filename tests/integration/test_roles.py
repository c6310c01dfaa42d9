"""What desk and workers may do in the database, and what the database refuses."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from tests.conftest import House
from trellis import stack
from trellis.db import migrate as migrations
from trellis.db.pool import Pool
from trellis.db.roles import ROLE, application_url
from trellis.errors import DatabaseUnavailable

RIGHTS = {
    "events": {"INSERT", "SELECT"},
    "fault_plans": {"INSERT", "SELECT"},
    "order_edges": {"SELECT"},
    "orders": {"INSERT", "SELECT", "UPDATE"},
    "payments": {"INSERT", "SELECT", "UPDATE"},
    "provider.charges": {"SELECT"},
    "provider.parcels": {"SELECT"},
    "provider.places": {"SELECT"},
    "provider.refunds": {"SELECT"},
    "provider.voids": {"SELECT"},
    "shipments": {"INSERT", "SELECT", "UPDATE"},
    "trellis_migrations": {"SELECT"},
}


async def test_the_application_has_these_rights_and_no_others(pool: Pool) -> None:
    """Every table and view of the database is in the list, with exactly the rights that the application has."""
    async with pool.connection() as connection:
        rows = await connection.execute(
            "SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname, "
            "array(SELECT right_ FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) "
            "AS right_ WHERE has_table_privilege(c.oid, right_)) "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'v', 'm', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') "
            "AND n.nspname NOT LIKE 'pg_%'"
        )
        assert {name: set(rights) for name, rights in await rows.fetchall()} == RIGHTS
        who = await (
            await connection.execute(
                "SELECT session_user, current_user, rolsuper, rolcreaterole, rolcreatedb, "
                "has_schema_privilege('public', 'CREATE'), has_schema_privilege('provider', 'CREATE') "
                "FROM pg_roles WHERE rolname = current_user"
            )
        ).fetchone()
    assert who == (ROLE, ROLE, False, False, False, False, False)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE events SET type = 'x'", "DELETE FROM events", "TRUNCATE events",
        "ALTER TABLE events DISABLE TRIGGER ALL", "DROP TRIGGER events_append_only ON events",
        "SET session_replication_role = replica", "DROP TABLE orders", "ALTER TABLE orders ADD COLUMN x int",
        "CREATE TABLE mine (n int)", "DROP FUNCTION watched() CASCADE",
        "DELETE FROM orders", "DELETE FROM payments", "INSERT INTO order_edges VALUES ('FAILED', 'COMPLETED')",
        "INSERT INTO provider.charges VALUES ('k', 'o', 1)", "UPDATE provider.charges SET amount = 0",
        "DELETE FROM provider.refunds", "INSERT INTO provider.voids VALUES ('k', 'o')", "DELETE FROM provider.parcels",
        "UPDATE provider.places SET free_at = now()",
        "UPDATE trellis_migrations SET sha256 = ''", "SET ROLE postgres", "CREATE ROLE other",
        "CREATE FUNCTION provider.charge(text) RETURNS text LANGUAGE sql AS 'SELECT 1'",
    ],
)  # fmt: skip
async def test_what_the_application_may_not_do_is_refused(pool: Pool, sql: str) -> None:
    """It cannot change an event, write the provider's records directly, or alter the schema."""
    async with pool.connection() as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute(sql.encode())


async def test_the_providers_functions_write_its_book_for_the_application(house: House, pool: Pool) -> None:
    """A charge and its void go through the provider's functions, and a function of the caller's is not taken for one
    of Postgres's."""
    key = f"charge:{uuid.uuid4()}"
    async with pool.connection() as connection, connection.transaction(force_rollback=True):
        await connection.execute(
            "CREATE FUNCTION pg_temp.md5(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'mine'; END $$"
        )
        await connection.execute("SET LOCAL search_path = pg_temp, public")
        for sql, expected in (
            ("SELECT provider.charge(%s, 'o', 1)", "charged"),
            ("SELECT provider.void_charge(%s, 'o')", True),
            ("SELECT provider.charge(%s, 'o', 1)", "voided"),
        ):
            assert await (await connection.execute(sql, (key,))).fetchone() == (expected,)
        sent = await (await connection.execute("SELECT provider.dispatch(%s, 'o', '{}')", (key + "x",))).fetchone()
        assert sent is not None
        assert sent[0].startswith("TRK-")
    assert await house.one("SELECT count(*) FROM provider.charges WHERE idempotency_key = %s", key) == 0


@asynccontextmanager
async def database(running: stack.Stack, owner: str, rights: str) -> AsyncIterator[str]:
    """A new database of a user with these rights, as an external one would be; its address."""
    name = f"roles_{uuid.uuid4().hex[:8]}"
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as admin:
        await admin.execute(f"CREATE ROLE {owner} LOGIN {rights}".encode())
        await admin.execute(f"CREATE DATABASE {name} OWNER {owner}".encode())
        try:
            yield psycopg.conninfo.make_conninfo(running.database_url, dbname=name, user=owner)
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            await admin.execute(f"DROP ROLE {owner}".encode())


async def test_a_database_that_allows_no_role_is_used_as_it_is(
    running: stack.Stack, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the user may not act as the role, the schema is migrated all the same and one sentence says so."""
    user = f"plain_{uuid.uuid4().hex[:6]}"
    async with database(running, user, "NOCREATEROLE") as url:
        assert await migrations.migrate(url)
        await migrations.check_schema(url)
        warnings = [record.getMessage() for record in caplog.records if record.name == "trellis.database"]
        assert any("works with all the rights" in line and user in line for line in warnings)
        caplog.clear()
        assert await application_url(url, login=False) == url
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_user_that_may_create_no_table_is_told_what_to_do(running: stack.Stack) -> None:
    """In a database of somebody else a user of Postgres 15 or later has no rights; one sentence says what to do."""
    owner, user = f"owner_{uuid.uuid4().hex[:6]}", f"guest_{uuid.uuid4().hex[:6]}"
    async with database(running, owner, "NOCREATEROLE") as url, database(running, user, "NOCREATEROLE"):
        guest = psycopg.conninfo.make_conninfo(url, user=user)
        with pytest.raises(DatabaseUnavailable, match=r"permission denied for schema public.*must own the database"):
            await migrations.migrate(guest)
        await migrations.migrate(url)
        with pytest.raises(DatabaseUnavailable, match="permission denied for table trellis_migrations"):
            await migrations.check_schema(guest)


async def test_an_owner_that_may_become_the_role_works_as_it(running: stack.Stack) -> None:
    """A member of the role connects by its own name, and has the role's rights only."""
    user = f"member_{uuid.uuid4().hex[:6]}"
    async with database(running, user, "IN ROLE trellis_app") as url:
        await migrations.migrate(url)
        works = await application_url(url, login=False)
        async with await psycopg.AsyncConnection.connect(works, autocommit=True) as connection:
            assert await (await connection.execute("SELECT session_user, current_user")).fetchone() == (user, ROLE)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute("DELETE FROM events")


async def test_a_ledger_of_yesterday_gets_its_role_when_it_is_migrated(running: stack.Stack) -> None:
    """A database at the schema before the role is upgraded by `migrate`, and works as the role afterwards."""
    name = f"yesterday_{uuid.uuid4().hex[:8]}"
    url = psycopg.conninfo.make_conninfo(running.database_url, dbname=name)
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as admin:
        await admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            async with await psycopg.AsyncConnection.connect(url) as connection:
                await connection.execute(
                    "CREATE TABLE trellis_migrations (number int PRIMARY KEY, name text NOT NULL, "
                    "sha256 text NOT NULL, ts timestamptz NOT NULL DEFAULT now())"
                )
                for number, file, text in migrations.migrations()[:6]:
                    await connection.execute(text.encode())
                    await connection.execute(
                        "INSERT INTO trellis_migrations VALUES (%s, %s, %s)",
                        (number, file, hashlib.sha256(text.encode()).hexdigest()),
                    )
            assert await application_url(url, login=True) == url
            assert [one[:3] for one in await migrations.migrate(url)] == ["007", "008", "009"]
            assert psycopg.conninfo.conninfo_to_dict(await application_url(url, login=True))["user"] == ROLE
            assert await migrations.migrate(url) == []
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

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
from trellis.config import Settings
from trellis.db import migrate as migrations
from trellis.db.pool import Pool
from trellis.db.roles import ROLE, application_url
from trellis.errors import DatabaseUnavailable
from trellis.runtime import Runtime
from trellis.runtime import opened as open_everything

RIGHTS = {
    "events": {"INSERT", "SELECT"},
    "fault_plans": {"INSERT", "SELECT"},
    # Old attempts are dropped.
    "flights.attempts": {"DELETE", "INSERT", "SELECT", "UPDATE"},
    "flights.migrations": {"SELECT"},
    "flights.places": {"INSERT", "SELECT", "UPDATE"},
    "flights.plans": {"INSERT", "SELECT", "UPDATE"},
    "flights.settled": {"DELETE", "INSERT", "SELECT", "UPDATE"},
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
        # events, by other ways than UPDATE and DELETE
        "MERGE INTO events e USING orders o ON e.order_id = o.id WHEN MATCHED THEN DELETE",
        "INSERT INTO events (event_id, order_id, type) SELECT event_id, 'o', 't' FROM events "
        "ON CONFLICT (event_id) DO UPDATE SET type = 'x'",
        "SELECT * FROM events FOR UPDATE", "DO $$ BEGIN LOCK TABLE events IN ACCESS EXCLUSIVE MODE; END $$",
        "CREATE RULE none AS ON INSERT TO events DO INSTEAD NOTHING", "ALTER TABLE events OWNER TO trellis_app",
        "ALTER TABLE events RENAME TO gone",
        "SELECT setval('events_id_seq', 1)", "DROP INDEX events_of_order",
        "CREATE TRIGGER mine BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse_rewriting()",
        "CREATE OR REPLACE FUNCTION refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        # the provider's functions and tables
        "ALTER FUNCTION provider.charge(text, text, numeric) SECURITY INVOKER",
        "ALTER FUNCTION provider.charge(text, text, numeric) RESET search_path",
        "TRUNCATE provider.charges", "UPDATE provider.parcels SET address_json = NULL", "DROP SCHEMA provider CASCADE",
        "MERGE INTO provider.voids v USING orders o ON v.order_id = o.id WHEN MATCHED THEN DELETE",
        # objects, roles, files
        "CREATE SCHEMA mine", "CREATE DATABASE mine", "CREATE VIEW mine AS SELECT 1", "CREATE TYPE mine AS (n int)",
        "SET SESSION AUTHORIZATION postgres", "ALTER ROLE trellis_app SUPERUSER", "GRANT postgres TO trellis_app",
        "ALTER SYSTEM SET fsync = off", "COPY events TO PROGRAM 'cat'", "COPY events TO '/tmp/events'",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)  # fmt: skip
async def test_what_the_application_may_not_do_is_refused(pool: Pool, sql: str) -> None:
    """It cannot change an event, write the provider's records directly, alter the schema, or become another role."""
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


async def test_the_application_can_grant_itself_nothing(pool: Pool) -> None:
    """Postgres only warns of such a grant, and the right is still missing."""
    async with pool.connection() as connection:
        await connection.execute("GRANT UPDATE, DELETE, TRUNCATE ON events TO trellis_app")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await connection.execute("DELETE FROM events")


async def test_a_table_of_the_callers_own_adds_no_legal_edge(house: House, pool: Pool) -> None:
    """The trigger reads the ledger's table of edges, also if the session has a temporary one of that name."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    async with pool.connection() as connection, connection.transaction(force_rollback=True):
        await connection.execute("CREATE TEMPORARY TABLE order_edges (from_state text, to_state text)")
        await connection.execute("INSERT INTO pg_temp.order_edges VALUES ('AWAITING_APPROVAL', 'COMPLETED')")
        with pytest.raises(psycopg.errors.CheckViolation, match="cannot go from AWAITING_APPROVAL to COMPLETED"):
            await connection.execute("UPDATE orders SET state = 'COMPLETED' WHERE id = %s", (order.order_id,))
    await house.desk.cancel(order.order_id)


async def test_every_function_with_the_owners_rights_has_a_fixed_path(pool: Pool) -> None:
    """Only the provider's functions run with the owner's rights, and none looks names up where its caller says."""
    async with pool.connection() as connection:
        rows = await connection.execute(
            "SELECT n.nspname, p.proname, coalesce(array_to_string(p.proconfig, ','), '') "
            "FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace "
            "WHERE p.prosecdef AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        )
        found = await rows.fetchall()
    assert {"charge", "void_charge", "dispatch", "void_parcel"} <= {name for _, name, _ in found}
    for schema, name, settings in found:
        assert schema == "provider", name
        assert "search_path=pg_catalog, pg_temp" in settings, name


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


async def test_workers_run_as_the_role_alone(running: stack.Stack, settings: Settings, opened: Runtime) -> None:
    """Where DATABASE_URL names the role itself, workers and API have no other rights to go back to."""
    url = psycopg.conninfo.make_conninfo(running.database_url, user=ROLE)
    alone = settings.model_copy(update={"database_url": url, "temporal_address": running.temporal.address})
    async with open_everything(alone) as found:
        assert await found.desk.ledger.order("nobody") is None
        async with found.pool.connection() as connection:
            who = await (await connection.execute("SELECT session_user, current_user")).fetchone()
            assert who == (ROLE, ROLE)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute("SET ROLE postgres")


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
            names = [*(file for _, file, _ in migrations.migrations()[6:]), *migrations.BOOK.names()]
            assert await migrations.migrate(url) == names
            assert psycopg.conninfo.conninfo_to_dict(await application_url(url, login=True))["user"] == ROLE
            assert await migrations.migrate(url) == []
        finally:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())

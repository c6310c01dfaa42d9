"""A wire to the real servers is slow, cut or half-open, or loses the answer to a commit that was made."""

from __future__ import annotations

import asyncio
import stat
import time
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client
from temporalio.service import RPCError

from trellis import stack
from trellis.chaos.answers import GrpcAnswers, PostgresCommits
from trellis.chaos.wire import CUT, HALF_OPEN, PASS, Wire, lose_answers, slow
from trellis.db.pool import Pool, borrowed, open_pool
from trellis.db.writing import writing_functions
from trellis.errors import BadInput, DatabaseUnavailable

Connection = psycopg.AsyncConnection[Any]


@pytest.fixture(scope="module")
async def database(running: stack.Stack) -> AsyncIterator[str]:
    """An empty database of its own on the real server, with a table and a function that writes to it."""
    name = f"wire_{uuid.uuid4().hex[:8]}"
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as owner:
        await owner.execute(f"CREATE DATABASE {name}".encode())
    url = psycopg.conninfo.make_conninfo(running.database_url, dbname=name)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as owner:
        await owner.execute("CREATE TABLE rows (n int)")
        await owner.execute(
            "CREATE FUNCTION note(n int) RETURNS int LANGUAGE sql AS 'INSERT INTO rows VALUES (n) RETURNING n'"
        )
    yield url
    async with await psycopg.AsyncConnection.connect(running.database_url, autocommit=True) as owner:
        await owner.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
async def wire(database: str) -> AsyncIterator[Wire]:
    folder = str(psycopg.conninfo.conninfo_to_dict(database)["host"])
    async with Wire(Path(folder) / ".s.PGSQL.5432", answers=lambda: PostgresCommits({"note"})) as wire:
        yield wire


async def connect(database: str, wire: Wire) -> Connection:
    url = psycopg.conninfo.make_conninfo(database, host=wire.address)
    return await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=5)


async def rows(database: str) -> list[int]:
    async with await psycopg.AsyncConnection.connect(database) as direct:
        return [row[0] for row in await (await direct.execute("SELECT n FROM rows ORDER BY n")).fetchall()]


async def test_a_slow_wire_delays_both_directions(database: str, wire: Wire) -> None:
    """A question and its answer each arrive later by the delay. Only we can enter the folder of its socket."""
    assert stat.S_IMODE(Path(wire.address).stat().st_mode) == 0o700
    async with await connect(database, wire) as connection:
        assert (wire.delayed, wire.connections) == (0, 1)
        wire.mode = slow(0.1)
        began = time.monotonic()
        await connection.execute("SELECT 1")
        assert time.monotonic() - began >= 0.2
        assert wire.delayed >= 2
        wire.mode = PASS
        await connection.execute("SELECT 1")
    assert (wire.cuts, wire.refused, wire.swallowed, wire.lost) == (0, 0, 0, 0)


async def test_a_cut_wire_ends_connections_and_refuses_new_ones(database: str, wire: Wire) -> None:
    """The open connection breaks, no new one is had, and after the cut there are connections again."""
    connection = await connect(database, wire)
    wire.mode = CUT
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        await connect(database, wire)
    assert wire.cuts == 1
    assert wire.refused >= 1
    wire.mode = PASS
    async with await connect(database, wire) as again:
        await again.execute("SELECT 1")
    await connection.close()


async def test_a_half_open_wire_takes_everything_and_answers_nothing(database: str, wire: Wire) -> None:
    """A question has no answer for as long as it lasts, and its connection is cut afterwards: it has lost bytes."""
    connection = await connect(database, wire)
    wire.mode = HALF_OPEN
    asked = asyncio.create_task(connection.execute("SELECT 1"))
    reader, writer = await asyncio.open_unix_connection(str(Path(wire.address) / ".s.PGSQL.5432"))
    writer.write(b"anything")
    answer = asyncio.create_task(reader.read(1))
    done, _ = await asyncio.wait({asked, answer}, timeout=0.5)
    assert not done
    assert wire.swallowed >= 2
    assert wire.cuts == 0
    wire.mode = PASS
    with pytest.raises(psycopg.OperationalError):
        await asked
    assert await answer == b""
    assert wire.cuts == 2
    writer.close()
    await connection.close()
    async with await connect(database, wire) as again:
        await again.execute("SELECT 1")


async def test_a_commit_is_made_and_its_answer_is_lost(database: str, wire: Wire) -> None:
    """The caller gets an error although the row is there: of a statement, a function, and a whole transaction."""
    wire.mode = lose_answers()
    for n, statement in ((1, "INSERT INTO rows VALUES (1)"), (2, "SELECT note(2)")):
        connection = await connect(database, wire)
        assert await (await connection.execute("SELECT 0")).fetchone() == (0,)
        with pytest.raises(psycopg.OperationalError):
            await connection.execute(statement.encode())
        assert (await rows(database))[-1] == n
        await connection.close()
    connection = await connect(database, wire)
    await connection.execute("BEGIN")
    await connection.execute("SELECT note(3)")
    assert 3 not in await rows(database)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("COMMIT")
    assert await rows(database) == [1, 2, 3]
    assert wire.lost == wire.cuts == 3
    await connection.close()
    # One in two: the first answer arrives.
    wire.mode = lose_answers(2)
    async with await connect(database, wire) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT note(1 / 0)")
    lost = 0
    for n in (4, 5):
        connection = await connect(database, wire)
        try:
            await connection.execute("SELECT note(%s)", (n,))
        except psycopg.OperationalError:
            lost += 1
        await connection.close()
    assert lost == 1
    assert await rows(database) == [1, 2, 3, 4, 5]


async def test_a_wire_to_temporal_breaks_in_the_same_ways(running: stack.Stack) -> None:
    """A call fails while the wire is cut and when its answer is lost, and succeeds on the same client afterwards."""
    async with Wire(running.temporal.address, answers=GrpcAnswers) as wire:
        client = await Client.connect(wire.address, namespace=running.temporal.namespace)

        async def call(seconds: float = 10) -> None:
            await client.workflow_service.get_system_info(
                GetSystemInfoRequest(), retry=False, timeout=timedelta(seconds=seconds)
            )

        async def works_again() -> None:
            wire.mode = PASS
            async with asyncio.timeout(30):
                while True:
                    try:
                        await call()
                        return
                    except RPCError:
                        await asyncio.sleep(0.05)

        await call()
        wire.mode = CUT
        with pytest.raises(RPCError):
            await call()
        assert wire.cuts == 1
        await works_again()
        wire.mode = HALF_OPEN
        with pytest.raises(RPCError):
            await call(0.3)
        assert wire.swallowed >= 1
        await works_again()
        lost = wire.lost
        wire.mode = lose_answers()
        with pytest.raises(RPCError):
            await call()
        assert wire.lost > lost
        await works_again()


async def test_a_wire_without_a_server_refuses(tmp_path: Path) -> None:
    """A client of a server that is gone sees its connection close, and the wire stays."""
    async with Wire(tmp_path / ".s.PGSQL.5432") as wire:
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(str(Path(wire.address) / ".s.PGSQL.5432"))
            assert await reader.read() == b""
            writer.close()
        with pytest.raises(BadInput, match="answer"):
            wire.mode = lose_answers()
    assert not Path(wire.address).exists()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_delay_that_is_none_is_refused(seconds: float) -> None:
    """A slow wire needs a positive, finite delay."""
    with pytest.raises(BadInput, match="delay"):
        slow(seconds)
    with pytest.raises(BadInput, match="answers"):
        lose_answers(0)


async def test_the_writing_functions_are_read_from_the_database(pool: Pool) -> None:
    """Those of the ledger and of the provider that write, and none that only reads."""
    found = await writing_functions(pool)
    assert {"receive_order", "record_charge", "finish_order", "provider.charge", "provider.dispatch"} <= found
    assert not {"claim_charge", "watched", "refuse_rewriting"} & found


async def test_a_pool_comes_back_soon_after_a_long_outage(database: str, wire: Wire) -> None:
    """It asks again each second, also when its own pauses have become long, and who waits gets a connection."""
    pool = await open_pool(psycopg.conninfo.make_conninfo(database, host=wire.address), size=1)
    try:
        wire.mode = CUT
        with pytest.raises(DatabaseUnavailable):
            async with borrowed(pool) as connection:
                await connection.execute("SELECT 1")

        async def waits() -> None:
            async with borrowed(pool) as connection:
                await connection.execute("SELECT 1")

        waiting = asyncio.create_task(waits())
        # With pauses that double, the fifth attempt would come after 10 s.
        async with asyncio.timeout(8):
            while wire.refused < 5:
                await asyncio.sleep(0.02)
        wire.mode = PASS
        await waiting
    finally:
        await pool.close()


async def test_a_pool_gives_up_a_server_that_vanished(database: str, wire: Wire) -> None:
    """Over TCP it asks the system to look for a dead server, unless the address says something else."""
    for more, idle in ({}, "10"), ({"keepalives_idle": "77"}, "77"):
        url = psycopg.conninfo.make_conninfo(database, host=wire.address, **more)
        pool = await open_pool(url, size=1)
        async with borrowed(pool) as connection:
            parameters = connection.info.get_parameters()
        await pool.close()
        assert (parameters["keepalives_idle"], parameters["keepalives_count"]) == (idle, "3")

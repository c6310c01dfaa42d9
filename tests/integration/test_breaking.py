"""One server of a workspace is killed, started again at its address, frozen, and let go on; never another's."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import pytest
from temporalio.client import Client

from trellis import stack
from trellis.config import Settings
from trellis.errors import StackError
from trellis.stack import breaking

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="trellis-breaking-"))
    settings = Settings.model_validate({"TRELLIS_HOME": home})
    await stack.up(settings)
    yield settings
    stack.down(settings)
    shutil.rmtree(home, ignore_errors=True)


def statuses(settings: Settings, server: breaking.Server) -> set[str]:
    return {str(process.status()) for process in breaking.processes(settings, server)}


async def test_a_killed_temporal_comes_back_at_its_address_with_its_data(own: Settings) -> None:
    """A client that was connected before goes on, and the workflow that was started before is there.

    Its port is none of those that the system gives to outgoing connections: they begin at 32768 or above.
    """
    before = stack.require(own).temporal
    assert int(before.address.rpartition(":")[2]) < 32_768
    client = await Client.connect(before.address)
    await client.start_workflow("Anything", id="kept", task_queue="nobody", execution_timeout=timedelta(minutes=5))
    pid = await breaking.kill(own, "temporal")
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert stack.find(own) is None
    await breaking.start_again(own, "temporal")
    await breaking.start_again(own, "temporal")
    assert stack.require(own).temporal == before
    async with asyncio.timeout(30):
        assert (await client.get_workflow_handle("kept").describe()).id == "kept"


async def test_a_killed_postgres_comes_back_with_its_data(own: Settings) -> None:
    """All its processes end, and what was committed is there at the same address."""
    url = stack.require(own).database_url
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        pids = {process.pid for process in breaking.processes(own, "postgres")}
        assert len(pids) > 2
        assert await breaking.kill(own, "postgres") in pids
        with pytest.raises(psycopg.OperationalError):
            await connection.execute("SELECT 1")
    with pytest.raises(StackError, match="No Postgres runs"):
        breaking.processes(own, "postgres")
    await breaking.start_again(own, "postgres")
    assert stack.require(own).database_url == url
    async with await psycopg.AsyncConnection.connect(url) as connection:
        assert await (await connection.execute("SELECT n FROM kept")).fetchone() == (1,)


async def test_a_frozen_server_stands_still_and_goes_on(own: Settings) -> None:
    """Every process of it is stopped, its clients wait, and later they get their answers."""
    url = stack.require(own).database_url
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await breaking.freeze(own, "postgres")
        await breaking.freeze(own, "temporal")
        assert statuses(own, "postgres") == statuses(own, "temporal") == {psutil.STATUS_STOPPED}
        asked = asyncio.create_task(connection.execute("SELECT 1"))
        done, _ = await asyncio.wait({asked}, timeout=0.3)
        assert not done
        for server in ("postgres", "temporal"):
            for _ in range(2):
                await breaking.thaw(own, server)
        assert await (await asked).fetchone() == (1,)
    assert psutil.STATUS_STOPPED not in statuses(own, "temporal")


async def test_servers_of_others_are_not_touched(own: Settings, tmp_path: Path) -> None:
    """A server that the settings name is refused, although it runs in a workspace of ours."""
    found = stack.require(own)
    named = Settings.model_validate({
        "TRELLIS_HOME": tmp_path, "DATABASE_URL": found.database_url, "TEMPORAL_ADDRESS": found.temporal.address,
    })  # fmt: skip
    for server in ("postgres", "temporal"):
        for broken in (breaking.kill, breaking.freeze):
            with pytest.raises(StackError, match="not started by Trellis"):
                await broken(named, server)
        await breaking.thaw(named, server)
    assert stack.find(own) == found


async def test_frozen_servers_end_with_the_workspace(own: Settings) -> None:
    """`down` ends servers that an interrupted run left frozen."""
    both = [breaking.processes(own, server)[0] for server in ("postgres", "temporal")]
    for server in ("postgres", "temporal"):
        await breaking.freeze(own, server)
    assert sorted(await asyncio.to_thread(stack.down, own)) == ["postgres", "temporal"]
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in both)
    with pytest.raises(StackError, match="No Temporal runs"):
        await breaking.kill(own, "temporal")

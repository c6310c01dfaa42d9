"""The servers: shared, surviving, found again, and ended without a trace."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import psycopg
import pytest

from trellis import stack
from trellis.config import Settings
from trellis.errors import DatabaseUnavailable, StackError, TemporalUnavailable


@pytest.fixture
async def mine() -> AsyncIterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="trellis-stack-"))
    settings = Settings.model_validate({"TRELLIS_HOME": home})
    yield settings
    stack.down(settings)
    shutil.rmtree(home, ignore_errors=True)


def servers_of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def until_dead(pid: int) -> None:
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)


async def starts_elsewhere(home: Path, then: str = "") -> subprocess.Popen[bytes]:
    code = (
        "import asyncio, sys, time; from trellis import config, stack; "
        "print(asyncio.run(stack.up(config.load())).temporal.address, flush=True); " + then
    )
    environment = {**os.environ, "TRELLIS_HOME": str(home)}
    return subprocess.Popen(  # noqa: ASYNC220 -- it returns at once
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE
    )


async def test_a_stack_survives_its_starter_and_is_shared(mine: Settings) -> None:
    """A killed starter leaves the servers to the next command; two starters at once make one stack; down ends all."""
    first, second = [await starts_elsewhere(mine.home, "time.sleep(60)") for _ in range(2)]
    assert first.stdout is not None
    assert second.stdout is not None
    with first.stdout, second.stdout:
        addresses = {await asyncio.to_thread(one.stdout.readline) for one in (first, second)}  # type: ignore[union-attr]
        for one in (first, second):
            one.send_signal(signal.SIGKILL)
            one.wait()
    assert len(addresses) == 1
    found = stack.find(mine)
    assert found is not None
    assert found.temporal.address.encode() == addresses.pop().strip()
    async with await psycopg.AsyncConnection.connect(found.database_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE kept (n int)")
    assert await stack.up(mine) == found
    # A broken state file is mended from the process that runs.
    (mine.home / "stack.json").write_text("{broken")
    assert stack.find(mine) == found
    # A killed Postgres comes back with its data.
    pid = int((mine.home / "postgres" / "postmaster.pid").read_text().split()[0])
    psutil.Process(pid).kill()
    async with asyncio.timeout(20):
        await asyncio.to_thread(until_dead, pid)
    assert stack.find(mine) is None
    again = await stack.up(mine)
    async with await psycopg.AsyncConnection.connect(again.database_url) as connection:
        await connection.execute("SELECT n FROM kept")
    assert sorted(stack.down(mine)) == ["postgres", "temporal"]
    assert servers_of(mine.home) == []
    assert stack.find(mine) is None
    assert stack.down(mine) == []


async def test_a_stale_state_file_counts_as_none(mine: Settings) -> None:
    """After a reboot the process id may be anybody's: it is not taken for a server, and never ended."""
    me = psutil.Process()
    (mine.home / "stack.json").write_text(
        f'{{"pid": {me.pid}, "created": 1.0, "address": "127.0.0.1:1", "ui": "http://127.0.0.1:2", "namespace": "x"}}'
    )
    assert stack.find(mine) is None
    assert stack.down(mine) == []


async def test_servers_from_outside_are_never_ended_or_emptied(mine: Settings, running: stack.Stack) -> None:
    """With both addresses given, the same code runs against them, and down and reset leave them alone."""
    outside = Settings.model_validate(
        {
            "TRELLIS_HOME": mine.home,
            "TEMPORAL_ADDRESS": running.temporal.address,
            "DATABASE_URL": running.database_url,
        }
    )
    up = await stack.up(outside)
    assert up.temporal.external
    assert up.database_external
    assert stack.down(outside) == []
    with pytest.raises(StackError, match="never empties"):
        stack.reset(outside)
    assert (await stack.up(outside)) == up
    assert servers_of(mine.home) == []


async def test_a_temporal_that_is_not_there_is_a_sentence(mine: Settings, running: stack.Stack) -> None:
    """Nothing listening, no such namespace, no such program: each says what to correct; nothing is left running."""
    database = {"TRELLIS_HOME": mine.home, "DATABASE_URL": running.database_url}
    for extra, sentence in (
        ({"TEMPORAL_ADDRESS": "127.0.0.1:1"}, "TEMPORAL_ADDRESS"),
        ({"TEMPORAL_ADDRESS": running.temporal.address, "TEMPORAL_NAMESPACE": "nowhere"}, "namespace 'nowhere'"),
        ({"TRELLIS_TEMPORAL_CLI": "/nowhere/temporal"}, "TRELLIS_TEMPORAL_CLI"),
    ):
        with pytest.raises(TemporalUnavailable, match=sentence):
            await stack.up(Settings.model_validate(database | extra))
    assert servers_of(mine.home) == []


async def test_when_one_server_fails_the_other_is_not_left_behind(mine: Settings) -> None:
    """A stack comes up whole or not at all."""
    broken = Settings.model_validate({"TRELLIS_HOME": mine.home, "DATABASE_URL": "postgresql://x@127.0.0.1:1/x"})
    with pytest.raises(DatabaseUnavailable, match="DATABASE_URL"):
        await stack.up(broken)
    assert servers_of(mine.home) == []


async def test_a_disk_without_room_is_refused_first(mine: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is said before anything starts."""
    monkeypatch.setattr(stack, "LEAST_ROOM", 10**18)
    with pytest.raises(StackError, match="200 MB"):
        await stack.up(mine)
    assert servers_of(mine.home) == []

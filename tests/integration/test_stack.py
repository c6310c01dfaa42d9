"""The servers are shared, survive their starter, are found again, and end completely."""

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

pytestmark = pytest.mark.slow


@pytest.fixture
async def own() -> AsyncIterator[Settings]:
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


async def test_a_stack_survives_its_starter_and_is_shared(own: Settings) -> None:
    """A killed starter leaves the servers to the next command; two starters at once make one stack; down ends all."""
    first, second = [await starts_elsewhere(own.home, "time.sleep(60)") for _ in range(2)]
    assert first.stdout is not None
    assert second.stdout is not None
    with first.stdout, second.stdout:
        addresses = {await asyncio.to_thread(one.stdout.readline) for one in (first, second)}  # type: ignore[union-attr]
        for one in (first, second):
            one.send_signal(signal.SIGKILL)
            one.wait()
    assert len(addresses) == 1
    found = stack.find(own)
    assert found is not None
    assert found.temporal.address.encode() == addresses.pop().strip()
    async with await psycopg.AsyncConnection.connect(found.database_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE kept (n int)")
    assert await stack.up(own) == found
    # A broken state file, or a lost one, is mended from the process that runs.
    (own.home / "stack.json").write_text("{broken")
    assert stack.find(own) == found
    (own.home / "stack.json").unlink()
    assert stack.find(own) == found
    # A killed Postgres comes back with its data.
    pid = int((own.home / "postgres" / "postmaster.pid").read_text().split()[0])
    psutil.Process(pid).kill()
    async with asyncio.timeout(20):
        await asyncio.to_thread(until_dead, pid)
    assert stack.find(own) is None
    again = await stack.up(own)
    async with await psycopg.AsyncConnection.connect(again.database_url) as connection:
        await connection.execute("SELECT n FROM kept")
    assert sorted(stack.down(own)) == ["postgres", "temporal"]
    assert servers_of(own.home) == []
    assert stack.find(own) is None
    assert stack.down(own) == []


async def test_a_stale_state_file_counts_as_none(own: Settings) -> None:
    """After a reboot the process id may belong to another program. It is not taken for a server, and never ended."""
    me = psutil.Process()
    (own.home / "stack.json").write_text(
        f'{{"pid": {me.pid}, "created": 1.0, "address": "127.0.0.1:1", "ui": "http://127.0.0.1:2", "namespace": "x"}}'
    )
    assert stack.find(own) is None
    assert stack.down(own) == []


async def test_servers_from_outside_are_never_ended_or_emptied(own: Settings, running: stack.Stack) -> None:
    """With both addresses given, the same code runs against them, and down and reset leave them alone."""
    outside = Settings.model_validate(
        {
            "TRELLIS_HOME": own.home,
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
    assert servers_of(own.home) == []


async def test_a_temporal_that_is_not_there_is_a_sentence(own: Settings, running: stack.Stack) -> None:
    """Nothing listening, no such namespace, no such program: each says what to correct; nothing is left running."""
    database = {"TRELLIS_HOME": own.home, "DATABASE_URL": running.database_url}
    for extra, sentence in (
        ({"TEMPORAL_ADDRESS": "127.0.0.1:1"}, "TEMPORAL_ADDRESS"),
        ({"TEMPORAL_ADDRESS": running.temporal.address, "TEMPORAL_NAMESPACE": "nowhere"}, "namespace 'nowhere'"),
        ({"TRELLIS_TEMPORAL_CLI": "/nowhere/temporal"}, "TRELLIS_TEMPORAL_CLI"),
    ):
        with pytest.raises(TemporalUnavailable, match=sentence):
            await stack.up(Settings.model_validate(database | extra))
    assert servers_of(own.home) == []


async def test_when_one_server_fails_the_other_is_not_left_behind(own: Settings) -> None:
    """Either both servers start, or none is left running."""
    broken = Settings.model_validate({"TRELLIS_HOME": own.home, "DATABASE_URL": "postgresql://x@127.0.0.1:1/x"})
    with pytest.raises(DatabaseUnavailable, match="DATABASE_URL"):
        await stack.up(broken)
    assert servers_of(own.home) == []


async def test_a_disk_without_room_is_refused_first(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is reported before anything starts."""
    monkeypatch.setattr(stack, "LEAST_ROOM", 10**18)
    with pytest.raises(StackError, match="200 MB"):
        await stack.up(own)
    assert servers_of(own.home) == []


async def test_callers_on_one_loop_share_a_stack_too(own: Settings) -> None:
    """A task that waits for its turn does not stop the loop of the one that holds the workspace."""
    first, second = await asyncio.gather(stack.up(own), stack.up(own))
    assert first == second
    async with await psycopg.AsyncConnection.connect(first.database_url) as connection:
        settings = await connection.execute(
            "SELECT current_setting('max_connections'), current_setting('fsync'), current_setting('synchronous_commit')"
        )
        assert await settings.fetchone() == ("200", "on", "on")


async def test_a_cancelled_start_leaves_nothing_running(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the servers start ends the one that has started already."""
    almost = asyncio.Event()

    async def never(*_: object, **__: object) -> None:
        almost.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("trellis.stack.temporal.connect", never)
    starting = asyncio.create_task(stack.up(own))
    await almost.wait()
    assert servers_of(own.home) != []
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert servers_of(own.home) == []


@pytest.mark.parametrize("name", ["my project/it's", "d" * 60 + "/" + "e" * 60])
async def test_a_home_may_have_an_odd_or_a_long_name(own: Settings, name: str) -> None:
    """Spaces, quotes, and paths longer than a Unix socket's: both servers start, and are found again."""
    odd = own.model_copy(update={"home": own.home / name})
    try:
        up = await stack.up(odd)
        assert stack.find(odd) == up
        async with await psycopg.AsyncConnection.connect(up.database_url) as connection:
            await connection.execute("SELECT 1")
    finally:
        assert sorted(stack.down(odd)) == ["postgres", "temporal"]


async def test_a_name_that_temporal_cannot_open_is_a_sentence(own: Settings) -> None:
    """Temporal opens its data by URL, in which some letters mean something else."""
    with pytest.raises(TemporalUnavailable, match="TRELLIS_HOME"):
        await stack.up(own.model_copy(update={"home": own.home / "what?"}))
    assert servers_of(own.home) == []


async def test_another_workspaces_postgres_is_not_ours(own: Settings, running: stack.Stack) -> None:
    """After a reboot our server's process id may be another server's: that one is neither used nor ended."""
    theirs = (running.home / "postgres" / "postmaster.pid").read_text()
    (own.home / "postgres").mkdir()
    (own.home / "postgres" / "postmaster.pid").write_text(theirs)
    assert stack.find(own) is None
    assert stack.down(own) == []
    assert psutil.pid_exists(int(theirs.split()[0]))


async def test_reset_deletes_what_is_ours_and_nothing_else(own: Settings) -> None:
    """TRELLIS_HOME may be a folder in which people keep other things; after a reset the workspace starts afresh."""
    (own.home / "thesis.txt").write_text("years")
    up = await stack.up(own)
    async with await psycopg.AsyncConnection.connect(up.database_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE forgotten (n int)")
    stack.reset(own)
    assert {entry.name for entry in own.home.iterdir()} <= {"thesis.txt", "stack.lock"}
    assert (own.home / "thesis.txt").read_text() == "years"
    again = await stack.up(own)
    async with await psycopg.AsyncConnection.connect(again.database_url) as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            await connection.execute("SELECT n FROM forgotten")


async def test_a_half_made_database_is_made_again(own: Settings) -> None:
    """An initdb that was killed half-way is not taken for a database."""
    (own.home / "postgres.new").mkdir()
    (own.home / "postgres.new" / "PG_VERSION").write_text("18")
    assert (await stack.up(own)).database_url


async def test_a_namespace_named_later_is_made(own: Settings) -> None:
    """TEMPORAL_NAMESPACE may be set after our own server was started: it is a server for playing."""
    first = await stack.up(own)
    other = own.model_copy(update={"temporal_namespace": "elsewhere"})
    second = await stack.up(other)
    assert second.temporal.address == first.temporal.address
    assert (await stack.connect(second.temporal)).namespace == "elsewhere"
    assert stack.find(other) == second


async def test_a_program_that_is_none_is_a_sentence(own: Settings) -> None:
    """The file cannot be run, is no program, or ends with an error: the sentence names it, or its last line."""
    program = own.home / "temporal-of-mine"
    for text, mode, sentence in (
        ("", 0o600, "TRELLIS_TEMPORAL_CLI"),
        ("nothing", 0o700, "cannot be run"),
        ("#!/bin/sh\necho out of order >&2\nexit 3\n", 0o700, "out of order"),
    ):
        program.write_text(text)
        program.chmod(mode)
        with pytest.raises(TemporalUnavailable, match=sentence):
            await stack.up(own.model_copy(update={"temporal_cli": program}))
    assert servers_of(own.home) == []


@pytest.mark.parametrize(
    "address", ["not an address", "postgresql://user:secret@127.0.0.1:abc/x", "user secret@nonsense"]
)
async def test_a_malformed_database_address_is_refused_without_its_password(own: Settings, address: str) -> None:
    """The message names what is malformed, and does not show the password."""
    with pytest.raises(DatabaseUnavailable, match="DATABASE_URL") as raised:
        await stack.up(own.model_copy(update={"database_url": address}))
    assert "secret" not in str(raised.value)
    assert servers_of(own.home) == []

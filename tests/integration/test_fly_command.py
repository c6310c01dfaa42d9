"""`trellis fly` as a process: it runs an app from a file until it is told to end, or one workflow to its result."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from trellis import stack
from trellis.config import Settings
from trellis.db.pool import Pool
from trellis.desk import Desk

pytestmark = pytest.mark.slow

APP = """
from datetime import timedelta
from temporalio import activity, workflow
from beside import GREETING

@activity.defn
def greet(name: str, times: int) -> str:
    return f"{GREETING} {name}" * times

@workflow.defn
class Greet:
    @workflow.run
    async def run(self, name: str, times: int = 1) -> str:
        return await workflow.execute_activity(greet, args=[name, times], start_to_close_timeout=timedelta(seconds=9))
"""


async def fly(settings: Settings, folder: Path, *words: str) -> asyncio.subprocess.Process:
    """Started in another folder than the app's: its folder is on the path because the file is in it."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trellis", "fly", str(folder / "greetings.py"), *words,
        cwd=folder.parent, env=os.environ | settings.environment() | {"PYTHONPATH": os.getcwd()},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "greetings.py").write_text(APP)
    (tmp_path / "app" / "beside.py").write_text("GREETING = 'hello'\n")
    return tmp_path / "app"


async def test_an_app_flies_until_it_is_told_to_end(
    settings: Settings, running: stack.Stack, idle_desk: Desk, owner: Pool, folder: Path
) -> None:
    """It says what runs where and how to start one; workflows run; after SIGTERM it ends with 0. Its book is full."""
    process = await fly(settings, folder, "--queue", "greeters", "--namespace", "default")
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            line = (await process.stderr.readline()).decode()
        assert "Flying on queue greeters of namespace default: workflow Greet; activity greet." in line
        assert f"trellis fly {folder / 'greetings.py'} --start Greet" in line
        handle = await idle_desk.client.start_workflow(
            "Greet", args=["you", 2], id=f"greet-{process.pid}", task_queue="greeters"
        )
        async with asyncio.timeout(60):
            assert await handle.result() == "hello youhello you"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0, await process.stderr.read()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    async with owner.connection() as connection:
        rows = await connection.execute(
            "SELECT activity_type, outcome FROM flights.attempts WHERE workflow_id = %s", (handle.id,)
        )
        assert await rows.fetchall() == [("greet", "succeeded")]


async def test_one_workflow_is_run_to_its_result(settings: Settings, running: stack.Stack, folder: Path) -> None:
    """Its result is on stdout; what cannot be read as its arguments is refused, and nothing is started."""
    runs = [
        (["--start", "Greet", '"you"', "--json"], 0, ""),
        (["--start", "Greet", "7"], 1, "could not read these arguments"),
        (['"you"'], 2, "need --start"),
    ]
    processes = await asyncio.gather(*(fly(settings, folder, *words) for words, _, _ in runs))
    async with asyncio.timeout(90):
        ends = await asyncio.gather(*(process.communicate() for process in processes))
    for process, (out, err), (words, code, says) in zip(processes, ends, runs, strict=True):
        assert process.returncode == code, (words, out, err)
        assert says in " ".join(err.decode().split()), words
    done = json.loads(ends[0][0])
    assert done["result"] == "hello you"
    assert done["workflow_id"].startswith("greet-")

"""Orders under canonical faults while their worker is killed again and again; then the audit."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trellis import stack
from trellis.audit import Report, audit
from trellis.bench.floor import complete_one, many
from trellis.config import Settings
from trellis.db.migrate import migrate
from trellis.db.pool import open_pool
from trellis.desk import Desk, opened
from trellis.errors import StackError
from trellis.faults import FaultPlan
from trellis.policies import Policy


@dataclass
class Driven:
    """How many orders ended in which state, and how long each took from start to end [s]."""

    states: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


async def drive(desk: Desk, orders: int, at_once: int, policy: Policy, tick: Callable[[], None]) -> Driven:
    """Start orders, approve each at once, and wait for their ends, `at_once` at a time."""
    driven = Driven()

    async def one() -> None:
        _, state, took = await complete_one(desk, policy)
        driven.states[state] += 1
        driven.seconds.append(took)
        tick()

    await many(orders, at_once, one)
    return driven


async def chaos(
    settings: Settings, orders: int, at_once: int, policy: Policy, kill_every: float, tick: Callable[[], None]
) -> tuple[Driven, int, Report]:
    """(what became of the orders, how often the worker was killed, the audit), in a stack of its own.

    The worker is a process of its own that gets SIGKILL every `kill_every` seconds and is started anew.
    """
    home = Path(tempfile.mkdtemp(prefix="trellis-chaos-"))
    own = settings.model_copy(update={"home": home})
    try:
        up = await stack.up(own)
        await migrate(up.database_url)
        pool = await open_pool(up.database_url, size=16)
        try:
            async with opened(up, own, pool=pool) as desk:
                await desk.ledger.set_fault_plan(FaultPlan.canonical())
                killer = asyncio.create_task(_kill_again_and_again(home, kill_every))
                try:
                    driven = await drive(desk, orders, at_once, policy, tick)
                finally:
                    killer.cancel()
                    kills = await killer
                return driven, kills, await audit(desk.client, pool)
        finally:
            await pool.close()
    finally:
        stack.down(own)
        shutil.rmtree(home, ignore_errors=True)


async def _kill_again_and_again(home: Path, every: float) -> int:
    """Keep one worker process running, kill it every so often; returns how often once it is cancelled."""
    kills = 0
    worker = await _worker(home)
    try:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.wait(), every)
                raise StackError(f"The worker ended by itself; {home / 'worker.log'} says why.")
            worker.kill()
            await worker.wait()
            kills += 1
            worker = await _worker(home)
    except asyncio.CancelledError:
        return kills
    finally:
        with suppress(ProcessLookupError):
            worker.terminate()
        await worker.wait()


async def _worker(home: Path) -> Process:
    environ = {key: value for key, value in os.environ.items() if key not in ("TRELLIS_HOME", "LOG_LEVEL")}
    with (home / "worker.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trellis", "worker",
            stderr=log, env={**environ, "TRELLIS_HOME": str(home), "LOG_LEVEL": "ERROR"},
        )  # fmt: skip

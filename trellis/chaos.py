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

    The worker is a process of its own that gets SIGKILL every `kill_every` seconds and is started anew. Servers that
    the settings name are left in peace. Raises StackError, also when the worker ends by itself.
    """
    home = Path(tempfile.mkdtemp(prefix="trellis-chaos-"))
    own = settings.apart(home)
    try:
        up = await stack.up(own)
        await migrate(up.database_url)
        pool = await open_pool(up.database_url, size=16)
        try:
            async with opened(up, own, pool=pool) as desk:
                await desk.ledger.set_fault_plan(FaultPlan.canonical())
                killer = asyncio.create_task(_kill_again_and_again(own, kill_every))
                driver = asyncio.create_task(drive(desk, orders, at_once, policy, tick))
                try:
                    # Without a worker no order ends: whichever is over first ends the other.
                    await asyncio.wait({killer, driver}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    both = (killer, driver)
                    for task in both:
                        task.cancel()
                    await asyncio.wait(both)
                kills = killer.result()
                return driver.result(), kills, await audit(desk.client, pool)
        finally:
            await pool.close()
    finally:
        stack.down(own)
        shutil.rmtree(home, ignore_errors=True)


async def _kill_again_and_again(settings: Settings, every: float) -> int:
    """Keep one worker process running, kill it every so often; returns how often once it is cancelled."""
    kills = 0
    log = settings.home / "worker.log"
    worker = await worker_process(settings, log)
    try:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.wait(), every)
                said = log.read_text("utf-8", "replace").strip().splitlines()
                raise StackError(f"The worker ended by itself; its last words: {said[-1] if said else 'none'}")
            worker.kill()
            await worker.wait()
            kills += 1
            worker = await worker_process(settings, log)
    except asyncio.CancelledError:
        return kills
    finally:
        with suppress(ProcessLookupError):
            worker.terminate()
        await worker.wait()


async def worker_process(settings: Settings, log: Path) -> Process:
    """A `trellis worker` with these settings; what it says is added to `log`."""
    with log.open("ab") as said:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trellis", "worker",
            stderr=said, env=os.environ | settings.environment() | {"LOG_LEVEL": "ERROR"},
        )  # fmt: skip

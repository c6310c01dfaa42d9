"""Orders under canonical faults while their worker is killed again and again; then the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from trellis.audit import Report, audit
from trellis.config import Settings
from trellis.driving import Driven, drive, worker_process
from trellis.errors import StackError
from trellis.faults import FaultPlan
from trellis.policies import Policy
from trellis.runtime import opened, workspace


async def chaos(
    settings: Settings, orders: int, at_once: int, policy: Policy, kill_every: float, tick: Callable[[], None]
) -> tuple[Driven, int, Report]:
    """(how the orders ended, how often the worker was killed, the audit). Runs on a stack of its own.

    The worker is a separate process. Every `kill_every` seconds it gets SIGKILL and is started again. Servers that the
    settings name are not touched. Raises StackError, also if the worker ends by itself.
    """
    with workspace(settings) as own:
        async with opened(own, start=True, pool_size=16, pool_wait=30) as runtime:
            await runtime.desk.set_faults(FaultPlan.canonical())
            killer = asyncio.create_task(_kill_again_and_again(own, kill_every))
            driver = asyncio.create_task(drive(runtime.desk, orders, at_once, policy, tick))
            try:
                # Without a worker no order ends. So if the killer fails, the driver must be ended too.
                await asyncio.wait({killer, driver}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                both = (killer, driver)
                for task in both:
                    task.cancel()
                await asyncio.wait(both)
            kills = killer.result()
            return driver.result(), kills, await audit(runtime.desk.client, runtime.pool)


async def _kill_again_and_again(settings: Settings, every: float) -> int:
    """Keep one worker process running and kill it every `every` seconds. When cancelled, returns the number of
    kills."""
    kills = 0
    log = settings.home / "worker.log"
    worker = await worker_process(settings, log)
    try:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(worker.wait(), every)
                lines = log.read_text("utf-8", "replace").strip().splitlines()
                raise StackError(
                    f"The worker ended by itself. The last line of its log: {lines[-1] if lines else 'none'}"
                )
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

"""What a benchmark runs on: fresh servers of its own, a desk, and workers in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil

from trellis import logs, runtime, workers
from trellis.config import Settings
from trellis.db.pool import Pool
from trellis.desk import Desk
from trellis.faults import FaultPlan


@dataclass(frozen=True)
class BenchStack:
    """A running stack with its workers, the faults in force there, and the CPU time that it used."""

    desk: Desk
    pool: Pool
    watch: workers.FaultWatch
    settings: Settings
    database_url: str
    """The owner's address. The pool has only the rights of desk and workers."""

    async def set_faults(self, plan: FaultPlan) -> None:
        """Put a plan in force. The workers of this process use it at once."""
        await self.desk.set_faults(plan)
        await self.watch.refresh()

    def cpu(self) -> tuple[float, float]:
        """CPU seconds so far of (this process with its workers, the servers of this stack)."""
        servers = 0.0
        for process in psutil.process_iter():
            try:
                if str(self.settings.home) not in " ".join(process.cmdline()):
                    continue
                for one in (process, *process.children(recursive=True)):
                    # When a connection closes, its backend ends, and its CPU time moves to the parent's `children`.
                    times = one.cpu_times()
                    servers += times.user + times.system + times.children_user + times.children_system
            except psutil.Error:
                continue
        return time.process_time(), servers


@asynccontextmanager
async def bench_stack(settings: Settings, *, own_servers: bool = False) -> AsyncIterator[BenchStack]:
    """A fresh stack with workers in this process. It uses servers that the settings name, unless `own_servers`.

    The workers log as those of `trellis worker` do, into a file: their lines are part of what an order costs.
    """
    with runtime.workspace(settings, own_servers=own_servers) as own, logs.into_file(own, own.home / "worker.log"):
        async with (
            runtime.opened(own, start=True, pool_wait=30) as opened,
            opened.workers() as watch,
        ):
            yield BenchStack(opened.desk, opened.pool, watch, own, opened.stack.database_url)

"""A stack of its own for a benchmark, and orders driven through the desk."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from trellis import stack, workers
from trellis.config import Settings
from trellis.db.migrate import migrate
from trellis.db.pool import Pool, open_pool
from trellis.desk import Desk, opened
from trellis.faults import FaultPlan
from trellis.model import Order
from trellis.parsing import parse_order
from trellis.policies import Policy


@dataclass(frozen=True)
class Floor:
    """What a benchmark stands on: a desk, running workers, and the plan of faults."""

    desk: Desk
    pool: Pool
    watch: workers.FaultWatch
    settings: Settings

    async def faults(self, plan: FaultPlan) -> None:
        await self.desk.ledger.set_fault_plan(plan)
        await self.watch.refresh()

    def cpu(self) -> tuple[float, float]:
        """CPU seconds until now of (this process with its workers, this floor's own servers)."""
        servers = 0.0
        for process in psutil.process_iter():
            try:
                if str(self.settings.home) not in " ".join(process.cmdline()):
                    continue
                for one in (process, *process.children(recursive=True)):
                    # A backend that ended is counted with its postmaster's children.
                    times = one.cpu_times()
                    servers += times.user + times.system + times.children_user + times.children_system
            except psutil.Error:
                continue
        return time.process_time(), servers


@asynccontextmanager
async def standing(settings: Settings) -> AsyncIterator[Floor]:
    """A fresh stack in a folder of its own with workers in this process; external servers are used as they are."""
    home = Path(tempfile.mkdtemp(prefix="trellis-bench-"))
    own = settings.model_copy(update={"home": home})
    try:
        up = await stack.up(own)
        await migrate(up.database_url)
        pool = await open_pool(up.database_url, size=16)
        try:
            async with (
                opened(up, own, pool=pool) as desk,
                workers.running(desk.client, pool, own) as watch,
            ):
                yield Floor(desk, pool, watch, own)
        finally:
            await pool.close()
    finally:
        stack.down(own)
        shutil.rmtree(home, ignore_errors=True)


def sample_order(prefix: str) -> Order:
    id_ = f"{prefix}-{uuid.uuid4().hex[:12]}"
    return parse_order(
        id_, f"pay-{id_}", [{"sku": "book", "quantity": 2, "price": "12.50"}], {"line1": "1 Main Street"}
    )


async def complete_one(desk: Desk, policy: Policy) -> tuple[str, str, float]:
    """Start, approve at once, wait: (order id, final state, seconds)."""
    order = sample_order("bench")
    began = time.perf_counter()
    await desk.start(order, policy)
    await desk.approve(order.order_id)
    try:
        await desk.client.get_workflow_handle(f"order-{order.order_id}").result()
        state = "COMPLETED"
    except Exception:
        # An order that failed is a figure here, not an error.
        row = await desk.ledger.order(order.order_id)
        state = str(row.state if row else None)
    return order.order_id, state, time.perf_counter() - began


async def many(number: int, at_once: int, job: Callable[[], Awaitable[None]]) -> float:
    """Run `job` `number` times, `at_once` at a time; returns seconds."""
    left = iter(range(number))

    async def lane() -> None:
        for _ in left:
            await job()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(lane())
    return time.perf_counter() - began

"""What runs on which queue, and the fault plan in force."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from trellis import sandbox
from trellis.activities.attempts import worker_name
from trellis.activities.collecting import activities_on
from trellis.activities.ledger_only import LedgerActivities
from trellis.activities.steps import OutsideActivities
from trellis.config import Settings
from trellis.db.ledger import Ledger
from trellis.db.pool import Pool
from trellis.db.provider import Provider
from trellis.errors import ConfigError
from trellis.faults import PlanInForce, plan_in_force
from trellis.flaky import FlakyCall
from trellis.model import QUEUES
from trellis.workflows.order import OrderWorkflow
from trellis.workflows.shipping import ShippingWorkflow

log = structlog.get_logger("trellis.workers")

# A hung call keeps its slot until it is cancelled. With more hung calls than this, other calls wait.
SLOTS = 400

RUNNER = sandbox.RUNNER

# A reload runs this again. It reloads this module last, so that all workflow modules are the new ones by then.
sandbox.keep(*(name for name in list(sys.modules) if f"{name}.".startswith("trellis.workflows.")))


class FaultWatch:
    """The fault plan in force. It is read from the ledger twice a second, so a change reaches every process within a
    second."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        # A plan that is not from the ledger comes into force when its worker starts.
        self._fallback = replace(plan_in_force(None, settings.faults), since=datetime.now(UTC))
        self.current = self._fallback
        self.worker_failed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> FaultWatch:
        await self.refresh()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def refresh(self) -> PlanInForce:
        self.current = await self._ledger.fault_plan() or self._fallback
        return self.current

    async def _follow(self) -> None:
        complained = False
        while True:
            await asyncio.sleep(0.5)
            try:
                await self.refresh()
                complained = False
            except Exception as error:
                # The database may be unavailable for a while. The last plan stays in force. Each outage is logged
                # once: two lines a second would bury everything else.
                if complained:
                    continue
                complained = True
                if isinstance(error, ConfigError):
                    log.error("the fault plan in the ledger cannot be read", error=str(error))
                else:
                    log.warning("the fault plan cannot be looked up", error=str(error))


WORKFLOWS: dict[str, type] = {"orders": OrderWorkflow, "shipping": ShippingWorkflow}
"""What each queue's worker runs besides its activities."""


def task_queues(settings: Settings, queues: tuple[str, ...]) -> list[str]:
    """The names of these queues in Temporal. Raises ConfigError for an unknown queue."""
    unknown = set(queues) - set(QUEUES)
    if unknown or not queues:
        raise ConfigError(f"There is no queue {', '.join(sorted(unknown)) or 'named'}. Known are {', '.join(QUEUES)}.")
    names = {"orders": settings.orders_queue, "shipping": settings.shipping_queue}
    return [names[queue] for queue in queues]


def build(client: Client, settings: Settings, holders: Sequence[object], queues: tuple[str, ...]) -> list[Worker]:
    """One worker per queue, with those activities of `holders` that belong to it.

    Raises ConfigError for an unknown queue.
    """
    common: dict[str, Any] = {
        "max_concurrent_activities": SLOTS,
        "max_concurrent_local_activities": 100,
        "max_concurrent_workflow_tasks": 100,
        "max_cached_workflows": 2000,
        # After a worker dies, its own queue holds workflow tasks for this long. The default is ten seconds.
        "sticky_queue_schedule_to_start_timeout": timedelta(seconds=1),
        # A heartbeat tells a hung call that the server gave it up. By default that may take a minute.
        "max_heartbeat_throttle_interval": timedelta(seconds=0.5),
        "default_heartbeat_throttle_interval": timedelta(seconds=0.5),
        "graceful_shutdown_timeout": timedelta(seconds=1),
        "workflow_runner": RUNNER,
    }
    queues = tuple(dict.fromkeys(queues))
    return [
        Worker(
            client,
            task_queue=task_queue,
            workflows=[WORKFLOWS[queue]],
            activities=activities_on(queue, *holders),
            **common,
        )
        for queue, task_queue in zip(queues, task_queues(settings, queues), strict=True)
    ]


@asynccontextmanager
async def running(
    client: Client, pool: Pool, settings: Settings, queues: tuple[str, ...] = QUEUES
) -> AsyncIterator[FaultWatch]:
    """Run the workers of these queues for as long as the block lasts. They finish what they can before it ends.

    Yields the watch of the fault plan. Its `worker_failed` is set when a worker fails.
    """
    ledger = Ledger(pool, worker_name())
    async with FaultWatch(ledger, settings) as watch:
        provider = Provider(pool)
        outside = OutsideActivities(ledger, provider, FlakyCall(lambda: watch.current, provider.reserve))
        workers = build(client, settings, [outside, LedgerActivities(ledger)], queues)
        tasks = [asyncio.create_task(worker.run()) for worker in workers]

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                log.error("a worker failed and no longer serves its queue", error=str(task.exception()))
                watch.worker_failed.set()

        for task in tasks:
            task.add_done_callback(ended)
        try:
            yield watch
        finally:
            await asyncio.gather(*(worker.shutdown() for worker in workers))
            await asyncio.gather(*tasks, return_exceptions=True)

"""A worker process of the app. It is killed on purpose: `python -m trellis.bench.flown.worker ADDRESS SEED`."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from trellis.bench.flown.trip import ACTIVITIES, Trip
from trellis.faults import FaultPlan, Mix
from trellis.plugin import TrellisPlugin

QUEUE = "trips"


def plan(seed: int) -> FaultPlan:
    """A third of the calls fail: they raise, hang, or lose their reply."""
    return FaultPlan(Mix(error=0.2, hang=0.03, reply_lost=0.1), seed=seed)


async def main(address: str, seed: int) -> None:
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[Trip],
        activities=ACTIVITIES,
        activity_executor=ThreadPoolExecutor(20),
        max_concurrent_activities=60,
        # A killed worker's queue holds tasks so long.
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
        plugins=[TrellisPlugin(faults=plan(seed))],
    )
    async with worker:
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))

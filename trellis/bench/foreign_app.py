"""Somebody's app for `trellis bench board --foreign`, and its worker as a process of its own.

    python -m trellis.bench.foreign_app 127.0.0.1:7233 default noted plain

The worker of the first queue has the plugin, the one of the second has not. The process ends when its input ends.
"""

from __future__ import annotations

import asyncio
import random
import sys
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from trellis.plugin import TrellisPlugin

SLOTS = 200


@activity.defn
async def measure(seconds: float) -> float:
    """A call that takes a moment, and that fails once in four."""
    await asyncio.sleep(seconds)
    if random.random() < 0.25:
        raise ApplicationError("no reading", type="NoReading", category=ApplicationErrorCategory.BENIGN)
    return seconds


@workflow.defn
class Meter:
    """Measures again and again, with pauses, until it is told to stop."""

    def __init__(self) -> None:
        self._stopped = False

    @workflow.run
    async def run(self, pause: float, takes: float) -> int:
        readings = 0
        # At first all would measure at once.
        wait = workflow.random().uniform(0, pause)
        while not self._stopped:
            try:
                await workflow.wait_condition(lambda: self._stopped, timeout=timedelta(seconds=wait))
                break
            except TimeoutError:
                pass
            await workflow.execute_activity(
                measure, takes, start_to_close_timeout=timedelta(seconds=120),
                retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1),
            )  # fmt: skip
            readings += 1
            wait = pause * workflow.random().uniform(0.8, 1.2)
        return readings

    @workflow.signal
    def stop(self) -> None:
        self._stopped = True


async def main(address: str, namespace: str, noted: str, plain: str) -> None:
    """Run both workers until the input ends."""
    client = await Client.connect(address, namespace=namespace)
    workers = [
        Worker(
            client, task_queue=queue, workflows=[Meter], activities=[measure], plugins=plugins,
            workflow_runner=UnsandboxedWorkflowRunner(), max_concurrent_activities=SLOTS, max_cached_workflows=5000,
        )
        for queue, plugins in ((noted, [TrellisPlugin()]), (plain, []))
    ]  # fmt: skip
    async with workers[0], workers[1]:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

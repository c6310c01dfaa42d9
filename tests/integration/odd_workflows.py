"""Workflows of somebody else: they repeat, retry, run on, are asked, and fail in odd ways."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import suppress
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import (
    Client,
)
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory
from temporalio.worker import Plugin, UnsandboxedWorkflowRunner, Worker

SOON = timedelta(seconds=30)
QUICK = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1)


@activity.defn
async def tiny() -> None:
    """Works at once."""


@activity.defn
async def third_time() -> None:
    """Fails twice."""
    if activity.info().attempt < 3:
        raise ApplicationError("not yet", type="NotYet", category=ApplicationErrorCategory.BENIGN)


@activity.defn
async def never() -> None:
    """Fails for ever."""
    raise ApplicationError("never", type="Never", category=ApplicationErrorCategory.BENIGN)


@workflow.defn(name="Many")
class Many:
    """Five tiny activities, one that needs three attempts, a local one, and a run more for each of `more`."""

    @workflow.run
    async def run(self, more: int) -> None:
        for _ in range(5):
            await workflow.execute_activity(tiny, start_to_close_timeout=SOON)
        await workflow.execute_activity(third_time, start_to_close_timeout=SOON, retry_policy=QUICK)
        await workflow.execute_local_activity(tiny, start_to_close_timeout=SOON)
        if more:
            workflow.continue_as_new(more - 1)


@workflow.defn(name="Stuck")
class Stuck:
    """One activity that never works."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(never, start_to_close_timeout=SOON, retry_policy=QUICK)


@workflow.defn(name="Together")
class Together:
    """Two activities and a timer, started together."""

    @workflow.run
    async def run(self) -> None:
        await asyncio.gather(
            *(workflow.execute_activity(tiny, start_to_close_timeout=SOON) for _ in range(2)), workflow.sleep(0.2)
        )


@workflow.defn(name="Failing")
class Failing:
    """Fails at once."""

    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("no", type="No")


@workflow.defn(name="Unserved")
class Unserved:
    """An activity on a queue without workers, and one that fails until its time is up."""

    @workflow.run
    async def run(self) -> None:
        with suppress(ActivityError):
            await workflow.execute_activity(
                tiny, task_queue="nobody-works-here", start_to_close_timeout=SOON,
                schedule_to_start_timeout=timedelta(seconds=0.2),
            )  # fmt: skip
        slow = RetryPolicy(initial_interval=timedelta(seconds=0.5), backoff_coefficient=1)
        await workflow.execute_activity(never, schedule_to_close_timeout=timedelta(seconds=2.2), retry_policy=slow)


@workflow.defn(name="Asked")
class Asked:
    """One activity, and two updates."""

    def __init__(self) -> None:
        self.finished = False

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(tiny, start_to_close_timeout=SOON)
        await workflow.wait_condition(lambda: self.finished and workflow.all_handlers_finished())

    @workflow.update
    async def rename(self, name: str) -> str:
        await workflow.sleep(0.01)
        return name

    @workflow.update
    async def finish(self) -> None:
        self.finished = True


@workflow.defn(name="Broken")
class Broken:
    """Its workflow task fails for ever."""

    @workflow.run
    async def run(self) -> None:
        raise KeyError("colour")


def worker(client: Client, *plugins: Plugin) -> Worker:
    """Runs the workflows above on the queue `many`."""
    return Worker(
        client, task_queue="many", workflows=[Many, Stuck, Together, Failing, Unserved, Asked, Broken],
        activities=[tiny, third_time, never],
        workflow_runner=UnsandboxedWorkflowRunner(), plugins=plugins,
    )  # fmt: skip


async def run(client: Client, more: int = 0) -> str:
    id_ = f"many-{uuid.uuid4().hex[:8]}"
    await client.execute_workflow("Many", more, id=id_, task_queue="many")
    return id_


async def listed(client: Client, id_: str, runs: int) -> str:
    """A query for the id, once visibility knows so many runs."""
    query = f'WorkflowId = "{id_}"'
    async with asyncio.timeout(30):
        while (await client.count_workflows(query)).count < runs:
            await asyncio.sleep(0.1)
    return query

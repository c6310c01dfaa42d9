"""Somebody's app for the tests of the board of flights: a parcel is weighed, waits for a signal, and is loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import Worker

from trellis.plugin import TrellisPlugin

QUICK = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1)
SOON = timedelta(seconds=60)


@activity.defn
async def weigh(failures: int) -> float:
    """Fails that many times."""
    if activity.info().attempt <= failures:
        raise ApplicationError("the scales are wet", type="Wet", category=ApplicationErrorCategory.BENIGN)
    return 1.5


@activity.defn
async def load() -> str:
    return "on board"


@workflow.defn
class Parcel:
    """Waits for the signal `go` between its two activities."""

    def __init__(self) -> None:
        self._go = False

    @workflow.run
    async def run(self, failures: int) -> str:
        await workflow.execute_activity(weigh, failures, start_to_close_timeout=SOON, retry_policy=QUICK)
        await workflow.wait_condition(lambda: self._go)
        return await workflow.execute_activity(load, start_to_close_timeout=SOON, retry_policy=QUICK)

    @workflow.signal
    def go(self) -> None:
        self._go = True


@workflow.defn
class Letter:
    """Another type on the same queue. It fails."""

    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("no stamp", type="NoStamp")


@asynccontextmanager
async def parcels(client: Client, queue: str, book: str | None) -> AsyncIterator[None]:
    """A worker of the app. `book`: the database of its plugin; None for a worker without the plugin."""
    plugins = [] if book is None else [TrellisPlugin(database_url=book)]
    async with Worker(client, task_queue=queue, workflows=[Parcel, Letter], activities=[weigh, load], plugins=plugins):
        yield

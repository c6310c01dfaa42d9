"""Run cases on a real server until there is something to judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from trellis.bench.clinic import app
from trellis.bench.clinic.cases import Case

SHARED = "clinic"

EVERY_CASE = "WorkflowType STARTS_WITH 'Case'"
"""A visibility query for the workflows of all cases."""
_MANY = 2000
"""Slots of the worker that all cases share. Calls that hang hold theirs."""


def type_of(number: int) -> str:
    """The workflow type of a case. Its activity type is the same with -call."""
    return f"Case{number:02}"


def case_of(subject: str | None) -> int | None:
    """The number of the case that a type or a queue belongs to."""
    text = (subject or "").removeprefix("Case")[:2]
    return int(text) if text.isdigit() else None


@asynccontextmanager
async def workers(client: Client, cases: Sequence[Case], plugins: Sequence[Any] = ()) -> AsyncIterator[None]:
    """Workers for the cases, until the block ends: one for most, and one of its own for each case that needs it."""

    def worker(queue: str, slots: int, cached: int = 1000) -> Worker:
        return Worker(
            client, task_queue=queue, workflows=[app.Case], activities=[app.call], max_concurrent_activities=slots,
            max_cached_workflows=cached, workflow_runner=UnsandboxedWorkflowRunner(), plugins=list(plugins),
            max_concurrent_workflow_tasks=None if cached else 5, graceful_shutdown_timeout=timedelta(0),
        )  # fmt: skip

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(SHARED, _MANY))
        for number, case in enumerate(cases):
            if case.slots:
                # Without a cache every task replays, which is when code that changed is noticed.
                cached = 0 if case.code == "changed" else 1000
                await stack.enter_async_context(worker(_queue(number, case), case.slots, cached))
        yield


def _queue(number: int, case: Case) -> str:
    own = case.slots or case.code == "unserved"
    return f"{type_of(number)}-queue" if own else SHARED


async def run(
    client: Client, cases: Sequence[Case], seed: int, lasts: float, tick: Callable[[int], None] = lambda number: None,
    *, pause: float = 10.0,
) -> None:  # fmt: skip
    """Begin the workflows of all cases at their times, and wait until `lasts` seconds have passed, and longer on a
    machine that is late: until for `pause` seconds none has ended."""
    began = time.time()
    plan = sorted(
        (case.over * place / case.runs, number, place)
        for number, case in enumerate(cases)
        for place in range(case.runs)
    )
    gate = asyncio.Semaphore(50)

    async def begin(at: float, number: int, place: int) -> None:
        case, name = cases[number], type_of(number)
        unpolled = "" if case.polled or case.code else f"{name}-queue"
        work = app.Work(f"{name}-call", case.behaviour, case.options, case.calls, place, seed, at, unpolled, case.code)
        async with gate:
            await client.start_workflow(name, work, id=f"{name}-{seed}-{place}", task_queue=_queue(number, case))
        tick(1)

    begun: list[asyncio.Task[None]] = []
    for at, number, place in plan:
        await asyncio.sleep(max(0.0, began + at - time.time()))
        begun.append(asyncio.create_task(begin(at, number, place)))
    await asyncio.gather(*begun)
    await asyncio.sleep(max(0.0, began + lasts - time.time()))
    running, patience = -1, time.time() + 3 * lasts
    while time.time() < patience:
        before, running = running, (await client.count_workflows(f'{EVERY_CASE} AND ExecutionStatus = "Running"')).count
        if running == before:
            break
        await asyncio.sleep(pause)


async def end(client: Client) -> None:
    """Terminate what still runs, so that the workers can stop."""
    gate = asyncio.Semaphore(20)

    async def one(id_: str, run_id: str) -> None:
        async with gate:
            await client.get_workflow_handle(id_, run_id=run_id).terminate("the benchmark is over")

    running = [one async for one in client.list_workflows(f'{EVERY_CASE} AND ExecutionStatus = "Running"')]
    await asyncio.gather(*(one(each.id, each.run_id) for each in running), return_exceptions=True)

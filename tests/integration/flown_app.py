"""Somebody else's app, in the shapes of Temporal's own samples: one file with workflows, activities and the worker's
imports, the plugin among them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

from trellis.faults import FaultPlan
from trellis.plugin import TrellisPlugin

__all__ = ["ACTIVITIES", "Call", "Calls", "Greeting", "TrellisPlugin", "calm"]

THREADS: set[str] = set()
"""The names of the threads in which a threaded activity began."""


@dataclass
class Greeting:
    word: str
    name: str


@dataclass
class Call:
    """One activity: its type, its arguments, and the options that the tests vary."""

    type: str
    args: list[Any]
    start_to_close: float = 20.0
    heartbeat: float | None = None
    attempts: int = 3
    local: bool = False
    id: str | None = None
    cancel_after: float | None = None


@workflow.defn
class Calls:
    """Calls one activity after the other, and answers with what each returned or how it failed."""

    @workflow.run
    async def run(self, calls: list[Call]) -> list[Any]:
        return [await self._one(call) for call in calls]

    async def _one(self, call: Call) -> Any:
        options: dict[str, Any] = {
            "start_to_close_timeout": timedelta(seconds=call.start_to_close),
            "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=1), maximum_attempts=call.attempts),
            "activity_id": call.id,
        }
        if not call.local:
            options["heartbeat_timeout"] = timedelta(seconds=call.heartbeat) if call.heartbeat else None
        start = workflow.start_local_activity if call.local else workflow.start_activity
        handle = start(call.type, args=call.args, **options)
        if call.cancel_after is not None:
            await asyncio.sleep(call.cancel_after)
            handle.cancel()
        try:
            return await handle
        except Exception as error:
            return type(error.__cause__).__name__


@activity.defn
async def compose(greeting: Greeting) -> str:
    """hello/hello_activity.py"""
    return f"{greeting.word}, {greeting.name}!"


@activity.defn
def compose_in_thread(greeting: Greeting) -> str:
    """hello/hello_activity.py, threaded."""
    THREADS.add(threading.current_thread().name)
    return f"{greeting.word}, {greeting.name}!"


@activity.defn
async def fail_until(attempt: int) -> int:
    """hello/hello_activity_retry.py"""
    if activity.info().attempt < attempt:
        raise ApplicationError(f"attempt {activity.info().attempt} fails", type="NotYet")
    return activity.info().attempt


@activity.defn
async def beat(times: int) -> int:
    """hello/hello_activity_heartbeat.py"""
    for number in range(times):
        activity.heartbeat(number)
        await asyncio.sleep(0.01)
    return times


@activity.defn
def beat_in_thread(times: int) -> int:
    """Runs in a thread, or in a process of a pool as in hello/hello_activity_multiprocess.py."""
    for number in range(times):
        activity.heartbeat(number)
        time.sleep(0.01)
    return times


@activity.defn
async def wait_for_ever() -> None:
    """hello/hello_cancellation.py: beats until it is cancelled."""
    while True:
        activity.heartbeat()
        await asyncio.sleep(0.05)


@activity.defn
async def completed_elsewhere() -> str:
    """hello/hello_async_activity_completion.py"""
    activity.raise_complete_async()


ACTIVITIES: list[Callable[..., Any]] = [
    compose, compose_in_thread, fail_until, beat, beat_in_thread, wait_for_ever, completed_elsewhere,
]  # fmt: skip


def calm() -> FaultPlan:
    return FaultPlan.calm()

"""Workflows for the tests of replays: they use what a time machine must be able to look into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio import workflow

_SOON = timedelta(seconds=10)


@workflow.defn
class Calls:
    """Two activities, one after the other; then a signal; then a timer."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.released = False

    @workflow.run
    async def run(self, name: str) -> str:
        self.answers.append(await self._ask("greet", name))
        self.answers.append(await self._ask("bless", name))
        await workflow.wait_condition(lambda: self.released)
        await workflow.sleep(5)
        return " ".join(self.answers)

    async def _ask(self, what: str, name: str) -> str:
        return str(await workflow.execute_activity(what, name, start_to_close_timeout=_SOON, result_type=str))

    @workflow.signal
    def release(self) -> None:
        self.released = True


@workflow.defn
class ManyTasks:
    """Waits in a task, in an async generator and behind an awaitable object of its own, all at once."""

    def __init__(self) -> None:
        self.open = False

    @workflow.run
    async def run(self) -> str:
        waiting = asyncio.create_task(self._in_a_task())
        async for each in self._generated():
            return each + await waiting
        return ""

    async def _in_a_task(self) -> str:
        await Awaitable(self)
        return "done"

    async def _generated(self) -> AsyncIterator[str]:
        await workflow.wait_condition(lambda: self.open)
        yield "all "

    async def waits(self) -> None:
        await workflow.wait_condition(lambda: self.open)

    @workflow.signal
    def release(self) -> None:
        self.open = True


class Awaitable:
    """Hides a coroutine behind `__await__`."""

    def __init__(self, whose: ManyTasks) -> None:
        self._whose = whose

    def __await__(self):  # type: ignore[no-untyped-def]
        return self._whose.waits().__await__()


@workflow.defn
class Rounds:
    """Continues as new until no round is left, and has one child in each."""

    @workflow.run
    async def run(self, left: int) -> str:
        await workflow.execute_child_workflow("Child", left, id=f"child-{left}")
        if left:
            workflow.continue_as_new(left - 1)
        return "over"


@workflow.defn
class Child:
    @workflow.run
    async def run(self, number: int) -> int:
        return number


@workflow.defn
class Logs:
    """Writes a line to its log."""

    @workflow.run
    async def run(self) -> None:
        workflow.logger.warning("a line of the workflow")
        await workflow.sleep(1)

"""Workflows that make it hard to look into them: objects that bite, slots, many tasks, cancelled scopes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from temporalio import workflow


def bite(*_: object) -> NoReturn:
    raise SystemExit("a snapshot called user code")


class Bites:
    """Every way to look at it ends the program."""

    def __init__(self) -> None:
        object.__setattr__(self, "inside", "calm")

    __repr__ = __str__ = __eq__ = __hash__ = __iter__ = __len__ = __bool__ = bite
    __getattr__ = __getattribute__ = __setattr__ = __reduce_ex__ = bite


class Endless:
    """Whoever asks for its length or its text waits for ever."""

    def __len__(self) -> int:
        while True:
            pass

    __repr__ = __len__  # type: ignore[assignment]


@workflow.defn
class Hostile:
    """Holds what no snapshot may touch, and counts how often somebody asked it for what it does not have."""

    def __init__(self) -> None:
        self.asked = 0
        self.bites = Bites()
        self.endless = [Endless()]
        self.keys = {(1, 2): "tuple", None: "none"}
        self.huge = "x" * 50_000_000
        self.many = list(range(100_000))
        self.me = self
        self.info = workflow.info()
        self.random = workflow.random()
        self.lock = asyncio.Lock()
        self.wait = lambda: self.asked
        self.done = False

    def __getattr__(self, name: str) -> Any:
        self.__dict__["asked"] += 1
        raise AttributeError(name)

    total = property(bite)

    @workflow.run
    async def run(self) -> int:
        before = self.asked
        await workflow.wait_condition(lambda: self.done)
        return self.asked - before

    @workflow.signal
    def finish(self) -> None:
        self.done = True


@workflow.defn
class Slotted:
    """Has no `__dict__` at all."""

    __slots__ = ("__pin", "count", "unset")

    def __init__(self) -> None:
        self.count = 0
        self.__pin = 7

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.count == 2)
        return self.__pin

    @workflow.signal
    async def more(self) -> None:
        self.count += 1


@workflow.defn
class Scopes:
    """Waits in a task group, behind a shield, in a timeout, in an async generator and for a future of its own."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.go = False
        self.future: asyncio.Future[int] | None = None
        self.failed: BaseException | None = None

    @workflow.run
    async def run(self) -> list[str]:
        self.future = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                group.create_task(self._shielded(), name="shielded")
                group.create_task(self._generated(), name="generated")
                group.create_task(self._fails(), name="fails")
                group.create_task(self._of_a_future(self.future), name="future")
        except* ValueError as failures:
            self.failed = failures
        self.seen.append("over")
        return self.seen

    async def _shielded(self) -> None:
        try:
            await asyncio.shield(self._waits())
        except asyncio.CancelledError:
            self.seen.append("shielded")
            raise

    async def _generated(self) -> None:
        async for each in self._stream():
            self.seen.append(each)

    async def _stream(self) -> AsyncIterator[str]:
        yield "first"
        await self._waits()
        yield "never"

    async def _fails(self) -> None:
        await workflow.wait_condition(lambda: self.go)
        raise ValueError("on purpose")

    async def _of_a_future(self, future: asyncio.Future[int]) -> None:
        await future

    async def _waits(self) -> None:
        await workflow.wait_condition(lambda: len(self.seen) > 99)

    @workflow.signal
    def let_go(self) -> None:
        self.go = True

"""Several things at once, a child workflow, and a wait with a time limit."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow


@workflow.defn(name="Parcel")
class Parcel:
    """Ask two carriers at once, have the parcel carried by a child, and wait until it was taken."""

    def __init__(self) -> None:
        self._gone = 0
        self._waited = 0

    @workflow.run
    async def run(self, weight: int) -> int:
        await self._do("weigh", weight)
        await asyncio.gather(self._do("ask_north", weight), self._do("ask_south", weight))
        await workflow.sleep(1)
        if weight >= 10:
            await self._do("insure", weight, "heavy")
        await self._do("label", weight)
        await self._wait()
        await self._carry("Carriage", weight)
        await self._do("track", weight, "out")
        await self._wait()
        await self._do("deliver", weight)
        if weight < 30:
            await self._do("ask_for_rating", weight)
            await workflow.sleep(1)
        await self._do("archive", weight, "done")
        return weight

    async def _carry(self, how: str, weight: int) -> None:
        id_ = f"{workflow.info().workflow_id}-{how.lower()}"
        await workflow.execute_child_workflow(how, weight, id=id_)

    async def _wait(self) -> None:
        self._waited += 1
        try:
            await workflow.wait_condition(lambda: self._gone >= self._waited, timeout=3600)
        except TimeoutError:
            await self._do("give_up", self._waited)

    async def _do(self, name: str, *arguments: Any) -> Any:
        return await workflow.execute_activity(name, args=arguments, start_to_close_timeout=timedelta(seconds=20))

    @workflow.signal
    def go(self) -> None:
        self._gone += 1

    @workflow.query
    def waited(self) -> int:
        return self._waited

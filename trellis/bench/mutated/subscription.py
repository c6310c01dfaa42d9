"""A loop with timers, a counter and a limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow


@workflow.defn(name="Subscription")
class Subscription:
    """Charge each month until it is ended, with a reminder before."""

    def __init__(self) -> None:
        self._gone = 0
        self._waited = 0
        self._month = 0

    @workflow.run
    async def run(self, months: int) -> int:
        await self._do("open_account", months)
        await self._do("greet", "welcome")
        while self._month < months:
            self._month += 1
            await self._bill(self._month)
            await self._wait()
            if self._month % 2 == 0:
                await self._do("send_gift", self._month)
        await self._do("close_account", months)
        await self._do("greet", "farewell")
        return self._month

    async def _bill(self, month: int) -> None:
        await self._do("remind", month)
        await workflow.sleep(1)
        await self._do("charge", month, "monthly")
        if month > 1:
            await self._do("thank", month)
        await self._do("record", month, "paid")

    async def _wait(self) -> None:
        self._waited += 1
        await workflow.wait_condition(lambda: self._gone >= self._waited)

    async def _do(self, name: str, *arguments: Any) -> Any:
        return await workflow.execute_activity(name, args=arguments, start_to_close_timeout=timedelta(seconds=20))

    @workflow.signal
    def go(self) -> None:
        self._gone += 1

    @workflow.query
    def waited(self) -> int:
        return self._waited

"""One step after the other, with branches."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow


@workflow.defn(name="Checkout")
class Checkout:
    """Reserve, check, wait for a person, charge, ship."""

    def __init__(self) -> None:
        self._gone = 0
        self._waited = 0

    @workflow.run
    async def run(self, amount: int) -> int:
        await self._do("reserve", amount)
        await self._do("validate", amount, "strict")
        if amount > 50:
            await self._do("check_fraud", amount)
            await workflow.sleep(1)
        await self._do("notify", "received")
        await self._wait()
        if amount > 20:
            await self._do("charge", amount, "card")
        else:
            await self._do("invoice", amount)
        await self._do("notify", "charged")
        await workflow.sleep(1)
        await self._wait()
        try:
            await self._do("pack", amount)
            await self._do("dispatch", amount, "post")
        finally:
            await self._do("release", amount)
        await self._do("notify", "sent")
        return amount

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

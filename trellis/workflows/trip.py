"""A trip: a workflow that knows nothing of Trellis. The last essay learns from its histories."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy


@workflow.defn
class Trip:
    """Book a flight, a hotel and a car, then ask for the visa until it is there. The server retries what fails."""

    @workflow.run
    async def run(self, traveller: str) -> list[str]:
        booked = [await self._call(booking, traveller, str) for booking in ("book_flight", "book_hotel", "book_car")]
        number = 1
        while not await self._call("check_visa", number, bool):
            await workflow.sleep(1.5)
            number += 1
        return booked

    async def _call(self, activity: str, argument: str | int, result: type) -> Any:
        return await workflow.execute_activity(
            activity,
            argument,
            result_type=result,
            start_to_close_timeout=timedelta(seconds=1),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100), backoff_coefficient=1),
        )

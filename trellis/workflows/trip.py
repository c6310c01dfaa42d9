"""A trip: a workflow that knows nothing of Trellis. The last essay learns from its histories."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy


@workflow.defn
class Trip:
    """Book a flight, a hotel and a car, one after the other. The server retries what fails."""

    @workflow.run
    async def run(self, traveller: str) -> list[str]:
        return [
            await workflow.execute_activity(
                booking,
                traveller,
                result_type=str,
                start_to_close_timeout=timedelta(seconds=1),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100), backoff_coefficient=1),
            )
            for booking in ("book_flight", "book_hotel", "book_car")
        ]

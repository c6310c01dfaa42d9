"""A trip: a seat, a hotel, the money, a letter. Async, threaded and local activities; one retries by itself."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

from trellis.retrying import Placement, Retry, retrying

SOON = RetryPolicy(initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=1))


@activity.defn
async def reserve_seat(trip: str) -> str:
    return f"seat of {trip}"


@activity.defn
def reserve_hotel(trip: str) -> str:
    time.sleep(0.01)
    return f"room of {trip}"


@activity.defn
async def check_card(trip: str) -> bool:
    return True


@activity.defn
@retrying(Retry(0.5, 0.01, 0.05, placement=Placement.ACTIVITY))
async def charge(trip: str) -> str:
    return f"receipt of {trip}"


@activity.defn
async def send_letter(trip: str) -> None:
    return None


ACTIVITIES = (reserve_seat, reserve_hotel, check_card, charge, send_letter)


@workflow.defn
class Trip:
    @workflow.run
    async def run(self, trip: str) -> str:
        """Both reservations at once, the card's check as a local activity, the money, and a letter."""
        limits: dict[str, Any] = {"start_to_close_timeout": timedelta(seconds=3), "retry_policy": SOON}
        seat = workflow.start_activity(reserve_seat, trip, **limits)
        room = workflow.start_activity(reserve_hotel, trip, **limits)
        await seat
        await room
        await workflow.execute_local_activity(
            check_card, trip, start_to_close_timeout=timedelta(seconds=1), retry_policy=SOON
        )
        receipt: str = await workflow.execute_activity(charge, trip, heartbeat_timeout=timedelta(seconds=2), **limits)
        await workflow.execute_activity(send_letter, trip, **limits)
        return receipt

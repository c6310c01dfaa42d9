"""Trips: a small program for Temporal. It knows nothing of Trellis."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

Given = TypeVar("Given")
Answer = TypeVar("Answer")


@dataclass
class Traveller:
    """Who travels, and whether a car is needed."""

    name: str
    with_car: bool = True


@activity.defn
async def book_flight(name: str) -> str:
    await asyncio.sleep(0.02)
    return f"flight for {name}"


@activity.defn
async def book_hotel(name: str) -> str:
    await asyncio.sleep(0.03)
    return f"hotel for {name}"


@activity.defn
async def book_car(name: str) -> str:
    await asyncio.sleep(0.02)
    return f"car for {name}"


@activity.defn
async def check_visa(number: int) -> bool:
    """Ask for the `number`-th time. Half of the answers say that the visa is there. The sixth always does."""
    await asyncio.sleep(0.01)
    asked = f"{activity.info().workflow_id} {number}"
    return number == 6 or hashlib.sha256(asked.encode()).digest()[0] < 128


async def call(step: Callable[[Given], Awaitable[Answer]], given: Given) -> Answer:
    """An attempt may take five seconds. The server retries a failed one after a second, for as long as it takes."""
    retry = RetryPolicy(backoff_coefficient=1)
    return await workflow.execute_activity(step, given, start_to_close_timeout=timedelta(seconds=5), retry_policy=retry)


@workflow.defn
class Trip:
    """Book a flight, a hotel and a car. Then ask for the visa until it is there."""

    def __init__(self) -> None:
        self._booked: list[str] = []
        self._waits = True

    @workflow.run
    async def run(self, traveller: Traveller) -> list[str]:
        for booking in [book_flight, book_hotel, *([book_car] if traveller.with_car else [])]:
            self._booked.append(await call(booking, traveller.name))
        number = 1
        while self._waits and not await call(check_visa, number):
            await workflow.sleep(1.5)
            number += 1
        return self._booked

    @workflow.signal
    def skip_visa(self) -> None:
        """Travel without waiting for the visa any longer."""
        self._waits = False

    @workflow.query
    def booked(self) -> list[str]:
        """What has been booked so far."""
        return self._booked


ACTIVITIES = [book_flight, book_hotel, book_car, check_visa]

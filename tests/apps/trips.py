"""A small app: a trip with legs that are booked one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from temporalio import activity, workflow
from temporalio.common import RawValue, RetryPolicy


@dataclass
class Leg:
    to: str
    """Where it goes."""
    km: int = 3
    at: datetime | None = None


@dataclass
class Plan:
    """What to book."""

    name: str
    legs: list[Leg] = field(default_factory=list)


@activity.defn
async def book(leg: Leg) -> str:
    return f"booked {leg.to}"


@activity.defn
def pay(amount: int) -> str:
    """Not async, as activities with a blocking driver are."""
    time.sleep(0.01)
    return f"paid {amount}"


@workflow.defn
class Trip:
    """A trip from here to there."""

    @workflow.init
    def __init__(self, plan: Plan, wait: bool = False) -> None:
        # Here and not in `run`: an update may come before `run` has begun.
        self._plan = plan
        self._heard: list[str] = []
        self._gone = False

    @workflow.run
    async def run(self, plan: Plan, wait: bool = False) -> list[str]:
        await workflow.wait_condition(lambda: self._gone or not wait)
        retry = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=20)
        done = []
        for leg in plan.legs:
            done.append(
                await workflow.execute_activity(
                    book, leg, start_to_close_timeout=timedelta(seconds=10), retry_policy=retry
                )
            )
        paid = await workflow.execute_activity(
            pay, sum(leg.km for leg in plan.legs), start_to_close_timeout=timedelta(seconds=10), retry_policy=retry
        )
        return [*done, paid, *self._heard]

    @workflow.signal
    def go(self) -> None:
        """Leave now."""
        self._gone = True

    @workflow.signal
    def say(self, word: str, times: int = 1) -> None:
        self._heard += [word] * times

    @workflow.update
    def add(self, leg: Leg) -> int:
        """One leg more."""
        self._plan.legs.append(leg)
        return len(self._plan.legs)

    @add.validator
    def _not_too_far(self, leg: Leg) -> None:
        if leg.km > 1000:
            raise ValueError(f"{leg.to} is too far")

    @workflow.query
    def plan(self, with_km: bool = True) -> list[str]:
        """The legs so far."""
        return [f"{leg.to} {leg.km} km" if with_km else leg.to for leg in self._plan.legs]

    @workflow.query(dynamic=True)
    def anything(self, name: str, args: Sequence[RawValue]) -> str:
        return f"{name} of {len(args)}"

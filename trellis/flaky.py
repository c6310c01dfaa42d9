"""The flaky call, which stands in for an outside system: it raises, hangs, waits in a queue, or passes.

The steps of an order make it themselves. `trellis.plugin` makes it before each activity of somebody else's app.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from trellis.faults import InjectedError, Outcome, PlanInForce
from trellis.model import TryId
from trellis.outages import RAISES, Capacity


@dataclass
class Marks:
    """What was done to one call. The flaky call fills it in at once, because a call that its caller gives up returns
    nothing.

    `outage`: how the outage in force failed the call. `queued`: seconds that the call had to wait in its provider's
    queue before it was served, also if its caller did not wait so long. None: there was no outage, or no queue.
    `injected`: error, hang, reply-lost, latency or outage; None: nothing.
    """

    outage: str | None = None
    queued: float | None = None
    injected: str | None = None

    def payload(self) -> dict[str, object]:
        """What time and load did, for the try's event. What was drawn can be drawn again."""
        found = {"outage": self.outage, "queued": None if self.queued is None else round(self.queued, 4)}
        return {name: value for name, value in found.items() if value is not None}


Reserve = Callable[[str, Capacity], Awaitable[float]]
"""Takes a place at a step's provider. Returns the seconds until the call is answered."""

Pause = Callable[[float], Awaitable[object]]
"""Waits so many seconds."""


async def _at_once(step: str, capacity: Capacity) -> float:
    """A provider without a queue."""
    return capacity.seconds


class FlakyCall:
    """Stands in for an outside system. Every try of an outside step calls it first."""

    def __init__(
        self,
        in_force: Callable[[], PlanInForce],
        reserve: Reserve = _at_once,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._in_force = in_force
        self._reserve = reserve
        self._now = now

    @property
    def current(self) -> PlanInForce:
        return self._in_force()

    async def __call__(self, force: PlanInForce, attempt: TryId, marks: Marks, pause: Pause = asyncio.sleep) -> bool:
        """Fail, hang or pass. True: the provider must be called, and its reply then lost.

        An outage comes before the outcome that is drawn. A call that raises or hangs never reaches the provider, so it
        takes no place there. A place that is taken stays taken, whatever becomes of the caller.
        """
        plan, step = force.plan, attempt.step
        if outage := force.out(step, self._now()):
            marks.injected, marks.outage = "outage", outage.how
            if outage.how == RAISES:
                raise InjectedError(f"{step} is out on purpose")
            await pause(plan.hang_seconds)
            return False
        outcome = plan.outcome(attempt)
        if outcome is not Outcome.OK:
            marks.injected = str(outcome)
        if outcome is Outcome.ERROR:
            raise InjectedError(f"{step} failed on purpose")
        if outcome is Outcome.HANG:
            await pause(plan.hang_seconds)
            return False
        if capacity := plan.capacity.get(step):
            seconds = await self._reserve(step, capacity)
            marks.queued = max(0.0, seconds - capacity.seconds)
            await pause(seconds)
        if (latency := plan.mix_of(step).latency) > 0:
            marks.injected = marks.injected or "latency"
            await pause(latency)
        return outcome is Outcome.REPLY_LOST

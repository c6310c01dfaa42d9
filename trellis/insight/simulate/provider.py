"""What the calls of a step meet: an outage, or they work, raise, lose their reply, hang, or wait in a queue."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import NamedTuple

from trellis.faults import FaultPlan
from trellis.insight.calls import Calls
from trellis.outages import RAISES, Capacity


class Outcome(StrEnum):
    """How a try ended, in the words of `insight.attempts`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    ABANDONED = "abandoned"


class Call(NamedTuple):
    """How a call ends if nobody cuts it off, and the seconds it takes. `outage`: "error" or "hang" if it met an outage.
    `queued`: how long it waits in the provider's queue [s]; None where the provider has no queue."""

    outcome: Outcome
    seconds: float
    outage: str | None = None
    queued: float | None = None


class Provider:
    """The outside systems of all steps. Calls come in the order of their times, each with the time of its beginning.

    The order of effects is that of the flaky call: an outage comes before the draw. A call that raises or hangs takes
    no place. Any other takes the place that is free first, and keeps it for its service, also when its caller gives up.
    """

    def __init__(self, calls: Mapping[str, Calls], under: FaultPlan | None = None) -> None:
        """`under`: the plan whose outages and capacity apply. Time 0 is when they came into force."""
        self._calls = calls
        self._under = under if under is not None and under.outages else None
        self._hang = 300.0 if under is None else under.hang_seconds
        capacity: Mapping[str, Capacity] = {} if under is None else under.capacity
        self._service = {step: one.seconds for step, one in capacity.items()}
        self._places = {step: [0.0] * one.calls for step, one in capacity.items()}

    def call(self, step: str, now: float, luck: Random) -> Call:
        """A call that begins at `now`. It draws its luck during an outage too, so that later calls have the same."""
        mix = self._calls[step]
        draw = luck.random()
        if draw < mix.error:
            drawn = Call(Outcome.FAILED, luck.choice(mix.error_s))
        elif draw < mix.error + mix.hang:
            drawn = Call(Outcome.SUCCEEDED, mix.hang_s)
        else:
            lost = draw < mix.error + mix.hang + mix.reply_lost
            drawn = Call(Outcome.FAILED if lost else Outcome.SUCCEEDED, luck.choice(mix.latency))
        if self._under is not None and (out := self._under.out(step, now)) is not None:
            if out.how == RAISES:
                return Call(Outcome.FAILED, 0.0, out.how)
            return Call(Outcome.SUCCEEDED, self._hang, out.how)
        if draw < mix.error + mix.hang or step not in self._places:
            return drawn
        queued = self._reserved(step, now)
        return drawn._replace(seconds=queued + self._service[step] + drawn.seconds, queued=queued)

    def _reserved(self, step: str, now: float) -> float:
        """Take the place that is free first. The wait for it [s]."""
        places = self._places[step]
        begins = max(now, places[0])
        heapq.heapreplace(places, begins + self._service[step])
        return begins - now

"""How the calls of a step behave, and how much time an order takes apart from its calls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.grid import Pieces
from trellis.insight.server_timers import ALONE, Shard
from trellis.model import REPLY_CAN_BE_LOST


@dataclass(frozen=True)
class Calls:
    """How the calls of one step behave. A call that does not raise, hang or lose its reply works.

    `latency` and `error_s` hold equally likely durations [s] of good calls and of calls that raise. `hang_s`: how long
    a hang lasts [s]. A hang shorter than the timeout is a slow good call.
    """

    error: float = 0.0
    hang: float = 0.0
    reply_lost: float = 0.0
    latency: tuple[float, ...] = (0.0,)
    error_s: tuple[float, ...] = (0.0,)
    hang_s: float = math.inf

    def check(self) -> Calls:
        """Return itself. Raises BadInput with a sentence where a value makes no sense."""
        shares = (self.error, self.hang, self.reply_lost)
        if not all(math.isfinite(share) and 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise BadInput("Shares of calls are from 0 to 1 and add up to at most 1.")
        times = (*self.latency, *self.error_s)
        if not self.latency or not self.error_s or not all(math.isfinite(one) and one >= 0 for one in times):
            raise BadInput("Latencies are numbers of seconds, 0 or more, and there is at least one.")
        return self

    @classmethod
    def planned(cls, plan: FaultPlan, step: str) -> Calls:
        """A step's calls under a fault plan. Raises BadInput for a script, which has no probabilities."""
        if plan.script:
            raise BadInput("A script says which calls fail, not how likely that is. Give a plan with probabilities.")
        mix = plan.check().mix_of(step)
        lost = mix.reply_lost if step in REPLY_CAN_BE_LOST else 0.0
        return cls(mix.error, mix.hang, lost, (mix.latency,), hang_s=plan.hang_seconds)

    def under(self, timeout: float) -> tuple[Pieces, Pieces, float]:
        """How calls end if each is cut off after `timeout` [s]: (those that work, those that raise, share cut off)."""
        return _under(self, timeout)


@lru_cache(maxsize=1024)
def _under(calls: Calls, timeout: float) -> tuple[Pieces, Pieces, float]:
    """A sweep asks the same of each step for every policy, and a step can have hundreds of latencies."""
    works: Pieces = []
    raises: Pieces = []
    cut = 0.0
    good = max(0.0, 1.0 - calls.error - calls.hang - calls.reply_lost)
    for share, seconds, into in (
        *((good / len(calls.latency), one, works) for one in calls.latency),
        *((calls.reply_lost / len(calls.latency), one, raises) for one in calls.latency),
        *((calls.error / len(calls.error_s), one, raises) for one in calls.error_s),
        (calls.hang, calls.hang_s, works),
    ):
        if seconds < timeout:
            into.append((share, seconds))
        else:
            cut += share
    return works, raises, cut


Faults = FaultPlan | Mapping[str, Calls] | None
"""A plan, or the calls of each step by the step's name. The chain then has these steps. None: the canonical faults."""


@dataclass(frozen=True)
class Overhead:
    """Seconds that an order takes when nothing fails, and that each further execution of an activity and each further
    round of shipping add.

    `round` was measured with dispatches that always fail: 14 orders with one round, 14 with six. The fastest orders
    differ by 0.11 s a round, the medians by 0.21 s (on a busy machine, with five programs for each core).
    `shard`: what other orders do to the order's history shard in a second. See `predict(load=...)`.
    """

    order: float = 0.12
    execution: float = 0.01
    round: float = 0.1
    shard: Shard = ALONE

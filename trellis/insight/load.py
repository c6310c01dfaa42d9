"""How many orders share the server, and what they do to one another's timers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trellis.errors import BadInput
from trellis.insight.calls import Calls, Overhead
from trellis.insight.grid import total
from trellis.insight.server_timers import MAX_TIME_SHIFT, Shard
from trellis.policies import Placement, Retry


@dataclass(frozen=True)
class Load:
    """How many orders run at a time on a server with so many history shards. The default is one order alone.

    A development server has one shard. A cluster has hundreds or thousands, so each of its orders is nearly alone.
    """

    at_once: int = 1
    shards: int = 1

    def check(self) -> Load:
        """Return itself. Raises BadInput for numbers that make no sense."""
        if self.at_once < 1 or self.shards < 1:
            raise BadInput("A load has at least one order at a time and at least one shard.")
        return self


def shard_under(load: Load, steps: Iterable[tuple[Retry, Calls]], overhead: Overhead) -> Shard:
    """What the other orders do to a shard, if all have these steps. It is computed from their mean times, because
    `server_timers.waits` changes little with the rates."""
    # A workflow's start, the start of its child, and its close. Each task of a workflow sets two timers.
    seconds, reads, timers = overhead.order, 3.0, 6.0
    for retry, calls in steps:
        works, raises, cut = calls.under(retry.try_timeout)
        good = max(total(works), 1e-3)
        tries = min(1 / good, retry.max_tries or 1 / good)
        spent = sum(share * one for share, one in (*works, *raises)) + cut * retry.try_timeout
        reads += 1
        timers += 2
        seconds += tries * spent
        if retry.placement is Placement.SERVER:
            pauses = ((1 - good) ** number * max(MAX_TIME_SHIFT, retry.backoff(number, 1.0)) for number in range(1, 40))
            seconds += sum(pauses)
            # The timeout of each try, and the backoff after each that failed.
            timers += 2 * tries - 1
    others = (load.check().at_once - 1) / load.shards / max(seconds, 0.1)
    return Shard(_rounded(others * reads), _rounded(others * timers))


def _rounded(rate: float) -> float:
    """To two digits. A small difference changes nothing, and equal rates share one table of `server_timers.waits`."""
    return float(f"{rate:.2g}")

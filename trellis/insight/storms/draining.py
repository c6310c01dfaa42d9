"""How long a backlog takes to drain, in closed form."""

from __future__ import annotations

from trellis.errors import BadInput
from trellis.policies import Placement, Policy, Retry

_SERVER_TIMERS = 1.0
"""The server's retries come about a second after a failure, however short the backoff is."""


def drain(
    rate: float,
    outage_s: float,
    policy: Policy | None,
    capacity: float,
    *,
    step: str | None = None,
    how: str = "error",
    left: float = 1.0,
    workers: tuple[int, int] = (1, 1),
) -> float | None:
    """Seconds from the end of an outage until its backlog is gone. None: never, because orders arrive as quickly as
    they can be served.

    `rate`: orders that arrive in a second. `capacity`: orders that the whole stack completes in a second, measured
    while nothing fails. `workers`: (running afterwards, running when the capacity was measured); a worker is taken to
    be what limits it. `step`: the step whose provider was out; None where nothing at all moved (no worker, no server).
    `how`: what the outage's calls did, "error" or "hang". `left`: the share of an order's work that an order of the
    backlog still needs; 1 where it stood still before its first step.

    The backlog is what arrived during the outage; at most what arrives in a budget, because the others have failed by
    then, unless no worker was there to fail them. Its work drains at what the capacity leaves over: the fluid limit of
    a queue (Kleinrock, "Queueing Systems" II, section 2.7). Before that the waiting orders must notice that the outage
    is over, which takes half a pause of the retry rule, and half a timeout more if calls hung.
    """
    running, measured = workers
    if not (rate > 0 and outage_s > 0 and capacity > 0 and 0 < left <= 1 and running > 0 and measured > 0):
        raise BadInput("A drain needs a rate, an outage, a capacity and workers above 0, and a share of work up to 1.")
    served = capacity * running / measured
    if rate >= served:
        return None
    notice = 0.0
    lasting = outage_s
    if step is not None and policy is not None:
        notice = _notice(policy.retry_of(step), how)
        lasting = min(outage_s, policy.budget)
    return notice + rate * (lasting + notice) * left / (served - rate)


def _notice(rule: Retry, how: str) -> float:
    """Half the time between two tries: how long an order waits on average until its next try [s]."""
    pause = rule.max_backoff
    if rule.placement is Placement.SERVER:
        pause = max(pause, _SERVER_TIMERS)
    if rule.slow_after:
        pause = max(pause, rule.slow_backoff)
    return (pause + (rule.try_timeout if how == "hang" else 0.0)) / 2

"""Retries within an activity: quick tries, lanes side by side, heartbeats. For any async activity of any worker.

Temporal starts an activity's next attempt after a second at the earliest, because its timers take that long. A call
that fails often, or hangs, is better tried again at once, inside the attempt. `trellis recommend` says when, and prints
the rule:

    from temporalio import activity
    from trellis.retrying import Jitter, Placement, Retry, key, retrying

    QUICK = Retry(try_timeout=0.25, first_backoff=0.005, max_backoff=0.05, jitter=Jitter.FULL,
                  placement=Placement.ACTIVITY, hedge=2)

    @activity.defn
    @retrying(QUICK)
    async def charge(order_id: str) -> str:
        return await bank.charge(order_id, idempotency_key=key())

For a part of an activity:

    async with retrying(QUICK, "charge") as tries:
        receipt = await tries(lambda: bank.charge(order_id, idempotency_key=key("charge")))

- Each try may take `try_timeout` seconds. With `hedge` n, n lanes run side by side, and the first success wins. So the
  outside system must know a call by its key, and must answer a second one as the first.
- An error is tried again, unless it is an ApplicationError with `non_retryable=True`, or `Stop`.
- Heartbeats are sent while the tries run. Give the activity a `heartbeat_timeout` of some seconds, so that Temporal
  soon gives the work of a lost worker to another one. It then begins with a new loop.
- With placement SERVER there is no loop: each attempt makes one call, and the activity's RetryPolicy does the rest.
- Where the worker has TrellisPlugin, each try is a row of the book of attempts, and faults act on each try of a
  decorated activity. Without it nothing is needed.
- An activity that exists can be decorated as it is: `activities=[retrying(QUICK)(charge)]`. Its name stays.
"""

from trellis.retry import Jitter, Placement, Retry
from trellis.retrying.helper import Loop, key, retrying
from trellis.retrying.loop import Stop, TriesUsedUp

__all__ = ["Jitter", "Loop", "Placement", "Retry", "Stop", "TriesUsedUp", "key", "retrying"]

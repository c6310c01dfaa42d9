"""Outages and load: what a policy does to a provider that is out or busy, and whether the orders recover.

A policy that retries eagerly looks best where failures are independent. In an outage it makes many times the usual
calls, and after it the waiting orders may call so often that a provider of finite capacity never catches up. `storm`
plays one outage, `storm_map` many (load by length of outage), and `border` finds the load at which *recovers* becomes
*never*. How long a backlog takes where only the stack limits it is a closed form in `trellis.chaos.recovery`.

Sources: Brooker, "Fixing retries with token buckets and circuit breakers" (2022); Bronson, Aghayev, Charapko and Zhu,
"Metastable failures in distributed systems", HotOS 2021.
"""

from trellis.insight.storms.calling import calls_while_out
from trellis.insight.storms.mapping import Border, border, storm_map
from trellis.insight.storms.recovery import Times, Usual, drained_at
from trellis.insight.storms.storm import Storm, need_room, outage, storm, usually

__all__ = [
    "Border", "Storm", "Times", "Usual", "border", "calls_while_out", "drained_at", "need_room", "outage",
    "storm", "storm_map", "usually",
]  # fmt: skip

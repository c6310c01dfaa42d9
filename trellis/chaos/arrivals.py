"""Orders that arrive at a rate, whatever happens to the ones before them.

An open loop: an order is due at its time even if the servers are down, and how long it takes counts from that time. A
closed loop would send less while things are slow, and would hide how slow they were (Tene's "coordinated omission").
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from trellis.chaos.house import Door, House
from trellis.db.recovering import Recovering
from trellis.desk import new_request_id
from trellis.driving import sample_order
from trellis.errors import OrderNotFound, RequestRefused, StackError
from trellis.model import Order, State
from trellis.policies import Policy

CALL = 10.0
"""How long a client waits for one answer [s]. Then it asks again, with the same id and the same body."""

PAUSE = 0.25
PATIENCE = 90.0
"""How long a client goes on asking [s]. An order that nobody acknowledged by then was never taken."""


@dataclass
class Arrival:
    """One order of a run. Times are seconds since 1970.

    due: when it was to start. acknowledged: when a client was told that it started; None: never. ended, state: as the
    ledger has them; None while it runs, or if the ledger does not have it.
    """

    order: Order
    due: float
    acknowledged: float | None = None
    ended: float | None = None
    state: State | None = None

    def open_at(self, moment: float) -> bool:
        """Whether the order was due and had not ended at that moment."""
        return self.due <= moment and (self.ended is None or self.ended > moment)


def due_times(orders: int, rate: float, seed: object) -> list[float]:
    """When each order is due, in seconds after the begin: one at a random place in each slot of 1/rate seconds.

    So the rate is exact over any few seconds, and the orders do not come in step with a timer of the servers.
    """
    draw = random.Random(f"arrivals {seed}")
    return [(number + draw.random()) / rate for number in range(orders)]


class Arrivals:
    """The clients of one run. `all` holds its orders in the order in which they are due.

    The ids follow from `name` and `seed`, because the faults that an order meets are drawn by its id.
    """

    def __init__(
        self, house: House, policy: Policy, orders: int, rate: float, seed: int = 0, *, name: str = "chaos"
    ) -> None:
        self.all = [
            Arrival(sample_order(order_id=f"{name}-{seed}-{number:04}"), due)
            for number, due in enumerate(due_times(orders, rate, seed))
        ]
        self._house = house
        self._policy = policy
        self._books = Recovering(house.runtime.pool)

    @property
    def acknowledged(self) -> list[Arrival]:
        return [one for one in self.all if one.acknowledged is not None]

    async def run(self) -> None:
        """Start and approve each order when it is due. Returns when no client asks any more."""
        began = time.time()
        for one in self.all:
            one.due += began
        async with asyncio.TaskGroup() as clients:
            for one in self.all:
                await asyncio.sleep(max(0.0, one.due - time.time()))
                clients.create_task(self._client(one))

    async def _client(self, one: Arrival) -> None:
        """A client that asks until it is answered, as one that must not lose an order does."""
        deadline = time.time() + PATIENCE

        def door() -> Door:
            # A nemesis may put another door there between two calls.
            return self._house.door

        if not await _asking(deadline, lambda: door().start(one.order, self._policy)):
            return
        one.acknowledged = time.time()
        request = new_request_id()
        with suppress(RequestRefused):
            await _asking(deadline, lambda: door().approve(one.order.order_id, request_id=request))

    async def look(self) -> int:
        """Read from the ledger which orders have ended; returns how many acknowledged ones have not.

        Raises DatabaseUnavailable.
        """
        waiting = {one.order.order_id: one for one in self.all if one.ended is None}
        for row in await self._books.ends(list(waiting)):
            one = waiting[row.order_id]
            one.state = row.state
            one.ended = row.ended_at.timestamp() if row.ended_at is not None else None
        return sum(one.ended is None for one in self.acknowledged)

    async def settle(self, deadline: float, tick: Callable[[int], None] = lambda ended: None) -> None:
        """Wait until every acknowledged order has ended, or until `deadline` (seconds since 1970)."""
        last = 0
        while True:
            left: int | None = None
            with suppress(StackError):
                left = await self.look()
            ended = sum(one.ended is not None for one in self.all)
            tick(ended - last)
            last = ended
            if left == 0 or time.time() > deadline:
                return
            await asyncio.sleep(PAUSE)


async def _asking(deadline: float, call: Callable[[], Awaitable[object]]) -> bool:
    """Call until it is answered; False if it never was. Raises RequestRefused, which is an answer."""
    while True:
        try:
            async with asyncio.timeout(CALL):
                await call()
            return True
        except (StackError, OrderNotFound, TimeoutError):
            # Not found: after a crash of Temporal, an order that was acknowledged must come back. Ask again.
            if time.time() > deadline:
                return False
        await asyncio.sleep(PAUSE)


def open_at(orders: Sequence[Arrival], moment: datetime) -> list[Arrival]:
    """The acknowledged orders that were open at this moment."""
    at = moment.astimezone(UTC).timestamp()
    return [one for one in orders if one.acknowledged is not None and one.acknowledged <= at and one.open_at(at)]

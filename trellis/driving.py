"""Running many orders: the one sample order, one order from start to end, many at a time."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from temporalio.client import WorkflowFailureError
from temporalio.service import RPCError

from trellis.desk import Desk
from trellis.errors import RequestRefused
from trellis.model import Order, State, workflow_id
from trellis.parsing import parse_order
from trellis.policies import Policy

SAMPLE_ITEMS: list[dict[str, Any]] = [{"sku": "book", "quantity": 2, "price": "12.50"}]
SAMPLE_ADDRESS = {"line1": "1 Main Street", "city": "Springfield"}


def sample_order(prefix: str = "order", *, order_id: str | None = None) -> Order:
    """Two books for 25.00, under a new id that begins with `prefix`, or under the id given."""
    id_ = order_id or f"{prefix}-{uuid.uuid4().hex[:12]}"
    return parse_order(id_, f"pay-{id_}", SAMPLE_ITEMS, SAMPLE_ADDRESS)


@dataclass(frozen=True)
class Ended:
    """One order's end: its final state and the time from its start [s]. `state` is None if it was cancelled for taking
    too long."""

    order_id: str
    state: State | None
    seconds: float


async def run_order(desk: Desk, policy: Policy, *, prefix: str = "order", cut: float | None = None) -> Ended:
    """Start a sample order, approve it at once, and wait for its end.

    An order that has not ended `cut` seconds after its start is cancelled, and `seconds` is then `cut`.
    """
    order = sample_order(prefix)
    began = time.perf_counter()
    await desk.start(order, policy)
    await desk.approve(order.order_id)
    left = None if cut is None else max(0.1, cut - (time.perf_counter() - began))
    try:
        async with asyncio.timeout(left):
            await desk.client.get_workflow_handle(workflow_id(order.order_id)).result()
        state = State.COMPLETED
    except TimeoutError:
        if cut is None:
            raise
        with suppress(RequestRefused):
            await desk.cancel(order.order_id, f"not ended after {cut:g} s")
        return Ended(order.order_id, None, cut)
    except (WorkflowFailureError, RPCError):
        # An order that failed is a result here, not an error.
        row = await desk.ledger.order(order.order_id)
        state = row.state if row else State.ORDER_RECEIVED
    return Ended(order.order_id, state, time.perf_counter() - began)


async def run_calm_order(desk: Desk, policy: Policy) -> None:
    """`run_order` where nothing fails. Raises RuntimeError for an order that did not complete."""
    ended = await run_order(desk, policy)
    if ended.state is not State.COMPLETED:
        raise RuntimeError(f"a calm order ended {ended.state}")


async def many(number: int, at_once: int, job: Callable[[], Awaitable[None]]) -> float:
    """Run `job` `number` times, `at_once` at a time; returns seconds. A job that raises ends them all.

    Its error is raised as it is: a command prints one sentence for a TrellisError, and a traceback for a group of them.
    """
    left = iter(range(number))

    async def lane() -> None:
        for _ in left:
            await job()

    began = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(lane())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return time.perf_counter() - began


@dataclass
class Driven:
    """How many orders ended in which state, how long each took from start to end, and how long all took [s]."""

    ended: list[Ended] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def states(self) -> Counter[str]:
        return Counter(str(one.state) for one in self.ended)

    @property
    def seconds(self) -> list[float]:
        return [one.seconds for one in self.ended]


async def drive(
    desk: Desk, orders: int, at_once: int, policy: Policy, tick: Callable[[], None] = lambda: None
) -> Driven:
    """Run sample orders from start to end, `at_once` at a time; `tick` is called at each end."""
    driven = Driven()

    async def one() -> None:
        driven.ended.append(await run_order(desk, policy))
        tick()

    driven.elapsed = await many(orders, at_once, one)
    return driven

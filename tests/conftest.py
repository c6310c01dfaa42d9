"""One real stack for the whole run, in a folder of its own. Workers run in this process. No call fails unless a test
says so."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from trellis import logs, runtime, stack, workers
from trellis.config import Settings
from trellis.db.pool import Pool, open_pool
from trellis.desk import Desk
from trellis.faults import FaultPlan
from trellis.lab import reloading
from trellis.lab.session import Session
from trellis.model import Order, State, charge_key, dispatch_key
from trellis.parsing import parse_order
from trellis.policies import Policy, preset, tuned
from trellis.status import OrderStatus

CALM_LIFE = [
    "ORDER_RECEIVED",
    "ORDER_VALIDATED",
    "AWAITING_APPROVAL",
    "ORDER_APPROVED",
    "PAYMENT_CHARGED",
    "SHIPPING_STARTED",
    "PACKAGE_PREPARED",
    "CARRIER_DISPATCHED",
    "ORDER_SHIPPED",
    "ORDER_COMPLETED",
]


@contextmanager
def lab_of_its_own(processes: int = 0) -> Iterator[Session]:
    """A lab with its stack. Its workers run in this process, or in so many processes of their own.

    A lab can reload modules, and then they hold new classes. Afterwards they hold the ones that other tests imported.
    """
    loaded = {name: dict(vars(sys.modules[name])) for name in reloading.modules()}
    with runtime.workspace(Settings.model_validate({"TRELLIS_FAULTS": "calm"})) as settings:
        session = Session(settings, processes)
        yield session
        session.stop()
    for name, names in loaded.items():
        vars(sys.modules[name]).clear()
        vars(sys.modules[name]).update(names)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """A lab for the tests of one module."""
    with lab_of_its_own() as session:
        yield session


@pytest.fixture(scope="session")
async def settings() -> AsyncIterator[Settings]:
    with runtime.workspace(Settings.model_validate({"TRELLIS_FAULTS": "calm", "LOG_LEVEL": "WARNING"})) as own:
        logs.configure(own)
        yield own


@pytest.fixture(scope="session")
async def opened(settings: Settings) -> AsyncIterator[runtime.Runtime]:
    """Everything but workers."""
    async with runtime.opened(settings, start=True, pool_size=16, pool_wait=30) as opened:
        yield opened


@pytest.fixture(scope="session")
def running(opened: runtime.Runtime) -> stack.Stack:
    return opened.stack


@pytest.fixture(scope="session")
def pool(opened: runtime.Runtime) -> Pool:
    return opened.pool


@pytest.fixture(scope="session")
async def owner(running: stack.Stack) -> AsyncIterator[Pool]:
    """Connections with the owner's rights, for tests that write rows that desk and workers may not write."""
    pool = await open_pool(running.database_url, size=16)
    yield pool
    await pool.close()


@pytest.fixture(scope="session")
def idle_desk(opened: runtime.Runtime) -> Desk:
    """A desk; no worker needs to run."""
    return opened.desk


@pytest.fixture(scope="session")
async def watch(opened: runtime.Runtime) -> AsyncIterator[workers.FaultWatch]:
    async with opened.workers() as watch:
        yield watch


@dataclass
class House:
    """What a workflow test needs: orders through the desk, faults by script, and both books."""

    desk: Desk
    pool: Pool
    """The owner's address. Desk and workers have a pool with the rights of `trellis_app`."""
    watch: workers.FaultWatch

    async def faults(self, plan: FaultPlan | str) -> None:
        await self.desk.set_faults(FaultPlan.parse(plan) if isinstance(plan, str) else plan)
        await self.watch.refresh()

    def order(self, price: str = "12.50") -> Order:
        id_ = f"t-{uuid.uuid4().hex[:12]}"
        return parse_order(id_, f"p-{id_}", [{"sku": "book", "quantity": 2, "price": price}], {"line1": "1 Main St"})

    async def start(self, policy: Policy | None = None, *, approve: bool = False) -> Order:
        order = self.order()
        await self.desk.start(order, policy or preset("swift"))
        if approve:
            await self.desk.approve(order.order_id)
        return order

    async def started_until(self, event: str, faults: str, policy: Policy | None = None) -> Order:
        """An approved order under these faults, once its log holds such an event."""
        await self.faults(faults)
        order = await self.start(policy, approve=True)
        await self.until(order, event)
        return order

    def unattended(self) -> Desk:
        """A desk that starts orders on a queue without a worker."""
        settings = self.desk.settings.model_copy(update={"orders_queue": "nobody-works-here"})
        return Desk(self.desk.client, self.desk.ledger, settings, search_attributes=False)

    async def until(self, order: Order, *types: str, timeout: float = 30) -> None:
        """Wait until the order's log holds an event of one of these types (`STEP:type` narrows it to a step)."""
        async with asyncio.timeout(timeout):
            while True:
                events = await self.desk.ledger.events(order.order_id)
                seen = {e["type"] for e in events} | {f"{e['step']}:{e['type']}" for e in events}
                if seen & set(types):
                    return
                await asyncio.sleep(0.03)

    async def events(self, order: Order) -> list[str]:
        return [event["type"] for event in await self.desk.ledger.events(order.order_id)]

    async def one(self, sql: str, *args: object) -> Any:
        async with self.pool.connection() as connection:
            row = await (await connection.execute(sql, args)).fetchone()
        return row[0] if row else None

    async def ends(self, order: Order, state: State, timeout: float = 60) -> OrderStatus:
        """Wait for the end; assert the state, Temporal's close status, and that both books balance."""
        status = await self.desk.wait(order.order_id, timeout)
        assert status["state"] == state, status
        closed = "COMPLETED" if state in (State.COMPLETED, State.CANCELLED) else "FAILED"
        assert status["workflow"]["close_status"] == closed
        charges = await self.one("SELECT count(*) FROM provider.charges WHERE order_id = %s", order.order_id)
        refunds = await self.one("SELECT count(*) FROM provider.refunds WHERE order_id = %s", order.order_id)
        parcels = await self.one("SELECT count(*) FROM provider.parcels WHERE order_id = %s", order.order_id)
        shipped = state is State.COMPLETED
        assert charges <= 1
        assert (charges - refunds, parcels) == ((1, 1) if shipped else (0, 0))
        expected = "CHARGED" if shipped else "REFUNDED" if charges else "FAILED"
        assert status["payment"]["status"] == expected
        return status

    async def tombstones(self, order: Order) -> set[str]:
        keys = (charge_key(order.payment_id), dispatch_key(order.order_id))
        async with self.pool.connection() as connection:
            rows = await connection.execute(
                "SELECT idempotency_key FROM provider.voids WHERE idempotency_key = ANY(%s)", (list(keys),)
            )
            return {row[0].split(":")[0] for row in await rows.fetchall()}


@pytest.fixture
async def house(idle_desk: Desk, owner: Pool, watch: workers.FaultWatch) -> AsyncIterator[House]:
    house = House(idle_desk, owner, watch)
    await house.faults(FaultPlan.calm())
    yield house
    await house.faults(FaultPlan.calm())


@pytest.fixture
def quick() -> Policy:
    """A policy that gives up soon: two tries a step, 0.3 s each."""
    return tuned(preset("swift"), name="quick", try_timeout=0.5, max_tries=2, first_backoff=0.005, max_backoff=0.01)

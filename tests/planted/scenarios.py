"""What the orders of a planted run go through. Runs in a process of its own, on a copy of the package:

    PYTHONPATH=copy:. python -m tests.planted.scenarios copy seed scenario...

Each scenario brings its mistake about for nearly every order, whatever the machine's speed: the faults of the step in
question are a script, and the test waits for what the ledger shows, not for a time. The other steps fail by a seeded
draw.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.planted.wire import CUT, Rule, StatementWire
from trellis import config, logs, runtime, workers
from trellis.desk import Desk
from trellis.driving import SAMPLE_ADDRESS, SAMPLE_ITEMS
from trellis.errors import RequestRefused
from trellis.faults import FaultPlan, Mix
from trellis.model import QUEUES, Order, shipping_workflow_id
from trellis.parsing import parse_order
from trellis.policies import Policy, preset, tuned

ORDERS = 6
SWIFT = tuned(preset("swift"), name="planted", budget=60, review_window=60)
NOISE = Mix(error=0.15, hang=0.1)
CALM = Mix()
PATIENCE = 60.0
"""How long anything may take that is waited for [s]."""
STANDSTILL = 80.0
"""After this time a scenario says where it stands [s]. The runner ends it at 100 s."""


@dataclass
class Run:
    """One scenario under way: its desk, its fault plan's watch, its wire, and chance from its seed."""

    desk: Desk
    watch: workers.FaultWatch
    chance: random.Random
    policy: Policy
    late: set[bytes]
    """Idempotency keys of the calls that a wire is holding up, or has held up."""
    orders: list[Order] = field(default_factory=list)

    async def start(self, *, approve: bool = True) -> Order:
        """An order, after a pause that chance draws."""
        await asyncio.sleep(self.chance.uniform(0, 0.3))
        id_ = f"planted-{uuid.UUID(int=self.chance.getrandbits(128)).hex[:12]}"
        order = parse_order(id_, f"pay-{id_}", SAMPLE_ITEMS, SAMPLE_ADDRESS)
        self.orders.append(order)
        await self.desk.start(order, self.policy)
        if approve:
            await self.desk.approve(id_)
        return order

    async def until(self, order: Order, seen: str) -> None:
        """Wait until the order's log holds such an event (`TYPE`, or `step:TYPE`)."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for event in await self.desk.ledger.events(order.order_id):
                    if seen in (event.type, f"{event.step}:{event.type}"):
                        return
                await asyncio.sleep(0.05)

    async def cancel(self, order: Order) -> None:
        """Ask for it. A refusal is an answer, too."""
        with suppress(RequestRefused):
            await self.desk.cancel(order.order_id)

    async def ends(self, order: Order) -> None:
        await self.desk.wait(order.order_id, PATIENCE)


Act = Callable[[Run], Coroutine[Any, Any, None]]


def each(life: Act) -> Act:
    """All orders at once, each with this life."""

    async def act(run: Run) -> None:
        await asyncio.gather(*(life(run) for _ in range(ORDERS)))

    return act


async def approved(run: Run) -> None:
    await run.ends(await run.start())


async def approved_and_moved(run: Run) -> None:
    order = await run.start(approve=False)
    await run.until(order, "AWAITING_APPROVAL")
    await run.desk.update_address(order.order_id, {"line1": "2 New Road"})
    await run.desk.approve(order.order_id)
    await run.ends(order)


def cancelled_after(seen: str) -> Act:
    async def life(run: Run) -> None:
        order = await run.start()
        await run.until(order, seen)
        await run.cancel(order)
        await run.ends(order)

    return each(life)


async def cancelled_with_its_charge_on_the_way(run: Run) -> None:
    order = await run.start()
    key = f"charge:{order.payment_id}".encode()
    async with asyncio.timeout(PATIENCE):
        while key not in run.late:
            await asyncio.sleep(0.02)
    await run.cancel(order)
    await run.ends(order)
    # The charge arrives after the order has ended.
    await asyncio.sleep(HELD_UP + 1)


async def long_step(run: Run) -> None:
    """Charges hang for longer than Temporal waits for a heartbeat. All the time the worker is given new orders."""
    orders = []
    for _ in range(14):
        orders.append(await run.start())
        await asyncio.sleep(1)
    await run.desk.set_faults(FaultPlan.calm())
    await run.watch.refresh()
    await asyncio.gather(*(run.ends(order) for order in orders))


async def frozen_in_a_dispatch(run: Run) -> None:
    """The shipping worker is frozen while its dispatches wait for the carrier, and wakes after the orders' ends."""
    # Started without waiting, and its end is waited for in a thread.
    shipping = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-m", "trellis", "worker", "--queues", "shipping"]
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while run.desk.settings.shipping_queue not in {one["queue"] for one in await run.desk.workers()}:
                await asyncio.sleep(0.1)
        orders = await asyncio.gather(*(run.start() for _ in range(ORDERS)))
        await asyncio.gather(*(run.until(order, "PACKAGE_PREPARED") for order in orders))
        shipping.send_signal(signal.SIGSTOP)
        waited = asyncio.create_task(asyncio.sleep(CARRIER + 0.5))
        await asyncio.gather(*(run.cancel(order) for order in orders))
        # An order whose dispatch had claimed it before the freeze refused the cancel, and ends after the thaw.
        ending = [row.id for order in orders if (row := await run.desk.ledger.order(order.order_id)) and row.closing_at]
        await asyncio.gather(*(run.desk.wait(id_, PATIENCE) for id_ in ending))
        # The carrier's answers are due when the worker wakes. So its dispatches go on before it hears of the cancels.
        await waited
        shipping.send_signal(signal.SIGCONT)
        for order in orders:
            child = run.desk.client.get_workflow_handle(shipping_workflow_id(order.order_id, 1))
            async with asyncio.timeout(PATIENCE):
                with suppress(Exception):  # whichever way it ends
                    await child.result()
        await asyncio.gather(*(run.ends(order) for order in orders))
    finally:
        shipping.send_signal(signal.SIGCONT)
        shipping.terminate()
        await asyncio.to_thread(shipping.wait, 30)


CARRIER = 3.0
"""How long the carrier takes to answer a frozen worker's dispatch [s]."""
HELD_UP = 2.0
"""How long the wire holds a charge up [s]: longer than a cancel and its compensation take."""


def charges_late(late: set[bytes]) -> Rule:
    """The first call of each charge is held up on its way to the provider, and noted in `late`."""

    def rule(sql: str, values: bytes) -> float:
        key = re.search(rb"charge:[\w-]+", values)
        if "provider.charge(" not in sql or key is None or key[0] in late:
            return 0
        late.add(key[0])
        return HELD_UP

    return rule


def every_second_cut(what: str) -> Callable[[set[bytes]], Rule]:
    """Every second statement that names `what` never arrives, and its connection ends."""

    def made(late: set[bytes]) -> Rule:
        seen = 0

        def rule(sql: str, values: bytes) -> float:
            nonlocal seen
            seen += what in sql
            return CUT if what in sql and seen % 2 == 0 else 0

        return rule

    return made


@dataclass(frozen=True)
class Scenario:
    """`faults`: a script of outcomes. `mix`: of the steps that the script does not name. `queues`: of the workers in
    this process. `wire`: makes the rule of a wire between all of them and Postgres."""

    says: str
    act: Act
    faults: str = ""
    policy: Policy = SWIFT
    mix: Mix = NOISE
    steps: dict[str, Mix] = field(default_factory=dict)
    queues: tuple[str, ...] = QUEUES
    wire: Callable[[set[bytes]], Rule] | None = None


SCENARIOS: dict[str, Scenario] = {
    "reply-lost": Scenario(
        "the provider charges, its answer is lost, and Temporal tries again",
        each(approved), "charge: reply-lost, ok", tuned(preset("patient"), budget=60), CALM,
    ),
    "budget-ends-after-the-claim": Scenario(
        "the budget ends while the carrier has the parcel and does not answer",
        each(approved), f"dispatch: reply-lost{', hang' * 16}, ok",
        tuned(SWIFT, budget=3, steps={"dispatch": {"max_tries": 0}}),
    ),
    "charge-arrives-late": Scenario(
        "a charge is held up on its way, and meanwhile its order is cancelled",
        each(cancelled_with_its_charge_on_the_way), "charge: ok",
        tuned(SWIFT, steps={"charge": {"try_timeout": 10}}), wire=charges_late,
    ),
    "connection-cut-before-an-event": Scenario(
        "every second statement that writes ORDER_SHIPPED is lost with its connection",
        each(approved), wire=every_second_cut("ORDER_SHIPPED"),
    ),
    "frozen-in-the-middle-of-a-dispatch": Scenario(
        "a worker is frozen before it claims an order, and woken after the order was cancelled",
        frozen_in_a_dispatch, policy=tuned(SWIFT, steps={"dispatch": {"try_timeout": 30}}), mix=CALM,
        steps={"dispatch": Mix(latency=CARRIER)}, queues=("orders",),
    ),
    "cancelled-after-the-claim": Scenario(
        "a cancel comes when the parcel is with the carrier and we do not know it yet",
        cancelled_after("dispatch:ATTEMPT_FAILED"), f"dispatch: reply-lost{', hang' * 6}, ok",
    ),
    "address-changed-in-review": Scenario(
        "the address changes before the order is approved", each(approved_and_moved)
    ),
    "dispatch-fails-although-the-parcel-left": Scenario(
        "the carrier has the parcel, and all further calls fail until the round gives up",
        each(approved), "dispatch: reply-lost, error*", tuned(SWIFT, max_tries=2, dispatch_retries=0), CALM,
    ),
    "a-step-takes-long": Scenario(
        "charges hang for longer than Temporal waits for a heartbeat, while new orders come",
        long_step, "charge: hang*", tuned(SWIFT, try_timeout=0.5), CALM,
    ),
    "cancelled-while-charging": Scenario(
        "a cancel comes between two calls of a charge whose replies are lost",
        cancelled_after("charge:ATTEMPT_FAILED"), "charge: reply-lost*", mix=CALM,
    ),
}  # fmt: skip


@asynccontextmanager
async def opened(name: str, settings: config.Settings, seed: int) -> AsyncIterator[Run]:
    """Workers and a desk of this process for one scenario."""
    scenario, late = SCENARIOS[name], set[bytes]()
    async with AsyncExitStack() as stack:
        if scenario.wire is not None:
            assert settings.database_url is not None
            wire = await stack.enter_async_context(StatementWire(settings.database_url, scenario.wire(late)))
            settings = settings.model_copy(update={"database_url": wire.address})
        at = await stack.enter_async_context(runtime.opened(settings, start=True, pool_wait=30))
        plan = FaultPlan(scenario.mix, seed=seed, steps=scenario.steps, script=scenario.faults).check()
        await at.desk.set_faults(plan)
        watch = await stack.enter_async_context(at.workers(scenario.queues))
        # The ids depend on the seed and the scenario, and the faults on the seed and the ids.
        yield Run(at.desk, watch, random.Random(f"{seed} {name}"), scenario.policy, late)


async def report_standstill(name: str) -> None:
    """After a while, print where each task stands."""
    await asyncio.sleep(STANDSTILL)
    print(f"{name} stands still.", flush=True)
    for task in asyncio.all_tasks():
        task.print_stack(limit=4, file=sys.stdout)
    sys.stdout.flush()


async def main(copy: Path, seed: int, names: list[str]) -> None:
    found = Path(workers.__file__).resolve()
    if not found.is_relative_to(copy.resolve()):
        raise SystemExit(f"The package was imported from {found}, not from the copy in {copy}.")
    settings = config.load(dict(os.environ), env_file=None)
    logs.configure(settings)
    for name in names:
        watching = asyncio.create_task(report_standstill(name))
        async with opened(name, settings, seed) as run:
            acting = asyncio.create_task(SCENARIOS[name].act(run))
            failing = asyncio.create_task(run.watch.worker_failed.wait())
            await asyncio.wait({acting, failing}, return_when=asyncio.FIRST_COMPLETED)
            if failing.done():
                # Its log line says why. Without workers no order ends.
                raise SystemExit("A worker failed.")
            failing.cancel()
            await acting
            print(f"{name}: {len(run.orders)} orders ended", flush=True)
            if name == names[-1]:
                # At once. A worker with a mistake may not be able to end in order. And Temporal's threads may call into
                # an interpreter that is being taken down, which aborts the process.
                os._exit(0)
        watching.cancel()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))

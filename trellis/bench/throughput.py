"""Calm orders per second against a twin that does nothing and against a bare workflow, in alternating rounds."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psutil
from temporalio import activity
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.worker import Worker

from trellis.bench.bare import BareChild, BareOrder, nothing
from trellis.bench.floor import Floor, complete_one, many, sample_order, standing
from trellis.config import Settings
from trellis.faults import FaultPlan
from trellis.messages import (
    ORDER_WORKFLOW,
    Approval,
    Approve,
    Charged,
    Dispatched,
    Ending,
    OrderInput,
    StepInput,
    Verdict,
)
from trellis.model import Step, workflow_id
from trellis.policies import preset
from trellis.workers import RUNNER, SLOTS
from trellis.workflows.order import OrderWorkflow
from trellis.workflows.shipping import ShippingWorkflow


class Twin:
    """The activities of an order, by the same names, doing nothing."""

    @activity.defn(name=Step.RECEIVE)
    async def receive(self, given: OrderInput) -> None: ...

    @activity.defn(name=Step.VALIDATE)
    async def validate(self, given: StepInput) -> None: ...

    @activity.defn(name=Step.CHARGE)
    async def charge(self, given: StepInput) -> Charged:
        return Charged("PENDING")

    @activity.defn(name=Step.SHIP)
    async def ship(self, given: StepInput) -> None: ...

    @activity.defn(name=Step.PREPARE)
    async def prepare(self, given: StepInput) -> None: ...

    @activity.defn(name=Step.DISPATCH)
    async def dispatch(self, given: StepInput) -> Dispatched:
        return Dispatched("TRK")

    @activity.defn(name=Step.APPROVE)
    async def approve(self, given: Approval) -> None: ...

    @activity.defn(name="finish")
    async def finish(self, given: Ending) -> None: ...


async def run(
    settings: Settings, rounds: int, per_round: int, at_once: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """Figures of section 12: orders/s of each kind, median ratios of paired rounds, CPU seconds per order."""
    async with standing(settings) as floor:
        await floor.faults(FaultPlan.calm())
        client, tag = floor.desk.client, uuid.uuid4().hex[:6]
        twin = Twin()
        common: dict[str, Any] = {
            "workflow_runner": RUNNER,
            "max_concurrent_activities": SLOTS,
            "max_cached_workflows": 2000,
        }
        parent: list[Any] = [twin.receive, twin.validate, twin.charge, twin.ship, twin.approve, twin.finish]
        sides: list[Worker] = [
            Worker(client, task_queue=f"twin-{tag}", workflows=[OrderWorkflow], activities=parent, **common),
            Worker(client, task_queue=f"twin-shipping-{tag}", workflows=[ShippingWorkflow],
                   activities=[twin.prepare, twin.dispatch], **common),
            Worker(client, task_queue=f"bare-{tag}", workflows=[BareOrder], activities=[nothing], **common),
            Worker(client, task_queue=f"bare-shipping-{tag}", workflows=[BareChild], activities=[nothing], **common),
        ]  # fmt: skip
        tasks = [asyncio.create_task(worker.run()) for worker in sides]
        try:
            return await _measure(floor, tag, rounds, per_round, at_once, tick)
        finally:
            await asyncio.gather(*(worker.shutdown() for worker in sides))
            await asyncio.gather(*tasks, return_exceptions=True)


async def _measure(
    floor: Floor, tag: str, rounds: int, per_round: int, at_once: int, tick: Callable[[], None]
) -> dict[str, Any]:
    client, policy = floor.desk.client, preset("swift")

    async def ours() -> None:
        _, state, _ = await complete_one(floor.desk, policy)
        if state != "COMPLETED":
            raise RuntimeError(f"a calm order ended {state}")

    async def twin() -> None:
        order = sample_order("twin")
        handle = await client.start_workflow(
            ORDER_WORKFLOW, OrderInput(order, policy, f"twin-shipping-{tag}", True),
            id=workflow_id(order.order_id), task_queue=f"twin-{tag}", run_timeout=timedelta(seconds=policy.whole_run),
            memo={"fingerprint": order.fingerprint()}, static_summary="twin",
            search_attributes=TypedSearchAttributes([
                SearchAttributePair(SearchAttributeKey.for_keyword("OrderState"), "ORDER_RECEIVED"),
                SearchAttributePair(SearchAttributeKey.for_float("OrderTotal"), order.total_cents / 100),
            ]),
        )  # fmt: skip
        await handle.execute_update("approve", Approve(uuid.uuid4().hex), result_type=Verdict)
        await handle.result()

    async def bare() -> None:
        await client.execute_workflow(
            BareOrder.run, f"bare-shipping-{tag}", id=f"bare-{uuid.uuid4().hex}", task_queue=f"bare-{tag}"
        )

    kinds: dict[str, Callable[[], Awaitable[None]]] = {"ours": ours, "twin": twin, "bare": bare}
    for job in kinds.values():
        await many(at_once, at_once, job)
    alone = []
    for _ in range(9):
        began = time.perf_counter()
        await ours()
        alone.append(time.perf_counter() - began)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    worker_cpu = server_cpu = 0.0
    for number in range(rounds):
        # The order of the three turns from round to round, so that a drift of the machine favours none.
        names = list(kinds)
        for kind in names[number % 3 :] + names[: number % 3]:
            before = _cpu()
            rates[kind].append(per_round / await many(per_round, at_once, kinds[kind]))
            if kind == "ours":
                after = _cpu()
                worker_cpu += after[0] - before[0]
                server_cpu += after[1] - before[1]
            tick()
    total = rounds * per_round
    return {
        "rounds": rounds,
        "orders_per_s": round(statistics.median(rates["ours"]), 2),
        "twin_per_s": round(statistics.median(rates["twin"]), 2),
        "bare_per_s": round(statistics.median(rates["bare"]), 2),
        "ratio": round(statistics.median(a / b for a, b in zip(rates["ours"], rates["twin"], strict=True)), 3),
        "bare_ratio": round(statistics.median(a / b for a, b in zip(rates["ours"], rates["bare"], strict=True)), 3),
        "worker_cpu_s_per_order": round(worker_cpu / total, 4),
        "server_cpu_s_per_order": round(server_cpu / total, 4),
        "alone_s": round(statistics.median(alone), 3),
    }


def _cpu() -> tuple[float, float]:
    """CPU seconds of (this process with its workers, the local servers on this machine)."""
    servers = 0.0
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("temporal", "postgres"):
            try:
                times = process.cpu_times()
                # A backend that ended is counted with its postmaster's children.
                servers += times.user + times.system + times.children_user + times.children_system
            except psutil.Error:
                continue
    return time.process_time(), servers

"""Calm orders per second, compared with a twin that does nothing and with a bare workflow, in alternating rounds.

Also the twin under three ways to run workflow code: as Trellis does, in the SDK's plain sandbox, without a sandbox.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import MISSING, fields, is_dataclass
from datetime import timedelta
from typing import Any, get_type_hints

from temporalio import activity
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.worker import UnsandboxedWorkflowRunner, Worker, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from trellis.activities.collecting import activities_of, queue_of
from trellis.activities.ledger_only import LedgerActivities
from trellis.activities.steps import OutsideActivities
from trellis.bench.bare import BareChild, BareOrder, nothing
from trellis.bench.bench_stack import BenchStack, bench_stack
from trellis.config import Settings
from trellis.driving import many, run_calm_order, sample_order
from trellis.faults import FaultPlan
from trellis.messages import ORDER_WORKFLOW, Approve, OrderInput, Verdict
from trellis.model import workflow_id
from trellis.policies import preset
from trellis.sandbox import RUNNER, keep
from trellis.workers import SLOTS
from trellis.workflows.order import OrderWorkflow
from trellis.workflows.shipping import ShippingWorkflow

# The bare workflow is loaded in the same way as an order, or the comparison would favour the order.
keep("trellis.bench", "trellis.bench.bare")


HOLDERS = (OutsideActivities, LedgerActivities)
_BLANK: dict[str, object] = {"str": "TRK", "bool": False}


def idle(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The twin of an activity: it has the same name, input and type of answer, and does nothing."""
    hints = get_type_hints(method)
    kind = hints["return"]
    needed = fields(kind) if is_dataclass(kind) else ()
    answer = None if kind is type(None) else kind(
        **{one.name: _BLANK[str(one.type)] for one in needed if one.default is MISSING}
    )  # fmt: skip

    async def twin(given: object) -> object:
        return answer

    twin.__annotations__ = {"given": hints["given"], "return": kind}
    return activity.defn(name=name)(twin)


def idle_on(queue: str) -> list[Callable[..., Any]]:
    """The twins of all activities of a queue."""
    found = {name: method for holder in HOLDERS for name, method in activities_of(holder).items()}
    return [idle(name, method) for name, method in found.items() if queue_of(name) == queue]


RUNNERS: dict[str, WorkflowRunner] = {
    "passed_through": RUNNER,
    "plain_sandbox": SandboxedWorkflowRunner(),
    "unsandboxed": UnsandboxedWorkflowRunner(),
}

Job = Callable[[], Awaitable[None]]


async def run(
    settings: Settings, rounds: int, per_round: int, at_once: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """Orders/s of each kind, median ratios of paired rounds, and CPU seconds per order."""
    async with bench_stack(settings) as bench:
        await bench.set_faults(FaultPlan.calm())
        client, tag = bench.desk.client, uuid.uuid4().hex[:6]
        sides = [
            *_twins(client, tag, RUNNER),
            Worker(client, task_queue=f"bare-{tag}", workflows=[BareOrder], activities=[nothing], **_common(RUNNER)),
            Worker(client, task_queue=f"bare-shipping-{tag}", workflows=[BareChild], activities=[nothing],
                   **_common(RUNNER)),
        ]  # fmt: skip

        async def bare() -> None:
            await client.execute_workflow(
                BareOrder.run, f"bare-shipping-{tag}", id=f"bare-{uuid.uuid4().hex}", task_queue=f"bare-{tag}"
            )

        kinds = {"order": _order(bench), "twin": _twin(client, tag), "bare": bare}
        async with working(sides):
            for job in kinds.values():
                await many(at_once, at_once, job)
            alone = []
            for _ in range(9):
                began = time.perf_counter()
                await kinds["order"]()
                alone.append(time.perf_counter() - began)
            rates, cpu = await alternate(bench, kinds, rounds, per_round, at_once, tick)
    return {
        "rounds": rounds,
        "orders_per_s": round(statistics.median(rates["order"]), 2),
        "twin_per_s": round(statistics.median(rates["twin"]), 2),
        "bare_per_s": round(statistics.median(rates["bare"]), 2),
        "ratio": ratio(rates["order"], rates["twin"]),
        "bare_ratio": ratio(rates["order"], rates["bare"]),
        "worker_cpu_s_per_order": round(cpu["order"][0], 4),
        "server_cpu_s_per_order": round(cpu["order"][1], 4),
        "alone_s": round(statistics.median(alone), 3),
    }


async def run_sandboxes(
    settings: Settings, rounds: int, per_round: int, at_once: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """The twin under each of RUNNERS: {runner: {per_s, ratio to unsandboxed, worker_cpu_s_per_order}}."""
    async with bench_stack(settings) as bench:
        client, tag = bench.desk.client, uuid.uuid4().hex[:6]
        kinds = {name: _twin(client, f"{name}-{tag}") for name in RUNNERS}
        sides = [worker for name, runner in RUNNERS.items() for worker in _twins(client, f"{name}-{tag}", runner)]
        async with working(sides):
            for job in kinds.values():
                await many(at_once, at_once, job)
            rates, cpu = await alternate(bench, kinds, rounds, per_round, at_once, tick)
    return {
        name: {
            "per_s": round(statistics.median(rates[name]), 2),
            "ratio": ratio(rates[name], rates["unsandboxed"]),
            "worker_cpu_s_per_order": round(cpu[name][0], 4),
        }
        for name in RUNNERS
    }


def _common(runner: WorkflowRunner) -> dict[str, Any]:
    return {"workflow_runner": runner, "max_concurrent_activities": SLOTS, "max_cached_workflows": 2000}


def _twins(client: Client, tag: str, runner: WorkflowRunner) -> list[Worker]:
    return [
        Worker(client, task_queue=f"twin-{tag}", workflows=[OrderWorkflow], activities=idle_on("orders"),
               **_common(runner)),
        Worker(client, task_queue=f"twin-shipping-{tag}", workflows=[ShippingWorkflow],
               activities=idle_on("shipping"), **_common(runner)),
    ]  # fmt: skip


@asynccontextmanager
async def working(sides: list[Worker]) -> AsyncIterator[None]:
    """These workers run for as long as the block lasts."""
    tasks = [asyncio.create_task(worker.run()) for worker in sides]
    try:
        yield
    finally:
        await asyncio.gather(*(worker.shutdown() for worker in sides))
        await asyncio.gather(*tasks, return_exceptions=True)


def _order(bench: BenchStack) -> Job:
    policy = preset("swift")

    async def order() -> None:
        await run_calm_order(bench.desk, policy)

    return order


def _twin(client: Client, tag: str) -> Job:
    policy = preset("swift")

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

    return twin


async def alternate(
    bench: BenchStack, kinds: Mapping[str, Job], rounds: int, per_round: int, at_once: int, tick: Callable[[], None]
) -> tuple[dict[str, list[float]], dict[str, tuple[float, float]]]:
    """Rates [1/s] of each kind, one a round, and its CPU seconds per job (worker with client, servers)."""
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    spent = dict.fromkeys(kinds, (0.0, 0.0))
    names = list(kinds)
    for number in range(rounds):
        # The kinds take turns in coming first, so that a drift of the machine favours none.
        turn = number % len(names)
        for kind in names[turn:] + names[:turn]:
            before = bench.cpu()
            rates[kind].append(per_round / await many(per_round, at_once, kinds[kind]))
            after = bench.cpu()
            worker, server = spent[kind]
            spent[kind] = worker + after[0] - before[0], server + after[1] - before[1]
            tick()
    total = rounds * per_round
    return rates, {kind: (worker / total, server / total) for kind, (worker, server) in spent.items()}


def ratio(these: list[float], those: list[float]) -> float:
    """The median of the ratios of paired rounds."""
    return round(statistics.median(a / b for a, b in zip(these, those, strict=True)), 3)

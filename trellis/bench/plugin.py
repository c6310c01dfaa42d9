"""Short activities with TrellisPlugin and without it, in alternating rounds: what noting every attempt costs."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Callable
from typing import Any

from temporalio import activity
from temporalio.worker import Worker

from trellis.bench.bench_stack import BenchStack, bench_stack
from trellis.bench.loop import Loop
from trellis.bench.throughput import Job, alternate, ratio, working
from trellis.config import Settings
from trellis.db.flights import FlightBook
from trellis.driving import many
from trellis.plugin import TrellisPlugin
from trellis.sandbox import RUNNER, keep
from trellis.workers import SLOTS

keep("trellis.bench", "trellis.bench.loop")

CALLS = 10
"""Activities of each workflow, one after the other."""


@activity.defn
async def call(given: dict[str, Any]) -> int:
    """The shortest activity that still has an input and an answer."""
    return int(given["number"])


async def run(
    settings: Settings, rounds: int, per_round: int, at_once: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """Activities/s of both kinds, the median ratio of paired rounds, and the CPU seconds that the plugin adds to an
    attempt: in the worker, in the servers (Postgres too), and both together. `missing`: attempts not in the book."""
    async with bench_stack(settings, own_servers=True) as bench:
        plugin = TrellisPlugin(database_url=bench.database_url, settings=bench.settings)
        tag = uuid.uuid4().hex[:6]
        kinds = {"with": f"noted-{tag}", "without": f"bare-{tag}"}
        sides = [
            Worker(
                bench.desk.client, task_queue=queue, workflows=[Loop], activities=[call], workflow_runner=RUNNER,
                max_concurrent_activities=SLOTS, max_cached_workflows=2000,
                plugins=[plugin] if kind == "with" else [],
            )
            for kind, queue in kinds.items()
        ]  # fmt: skip
        jobs = {kind: _job(bench, queue) for kind, queue in kinds.items()}
        async with working(sides):
            for job in jobs.values():
                await many(at_once, at_once, job)
            rates, cpu = await alternate(bench, jobs, rounds, per_round, at_once, tick)
        noted = await _noted(bench, kinds["with"])
    worker, server = ((a - b) / CALLS for a, b in zip(cpu["with"], cpu["without"], strict=True))
    return {
        "rounds": rounds,
        "with_per_s": round(CALLS * statistics.median(rates["with"]), 1),
        "without_per_s": round(CALLS * statistics.median(rates["without"]), 1),
        "ratio": ratio(rates["with"], rates["without"]),
        "cpu_s_per_attempt": round(worker + server, 6),
        "worker_cpu_s_per_attempt": round(worker, 6),
        "server_cpu_s_per_attempt": round(server, 6),
        "missing": (at_once + rounds * per_round) * CALLS - noted,
    }


def _job(bench: BenchStack, queue: str) -> Job:
    async def one() -> None:
        await bench.desk.client.execute_workflow(Loop.run, CALLS, id=f"loop-{uuid.uuid4().hex}", task_queue=queue)

    return one


async def _noted(bench: BenchStack, queue: str) -> int:
    """How many attempts of the queue the book holds as succeeded."""
    return await FlightBook(bench.pool).count(queue=queue, outcome="succeeded")

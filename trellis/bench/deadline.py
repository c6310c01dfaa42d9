"""Orders under the canonical faults, approved at once: how many miss the deadline, and what retries cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import psutil
from scipy import stats

from trellis.bench.bench_stack import bench_stack
from trellis.config import Settings
from trellis.desk import Desk
from trellis.driving import Ended, drive
from trellis.faults import FaultPlan
from trellis.insight.retries import predict, queued
from trellis.model import EventType, State
from trellis.policies import Policy

DEADLINE = 15.0


async def run(
    settings: Settings, policy: Policy, orders: int, concurrency: int, seed: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """{policy, hedge, orders, missed, late, rounds_used_up, p50, p99, max [s], attempts_per_step, states,
    cpu_s_per_order, cores, interval, predicted}.

    `missed`: not COMPLETED within 15 s. Of these, `rounds_used_up` FAILED because no round of shipping succeeded, and
    `late` are the others, also those whose budget ended. `interval`: of the share that missed, at 95 % (Clopper and
    Pearson). `predicted`: {p50, p99, p_miss, p_late, p_rounds_used_up}, with the wait for CPU cores: `cores` is the
    number that other programs left, and the CPU seconds are those measured in this run. The prediction does not know
    the policy's budget.
    """
    async with bench_stack(settings) as bench:
        await bench.set_faults(FaultPlan.canonical(seed))
        before, unused = bench.cpu(), psutil.cpu_times().idle
        driven = await drive(bench.desk, orders, concurrency, policy, tick)
        spent, unused = sum(bench.cpu()) - sum(before), psutil.cpu_times().idle - unused
        cpu = spent / orders
        attempts = await bench.desk.ledger.attempts_per_step()
        used_up = await rounds_used_up(bench.desk, driven.ended, policy)
    seconds = driven.seconds
    missed = sum(one.state is not State.COMPLETED or one.seconds > DEADLINE for one in driven.ended)
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    exact = stats.binomtest(missed, orders).proportion_ci(0.95)
    alone = predict(policy)
    # Other programs on this machine use a part of the cores.
    cores = min(psutil.cpu_count() or 1, max(0.5, (spent + unused) / driven.elapsed))
    overhead = queued(alone, at_once=min(concurrency, orders), cpu=cpu, cores=cores)
    found = predict(policy, overhead=overhead)
    return {
        "policy": policy.name,
        "hedge": policy.retry.hedge,
        "orders": orders,
        "missed": missed,
        "late": missed - used_up,
        "rounds_used_up": used_up,
        "p50": round(cuts[49], 3),
        "p99": round(cuts[98], 3),
        "max": round(max(seconds), 3),
        "attempts_per_step": {step: round(mean, 3) for step, mean in attempts.items()},
        "states": dict(driven.states),
        "cpu_s_per_order": round(cpu, 3),
        "cores": round(cores, 2),
        "interval": [round(float(exact.low), 4), round(float(exact.high), 4)],
        "predicted": {
            "p50": round(found.percentile(0.5), 3),
            "p99": round(found.percentile(0.99), 3),
            "p_miss": found.p_miss(DEADLINE),
            "p_late": found.p_late(DEADLINE),
            "p_rounds_used_up": found.rounds_used_up,
        },
    }


async def rounds_used_up(desk: Desk, ended: Iterable[Ended], policy: Policy) -> int:
    """How many of these orders failed because every round of shipping that `policy` allows failed."""
    count = 0
    for one in ended:
        if one.state is State.FAILED:
            types = [event.type for event in await desk.events(one.order_id)]
            count += types.count(EventType.DISPATCH_FAILED) > policy.dispatch_retries
    return count

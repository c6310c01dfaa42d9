"""Orders under the canonical faults, approved at once: how many miss the deadline, and what retries cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import psutil
from scipy import stats

from trellis.bench.bench_stack import bench_stack
from trellis.config import Settings
from trellis.desk import Desk
from trellis.driving import Ended, drive
from trellis.faults import FaultPlan
from trellis.insight.load import Load
from trellis.insight.retries import Prediction, predict, queued
from trellis.model import EventType, State
from trellis.policies import Policy

DEADLINE = 15.0

CERTAINTIES = (0.95, 0.998)
"""Of the intervals of the share that missed. One of twenty correct predictions lies outside of the first, and one of
five hundred outside of the second."""


async def run(
    settings: Settings, policy: Policy, orders: int, concurrency: int, seed: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """{policy, hedge, orders, concurrency, missed, late, rounds_used_up, p50, p99, max [s], attempts_per_step, states,
    cpu_s_per_order, cores, interval, interval_998, inside, inside_998, predicted}.

    `missed`: not COMPLETED within 15 s. Of these, `rounds_used_up` FAILED because no round of shipping succeeded, and
    `late` are the others, also those whose budget ended. `interval` and `interval_998`: of the share that missed, at
    95 and 99.8 % (Clopper and Pearson), and whether the prediction is `inside`. `predicted`: see `predicted`.
    """
    async with bench_stack(settings) as bench:
        await bench.set_faults(FaultPlan.canonical(seed))
        before, unused = bench.cpu(), psutil.cpu_times().idle
        driven = await drive(bench.desk, orders, concurrency, policy, tick)
        spent, unused = sum(bench.cpu()) - sum(before), psutil.cpu_times().idle - unused
        attempts = await bench.desk.ledger.attempts_per_step()
        used_up = await rounds_used_up(bench.desk, driven.ended, policy)
    # Other programs on this machine use a part of the cores.
    cores = min(psutil.cpu_count() or 1, max(0.5, (spent + unused) / driven.elapsed))
    found = predicted(policy, at_once=min(concurrency, orders), cpu=spent / orders, cores=cores)
    return {
        "policy": policy.name,
        "hedge": policy.retry.hedge,
        "orders": orders,
        "concurrency": concurrency,
        **compared(driven.ended, found),
        "rounds_used_up": used_up,
        "attempts_per_step": {step: round(mean, 3) for step, mean in attempts.items()},
        "states": dict(driven.states),
        "cpu_s_per_order": round(spent / orders, 3),
        "cores": round(cores, 2),
        "late": missed(driven.ended) - used_up,
    }


def predicted(policy: Policy, *, at_once: int, cpu: float, cores: float) -> Prediction:
    """The prediction for orders that share a server with one history shard, and `cores` for `cpu` seconds each.

    It does not know the policy's budget.
    """
    load = Load(at_once)
    overhead = queued(predict(policy, load=load), at_once=at_once, cpu=cpu, cores=cores)
    return predict(policy, overhead=overhead, load=load)


def missed(ended: Iterable[Ended]) -> int:
    return sum(one.state is not State.COMPLETED or one.seconds > DEADLINE for one in ended)


def compared(ended: list[Ended], found: Prediction) -> dict[str, Any]:
    """{missed, p50, p99, max, interval, interval_998, inside, inside_998, predicted: {p50, p99, p_miss, p_late,
    p_rounds_used_up}}: how orders ended, and what was predicted.

    The predicted percentiles are those of the orders that complete. An order that never does has no time there, but an
    order that ended otherwise has one in the measured percentiles.
    """
    seconds = np.array([one.seconds for one in ended])
    test = stats.binomtest(missed(ended), len(ended))
    intervals = [test.proportion_ci(certainty) for certainty in CERTAINTIES]
    p_miss = found.p_miss(DEADLINE)
    inside = [bool(one.low <= p_miss <= one.high) for one in intervals]
    return {
        "missed": missed(ended),
        "p50": round(float(np.quantile(seconds, 0.5)), 3),
        "p99": round(float(np.quantile(seconds, 0.99)), 3),
        "max": round(float(seconds.max()), 3),
        **{
            name: [round(float(one.low), 4), round(float(one.high), 4)]
            for name, one in zip(("interval", "interval_998"), intervals, strict=True)
        },
        **dict(zip(("inside", "inside_998"), inside, strict=True)),
        "predicted": {
            "p50": round(found.percentile(0.5 * (1 - found.never)), 3),
            "p99": round(found.percentile(0.99 * (1 - found.never)), 3),
            "p_miss": p_miss,
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

"""How long it takes to learn from many attempts and to recommend a policy. It needs no servers: the orders are
simulated."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from trellis.faults import FaultPlan
from trellis.insight.fit import learn
from trellis.insight.recommend import recommend
from trellis.insight.simulate import simulate
from trellis.policies import preset

DEADLINE, EPSILON = 15.0, 1e-3

_AT_ONCE = 40
_FEWEST_ORDERS = 20


def run(attempts: int, rounds: int, seed: int, tick: Callable[[], None]) -> dict[str, Any]:
    """{attempts, orders, learn_s, recommend_s, seconds, cpu_s, rounds, words}: medians over the rounds [s].

    `cpu_s`: the CPU time of learning and recommending, which other programs do not lengthen as they do the others. The
    attempts are those of `swift` orders under the canonical faults, at least about `attempts` of them.
    """
    policy, plan = preset("swift"), FaultPlan.canonical(seed)
    sample = simulate(policy, plan, orders=_FEWEST_ORDERS, at_once=_AT_ONCE, seed=seed)
    orders = max(_FEWEST_ORDERS, math.ceil(attempts * _FEWEST_ORDERS / len(sample.attempts)))
    made = simulate(policy, plan, orders=orders, at_once=_AT_ONCE, seed=seed)
    learning, choosing, cpu, words = [], [], [], ""
    for _ in range(rounds):
        spent, began = time.process_time(), time.perf_counter()
        learned = learn(made.attempts, runs=made.runs)
        learning.append(time.perf_counter() - began)
        began = time.perf_counter()
        words = recommend(DEADLINE, EPSILON, learned).words()
        choosing.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
        tick()
    return {
        "attempts": len(made.attempts),
        "orders": len(made.runs),
        "learn_s": round(statistics.median(learning), 3),
        "recommend_s": round(statistics.median(choosing), 3),
        "seconds": round(statistics.median(map(sum, zip(learning, choosing, strict=True))), 3),
        "cpu_s": round(statistics.median(cpu), 3),
        "rounds": rounds,
        "words": words,
    }

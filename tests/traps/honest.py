"""Honest data: independent calls, enough of them, workflows that the package can understand. Advice must be given.

`python -m tests.traps.honest 500` judges that many sets and prints what was refused or wrong.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from random import Random

from tests.traps.calls import Latency, Mix, bimodal, constant, heavy, lognormal, mixed
from tests.traps.frames import order
from tests.traps.judge import Scenario, judged
from tests.traps.world import PATIENT, SWIFT, Program, Rule, Run, Wait


def sequence(*names: str) -> Program:
    """Activities one after the other."""

    def program(run: Run) -> Wait:
        for name in names:
            yield from run.activity(name)

    return program


def honest(seed: int) -> Scenario:
    """One of many honest scenarios: loops or hedged lanes of orders, or strangers' activities that the server tries."""
    random = Random(seed)
    kind = random.choice(["loop", "loop", "hedged", "server", "stranger"])
    median = random.choice([0.01, 0.02, 0.05, 0.1])
    latency: Latency = random.choice([
        constant(median), lognormal(median, 0.3), lognormal(median, 0.6), bimodal(median, 3 * median, 0.1),
        heavy(median, 3.0),
    ])  # fmt: skip
    error, hang = random.choice([(1 / 3, 1 / 3), (0.1, 0.05), (0.02, 0.01), (0.3, 0.0), (0.05, 0.1), (0.0, 0.2)])
    general = Mix(error, hang, latency)
    one = Mix(min(0.6, error * random.uniform(1, 3)), hang, latency)
    runs = random.choice([200, 300, 500, 1000, 2000])
    at_once = random.choice([5, 10, 20, 40])
    if kind == "stranger":
        names = [f"activity_{n}" for n in range(random.randint(1, 5))]
        own = {random.choice(names): one} if random.random() < 0.5 else {}
        rule = Rule(random.choice([1.0, 2.0]), random.choice([0.1, 1.0]), random.choice([1.0, 10.0]), by_server=True)
        return Scenario(
            sequence(*names), mixed(general, own), rule, random.choice([5.0, 15.0]), 1e-2, view="history",
            runs=min(runs, 1000), at_once=at_once,
        )  # fmt: skip
    own = {random.choice(["validate", "charge", "dispatch"]): one} if random.random() < 0.5 else {}
    rule = {
        "loop": SWIFT,
        "hedged": Rule(0.25 if median < 0.1 else 0.5, 0.005, 0.05, jitter=True, lanes=random.choice([2, 3])),
        "server": PATIENT,
    }[kind]
    if kind == "loop":
        rule = random.choice([
            SWIFT if median < 0.1 else Rule(1.0, 0.01, 0.2, jitter=True), Rule(0.5, 0.01, 0.2, jitter=True),
            Rule(1.0, 0.05, 0.5),
        ])  # fmt: skip
    return Scenario(
        order, mixed(general, own), rule, random.choice([5.0, 10.0, 15.0]), random.choice([1e-2, 1e-3]), runs=runs,
        at_once=at_once,
    )  # fmt: skip


def main(sets: int, first: int = 0) -> None:
    began = time.perf_counter()
    kinds: Counter[str] = Counter()
    for seed in range(first, first + sets):
        verdict = judged(honest(seed), seed)
        kinds[verdict.kind] += 1
        if verdict.kind != "right":
            print(f"{seed}: {verdict.kind}: {verdict.why}", flush=True)
    print(f"{dict(kinds)} of {sets} honest sets, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

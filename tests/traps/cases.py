"""The traps: worlds in which the advice of somebody who believes in independent calls, in a plain chain, or in few data
is wrong. Each says in a sentence what is hidden in it."""

from __future__ import annotations

import math
from dataclasses import replace

from tests.traps.calls import (
    Mix,
    bad_runs,
    bimodal,
    by_number,
    by_time,
    by_worker,
    constant,
    exactly,
    heavy,
    lognormal,
    mixed,
    outages,
    queued,
    random_outages,
    slow_runs,
)
from tests.traps.frames import order
from tests.traps.honest import sequence
from tests.traps.judge import Scenario
from tests.traps.world import PATIENT, SWIFT, Calls, GaveUp, Rule, Run, Wait, World

QUIET = Mix(0.02, 0.0, lognormal(0.02, 0.3))
LOOP = Rule(1.0, 0.01, 0.2, jitter=True)


def loop_of_ten(run: Run) -> Wait:
    for _ in range(10):
        yield from run.activity("poll")


def activity_and_timer(run: Run) -> Wait:
    yield from run.activity("ask")
    yield from run.timer(3.0)


def three_locals(run: Run) -> Wait:
    for _ in range(3):
        yield from run.local("price")


def side_by_side(run: Run) -> Wait:
    yield from run.activity("reserve")
    yield from run.together(*(run.activity(name) for name in ("charge", "notify", "stock", "mail", "log")))


def fan_out(run: Run) -> Wait:
    """As many branches as the run has items."""
    width = run.world.random.randint(1, 12)
    yield from run.activity("list")
    yield from run.together(*(run.activity("item") for _ in range(width)))


def with_child(run: Run) -> Wait:
    yield from run.activity("before")
    yield from run.child("Child", sequence("inside", "inside_too"))
    yield from run.activity("after")


def with_signal(run: Run) -> Wait:
    """A person answers after about ten seconds."""
    yield from run.activity("ask")
    yield from run.signal(run.world.random.uniform(5.0, 15.0), "answer")
    yield from run.activity("act")


def polling(run: Run) -> Wait:
    """Polls once a second until the work is done, which takes 1 to 20 polls."""
    for _ in range(run.world.random.randint(1, 20)):
        yield from run.activity("poll")
        yield from run.timer(1.0)


def two_ways(run: Run) -> Wait:
    """Three runs of ten take the long way."""
    yield from run.activity("decide")
    if run.world.random.random() < 0.3:
        for _ in range(5):
            yield from run.activity("long")
    else:
        yield from run.activity("short")


def rare_step(run: Run) -> Wait:
    """One run of fifty needs a step of five seconds."""
    yield from run.activity("usual")
    if run.world.random.random() < 0.02:
        yield from run.activity("rare")


def saga(run: Run) -> Wait:
    """What was charged is paid back when the shipping gives up; such a run does not succeed."""
    yield from run.activity("charge")
    try:
        yield from run.activity("dispatch")
    except GaveUp:
        yield from run.activity("refund")
        raise


def sleepy(run: Run) -> Wait:
    """Between two activities the workflow's worker is away for up to four seconds."""
    yield from run.activity("first")
    yield run.world.random.uniform(0.0, 4.0)
    yield from run.activity("second")


def race(run: Run) -> Wait:
    """Two providers are asked at once, and the first answer wins: branches of which only the quicker one counts."""
    world = run.world
    first = world.random.choice(["north", "south"])
    yield from run.activity("ask")
    yield from run.activity(first)


def cold_start(mix: Mix, seconds: float) -> Calls:
    """The first call of each run takes longer than any timeout in force."""

    def calls(world: World, run: Run, step: str, number: int) -> tuple[str, float]:
        kind, took = mix.draw(world.random)
        if "warm" not in run.traits:
            run.traits["warm"] = True
            return kind, took + seconds
        return kind, took

    return calls


def stuck(share: float, seconds: float, mix: Mix) -> Calls:
    """A share of the steps stays locked for some seconds after its first call, and each try until then raises."""

    def calls(world: World, run: Run, step: str, number: int) -> tuple[str, float]:
        key = f"locked {step}"
        if key not in run.traits:
            locked = world.random.random() < share
            run.traits[key] = world.now + (world.random.uniform(0.5, 1.5) * seconds if locked else 0.0)
        return ("error", 0.002) if world.now < run.traits[key] else mix.draw(world.random)

    return calls


def poisoned(share: float, mix: Mix) -> Calls:
    """A share of the runs has one call that never works."""

    def calls(world: World, run: Run, step: str, number: int) -> tuple[str, float]:
        if "poison" not in run.traits:
            run.traits["poison"] = world.random.choice(["charge", "dispatch"]) if world.random.random() < share else ""
        return ("error", 0.002) if run.traits["poison"] == step else mix.draw(world.random)

    return calls


def limited(per_second: float, mix: Mix) -> Calls:
    """A provider that refuses what exceeds its rate: a token bucket of one second."""

    def calls(world: World, run: Run, step: str, number: int) -> tuple[str, float]:
        tokens, at = world.state.get("bucket", (per_second, 0.0))
        tokens = min(per_second, tokens + (world.now - at) * per_second)
        world.state["bucket"] = (max(0.0, tokens - 1.0), world.now)
        return ("error", 0.002) if tokens < 1.0 else mix.draw(world.random)

    return calls


def after_timeout(seconds: float, mix: Mix) -> Calls:
    """A call that was given up keeps its lock for a while: the tries that follow it raise."""

    def calls(world: World, run: Run, step: str, number: int) -> tuple[str, float]:
        if world.now < run.traits.get("lock", 0.0):
            return "error", 0.002
        kind, took = mix.draw(world.random)
        if math.isinf(took):
            run.traits["lock"] = world.now + seconds
        return kind, took

    return calls


def pauses(period: float, length: float, mix: Mix) -> Calls:
    """The provider stands still for a while in each period; calls wait for it."""

    def calls(world: World, run: Run, step: str, number: int) -> tuple[str, float]:
        kind, took = mix.draw(world.random)
        into = world.now % period
        return kind, took + max(0.0, length - into)

    return calls


TRAPS: dict[str, Scenario] = {
    # Calls that are not independent
    "outage of 20 s, patient": Scenario(
        order, outages(mixed(QUIET), [(30.0, 50.0)]), PATIENT, 15.0, 1e-5, runs=450, at_once=None, rate=6.0
    ),
    "outage of one step, patient": Scenario(
        order, outages(mixed(QUIET), [(30.0, 50.0)], "charge"), PATIENT, 15.0, 1e-5, runs=450, at_once=None, rate=6.0
    ),
    "hanging outage, loop": Scenario(
        order, outages(mixed(QUIET), [(30.0, 50.0)], "dispatch", hang=True), SWIFT, 10.0, 1e-4, runs=450, at_once=None,
        rate=6.0,
    ),
    "random outages, loop": Scenario(
        order, random_outages(mixed(QUIET), 20.0, 8.0), SWIFT, 5.0, runs=500, at_once=None, rate=5.0
    ),
    "short outages, sampled by fast retries": Scenario(
        order, random_outages(mixed(QUIET), 8.0, 0.6), SWIFT, 1.0, runs=500, at_once=None, rate=5.0
    ),
    "partial outages": Scenario(
        order, random_outages(mixed(QUIET), 40.0, 10.0, 0.8), LOOP, 2.0, 1e-4, runs=500, at_once=None, rate=4.0
    ),
    "outage at the very end": Scenario(
        order, outages(mixed(QUIET), [(70.0, 130.0)]), LOOP, 5.0, runs=400, at_once=None, rate=5.0, until=80.0
    ),
    "a tenth of the orders bad, loop": Scenario(
        order, bad_runs(mixed(QUIET), 0.1, mixed(Mix(0.6, 0.3))), SWIFT, 5.0, 1e-6, runs=500
    ),
    "a tenth of the orders bad, patient": Scenario(
        order, bad_runs(mixed(QUIET), 0.1, mixed(Mix(0.7))), PATIENT, 15.0, 1e-5, runs=450
    ),
    "one order of fifty bad": Scenario(order, bad_runs(mixed(QUIET), 0.02, mixed(Mix(0.9))), LOOP, 5.0, runs=500),
    "poisoned orders": Scenario(
        order, poisoned(0.03, QUIET), replace(SWIFT, max_tries=40), 5.0, runs=400
    ),
    "steps that stay locked": Scenario(order, stuck(0.05, 4.0, QUIET), SWIFT, 2.0, runs=400),
    "locked after a timeout": Scenario(order, after_timeout(2.0, Mix(0.02, 0.05)), SWIFT, 2.0, runs=400),
    "ten places at 70 % load": Scenario(
        order, queued(10, constant(0.1), mixed(Mix()), "charge"), Rule(2.0, 0.05, 0.5), 1.0, 2e-3, runs=3000,
        at_once=None, rate=70.0, trials=3000,
    ),
    "ten places at 70 % load, slow calls vary": Scenario(
        order, queued(10, lognormal(0.15, 0.7), mixed(Mix(0.02)), "charge"), Rule(2.0, 0.05, 0.5), 1.0, 2e-3,
        runs=2500, at_once=None, rate=36.0, trials=2500,
    ),
    "every call through ten places": Scenario(
        order, queued(10, lognormal(0.1, 0.8), mixed(Mix(0.02))), Rule(1.0, 0.01, 0.2, jitter=True), 2.0, 1e-4,
        runs=1000, at_once=None, rate=10.0,
    ),
    "retry storm": Scenario(
        order, queued(4, lognormal(0.15, 0.5), mixed(Mix()), "dispatch"), replace(SWIFT, timeout=0.4), 5.0, runs=800,
        at_once=None, rate=9.0,
    ),
    "a provider that limits its rate": Scenario(
        order, limited(40.0, Mix(0.01, 0.0, lognormal(0.05, 0.3))), Rule(1.0, 0.05, 0.5, jitter=True), 1.5, 1e-3,
        runs=1000, at_once=None, rate=4.0,
    ),
    "day and night": Scenario(
        order, by_time(lambda now: 0.01 if now % 100 < 70 else 0.7, Mix(latency=lognormal(0.02, 0.3))), LOOP, 3.0,
        1e-4, runs=600, at_once=None, rate=3.0,
    ),
    "errors that grow from day to day": Scenario(
        order, by_time(lambda now: min(0.85, now / 150.0), Mix(latency=lognormal(0.05, 0.3))), LOOP, 3.0, runs=600,
        at_once=None, rate=5.0,
    ),
    "orders on one bad worker": Scenario(
        order, bad_runs(mixed(QUIET), 0.25, mixed(Mix(0.8))), LOOP, 3.0, 1e-4, runs=300
    ),
    "one bad worker of four": Scenario(order, by_worker(QUIET, {"worker-2": 0.9}), LOOP, 3.0, runs=300),
    "first call of each order slow": Scenario(order, cold_start(QUIET, 3.0), Rule(5.0, 0.05, 0.5), 2.0, runs=300),
    "first call of each order longer than the timeout": Scenario(
        order, cold_start(QUIET, 3.0), Rule(0.5, 0.05, 0.5), 2.0, 1e-4, runs=300
    ),
    "orders with slow latencies of their own": Scenario(
        order, slow_runs(Mix(0.02, 0.0, lognormal(0.1, 0.3)), 0.9), Rule(10.0, 0.05, 0.5), 3.0, 1e-3, runs=500
    ),
    "failures until the third attempt": Scenario(
        order, by_number(lambda n: 0.9 if n <= 2 else 0.02, QUIET), Rule(1.0, 0.5, 1.0), 3.0, 1e-2, runs=300
    ),
    "failures from the third attempt on": Scenario(
        order, by_number(lambda n: 0.2 if n <= 2 else 0.9, QUIET), LOOP, 3.0, 1e-3, runs=500
    ),
    "a provider that stands still": Scenario(
        order, pauses(20.0, 2.5, QUIET), Rule(5.0, 0.05, 0.5), 2.0, 1e-3, runs=500, at_once=None, rate=5.0
    ),
    "lanes that fail together": Scenario(
        order, stuck(0.3, 1.5, QUIET), replace(SWIFT, lanes=3), 1.0, 1e-3, runs=300
    ),
    # Chains
    "loop of ten": Scenario(
        loop_of_ten, mixed(Mix(0.02, 0.0, constant(0.1))), PATIENT, 5.0, 1e-2, view="history", runs=200
    ),
    "activity and timer": Scenario(
        activity_and_timer, mixed(Mix(0.05, 0.0, constant(0.1))), PATIENT, 6.0, 1e-2, view="history", runs=200
    ),
    "three local activities": Scenario(
        three_locals, mixed(Mix(0.0, 0.0, constant(0.4))), PATIENT, 2.0, 1e-2, view="history", runs=200
    ),
    "deadline before the timer": Scenario(
        activity_and_timer, mixed(Mix(0.0, 0.0, constant(0.1))), PATIENT, 2.0, 1e-2, view="history", runs=200
    ),
    "five side by side": Scenario(
        side_by_side, mixed(Mix(0.1, 0.02, lognormal(0.1, 0.4))), PATIENT, 15.0, 1e-2, view="history", runs=300
    ),
    "child with activities": Scenario(
        with_child, mixed(Mix(0.1, 0.0, lognormal(0.1, 0.4))), PATIENT, 10.0, 1e-2, view="history", runs=200
    ),
    "wait for a person": Scenario(
        with_signal, mixed(Mix(0.1, 0.0, lognormal(0.1, 0.4))), PATIENT, 25.0, 1e-2, view="history", runs=200
    ),
    "polls until done": Scenario(
        polling, mixed(Mix(0.05, 0.0, lognormal(0.05, 0.3))), PATIENT, 30.0, 1e-2, view="history", runs=200
    ),
    "two ways": Scenario(
        two_ways, mixed(Mix(0.1, 0.0, lognormal(0.2, 0.3))), PATIENT, 10.0, 1e-2, view="history", runs=300
    ),
    "a rare slow step": Scenario(
        rare_step, mixed(Mix(0.02, 0.0, constant(0.05)), {"rare": Mix(0.02, 0.0, constant(5.0))}),
        Rule(20.0, 1.0, 1.0, by_server=True), 4.0, 1e-3, view="history", runs=300,
    ),
    "a step only after failures": Scenario(
        saga, mixed(Mix(0.05, 0.0, constant(0.05)), {"dispatch": Mix(0.5, 0.0, constant(0.05))}),
        Rule(2.0, 0.1, 1.0, max_tries=3, by_server=True), 10.0, 1e-2, view="history", runs=300,
    ),
    "a worker that is away between activities": Scenario(
        sleepy, mixed(Mix(0.05, 0.0, constant(0.05))), PATIENT, 8.0, 1e-2, view="history", runs=300
    ),
    "one of two": Scenario(
        race, mixed(Mix(0.05, 0.0, constant(0.05))), PATIENT, 5.0, 1e-2, view="history", runs=300
    ),
    # Steps that differ
    "one step of two seconds": Scenario(
        sequence("a", "b", "c", "d", "e", "slow"),
        mixed(Mix(0.0, 0.0, constant(0.01)), {"slow": Mix(0.0, 0.0, constant(2.0))}),
        Rule(10.0, 1.0, 10.0, by_server=True), 5.0, 1e-2, view="history", runs=20,
    ),
    "one order step of two seconds": Scenario(
        order, mixed(Mix(0.0, 0.0, constant(0.01)), {"dispatch": Mix(0.0, 0.0, constant(2.0))}), Rule(10.0, 0.05, 0.5),
        5.0, 1e-2, runs=20, at_once=5,
    ),
    "one step fails 45 %": Scenario(
        order, mixed(Mix(0.15), {"charge": Mix(0.45)}), LOOP, 2.0, 1e-3, runs=20, at_once=5
    ),
    "one hopeless step": Scenario(
        order, mixed(Mix(0.02, 0.01), {"charge": Mix(0.5, 0.4)}), SWIFT, 10.0, 1e-3, runs=300
    ),
    "eight lanes": Scenario(
        order, mixed(Mix(0.4, 0.2, lognormal(0.02, 0.3))), replace(SWIFT, lanes=8), 5.0, 1e-3, runs=60
    ),
    "heavy tail": Scenario(
        order, mixed(Mix(0.01, 0.0, heavy(0.05, 1.2))), Rule(5.0, 0.05, 0.5), 3.0, 1e-3, runs=300
    ),
    "slow ones of a hundred": Scenario(
        order, mixed(Mix(0.0, 0.0, bimodal(0.02, 3.0, 0.01))), Rule(10.0, 0.05, 0.5), 2.0, 1e-3, runs=100
    ),
    "latencies cut by a short timeout": Scenario(
        order, mixed(Mix(0.02, 0.0, lognormal(0.2, 0.5))), Rule(0.25, 0.01, 0.1), 10.0, 1e-3, runs=300
    ),
    "latencies that the timeout hides": Scenario(
        order, mixed(Mix(0.0, 0.0, bimodal(0.02, 0.6, 0.8))), Rule(0.25, 0.01, 0.1), 10.0, 1e-2, runs=300
    ),
    "deadline inside the timeout": Scenario(
        order, mixed(Mix(0.05, 0.05, constant(0.02))), PATIENT, 1.0, 1e-2, runs=300
    ),
    # Little data
    "one order": Scenario(order, mixed(QUIET), SWIFT, 15.0, 1e-5, runs=1),
    "two orders": Scenario(order, mixed(Mix(1 / 3, 1 / 3)), SWIFT, 15.0, 1e-5, runs=2),
    "twenty orders without a failure": Scenario(order, mixed(Mix(0.05)), SWIFT, 1.0, 1e-6, runs=20),
    "all orders identical": Scenario(order, mixed(Mix(latency=exactly(0.05))), SWIFT, 2.0, 1e-9, runs=50, gap=0.0),
    "still open orders": Scenario(
        order, outages(mixed(QUIET), [(10.0, 60.0)], "charge"), PATIENT, 15.0, 1e-3, runs=300, at_once=None, rate=5.0,
        until=30.0,
    ),
    "nothing ever works": Scenario(
        order, mixed(Mix(1.0)), replace(SWIFT, max_tries=5), 15.0, 1e-3, runs=20
    ),
    "one step never works": Scenario(
        order, mixed(Mix(0.02), {"charge": Mix(1.0)}), replace(SWIFT, max_tries=5), 15.0, 1e-3, runs=20
    ),
    "one activity never works": Scenario(
        saga, mixed(Mix(0.02), {"dispatch": Mix(1.0)}), Rule(2.0, 0.1, 1.0, max_tries=3, by_server=True), 15.0, 1e-3,
        view="history", runs=20,
    ),
}  # fmt: skip
"""Each by its name."""

"""How calls behave in a world: shares, latencies, outages, a queue, and whatever else breaks independence."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random

from tests.traps.world import Calls, Run, World

Latency = Callable[[Random], float]


def constant(seconds: float) -> Latency:
    """The same for all calls, but for 1 %: calls that end at exactly the same time exist in simulators only."""
    return lambda random: seconds * random.uniform(0.99, 1.01)


def exactly(seconds: float) -> Latency:
    return lambda _: seconds


def lognormal(median: float, sigma: float) -> Latency:
    return lambda random: median * math.exp(random.gauss(0.0, sigma))


def bimodal(quick: float, slow: float, share: float) -> Latency:
    """`share` of the calls take about `slow` seconds, the others about `quick`."""
    return lambda random: (slow if random.random() < share else quick) * random.uniform(0.8, 1.2)


def heavy(least: float, alpha: float) -> Latency:
    """Pareto's distribution, which has a heavy tail."""
    return lambda random: least * random.paretovariate(alpha)


_QUICK = constant(0.02)


@dataclass(frozen=True)
class Mix:
    """Independent calls: shares that raise and hang, and how long good calls and raising ones take."""

    error: float = 0.0
    hang: float = 0.0
    latency: Latency = _QUICK
    error_s: float = 0.002

    def draw(self, random: Random, error: float | None = None) -> tuple[str, float]:
        luck = random.random()
        error = self.error if error is None else error
        if luck < error:
            return "error", self.error_s
        if luck < error + self.hang:
            return "ok", math.inf
        return "ok", self.latency(random)


def mixed(general: Mix, steps: Mapping[str, Mix] | None = None) -> Calls:
    """Independent calls, by the step's name."""
    own = steps or {}

    def calls(world: World, run: Run, step: str, number: int) -> tuple[str, float]:
        return own.get(step, general).draw(world.random)

    return calls


def outages(calls: Calls, windows: list[tuple[float, float]], step: str | None = None, *, hang: bool = False) -> Calls:
    """Within each window (from, to) [s] every call of `step` (None: of every step) raises, or hangs."""

    def broken(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        if (step is None or name == step) and any(begin <= world.now < end for begin, end in windows):
            return ("ok", math.inf) if hang else ("error", 0.002)
        return calls(world, run, name, number)

    return broken


def every(period: float, length: float, until: float = 100_000.0, first: float = 0.0) -> list[tuple[float, float]]:
    """Windows of `length` seconds, one each `period`, the first `first` seconds after the start."""
    return [(first + n * period, first + n * period + length) for n in range(int(until / period))]


def random_outages(calls: Calls, gap: float, length: float, error: float = 1.0, step: str | None = None) -> Calls:
    """Outages at random times: `gap` seconds between them on average, `length` seconds each on average."""

    def broken(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        down, until = world.state.get("outage", (True, 0.0))
        while world.now >= until:
            down = not down
            until += world.random.expovariate(1.0 / (length if down else gap))
        world.state["outage"] = (down, until)
        if down and (step is None or name == step) and world.random.random() < error:
            return "error", 0.002
        return calls(world, run, name, number)

    return broken


def bad_runs(calls: Calls, share: float, bad: Calls) -> Calls:
    """`share` of the runs have calls of their own: `bad`."""

    def by_run(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        if "bad" not in run.traits:
            run.traits["bad"] = world.random.random() < share
        return (bad if run.traits["bad"] else calls)(world, run, name, number)

    return by_run


def slow_runs(mix: Mix, sigma: float) -> Calls:
    """Each run has a factor of its own for all its latencies."""

    def by_run(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        if "factor" not in run.traits:
            run.traits["factor"] = math.exp(world.random.gauss(0.0, sigma))
        factor = run.traits["factor"]
        return replace(mix, latency=lambda random: mix.latency(random) * factor).draw(world.random)

    return by_run


def queued(places: int, service: Latency, calls: Calls, step: str | None = None) -> Calls:
    """A provider that serves `places` calls at once, the others wait. A call that its caller gave up is served too."""

    def in_line(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        if step is not None and name != step:
            return calls(world, run, name, number)
        kind, _ = calls(world, run, name, number)
        free: list[float] = world.state.setdefault("free", [0.0] * places)
        begin = max(world.now, heapq.heappop(free))
        end = begin + service(world.random)
        heapq.heappush(free, end)
        return kind, end - world.now

    return in_line


def by_time(error: Callable[[float], float], mix: Mix) -> Calls:
    """The share of errors is a function of the time [s]: drift, or day and night."""

    def calls(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        return mix.draw(world.random, error(world.now))

    return calls


def by_worker(mix: Mix, bad: Mapping[str, float]) -> Calls:
    """The share of errors of some workers."""

    def calls(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        return mix.draw(world.random, bad.get(run.traits["worker"]))

    return calls


def by_number(error: Callable[[int], float], mix: Mix) -> Calls:
    """The share of errors is a function of the attempt's number within its step."""

    def calls(world: World, run: Run, name: str, number: int) -> tuple[str, float]:
        return mix.draw(world.random, error(number))

    return calls

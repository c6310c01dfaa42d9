"""The border between *recovers* and *never*: predicted by the simulator, and measured on real servers.

A cell is an outage of one step's provider, which has a finite capacity, under a load. For each policy and length of
outage the simulator finds the load at the border. Two cells lie 15 % of the load below and above it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from trellis.bench.bench_stack import BenchStack, bench_stack
from trellis.config import Settings
from trellis.driving import run_order
from trellis.faults import FaultPlan
from trellis.insight import attempts
from trellis.insight.storms import Times, Usual, border, drained_at, storm
from trellis.model import State, Step
from trellis.outages import Capacity, Outage
from trellis.policies import Policy, preset, tuned

STEP = Step.CHARGE
CAPACITY = Capacity(2, 0.4)
AWAY = 0.15
"""How far the cells lie from the border, as a share of its load."""

BUDGET = 60.0
_CASES = ((2.0, 8.0), (3.0, 14.0), (2.0, 6.0), (3.0, 10.0), (2.0, 12.0), (3.0, 20.0))
_BEFORE = 8.0
_FOLLOWED = 30.0
_STARVED = 0.9
_HEAVIEST = 0.95


@dataclass(frozen=True)
class Cell:
    """One measurement: orders under `policy` arrive evenly, `rate` a second. The provider is out for `outage_s`
    seconds, from `before` s after the beginning.

    Then orders are followed until they have recovered, or never do: in two windows in a row, each half of `followed` s,
    fewer than nine tenths as many completed as arrived, and the backlog did not shrink. Where neither is clear, it ends
    after three times `followed`, and counts as never.
    """

    policy: Policy
    rate: float
    outage_s: float
    before: float = _BEFORE
    followed: float = _FOLLOWED
    capacity: Capacity = CAPACITY
    step: str = STEP

    @property
    def load(self) -> float:
        return self.rate / self.capacity.per_second

    @property
    def plan(self) -> FaultPlan:
        out = Outage(self.before, self.outage_s, step=self.step)
        return FaultPlan(outages=(out,), capacity={self.step: self.capacity}).check()

    @property
    def healed(self) -> float:
        return self.before + self.outage_s

    @property
    def window(self) -> float:
        return self.followed / 2


@dataclass(frozen=True)
class Measured:
    """What became of a cell. `drained_s`: seconds from the end of the outage until it had recovered, None if it had not
    when the cell ended. `orders`: how many began. `arrived`, `completed`: how many began and completed in the last
    window. `hit`: calls that the outage failed."""

    drained_s: float | None
    orders: int
    arrived: int
    completed: int
    hit: int


def eager(timeout: float) -> Policy:
    """A policy that tries again soon, whatever happens."""
    dispatch = {"dispatch": {"max_tries": 0}}
    return tuned(
        preset("swift"), name=f"timeout {timeout:g} s", try_timeout=timeout, first_backoff=0.05, max_backoff=0.2,
        budget=BUDGET, steps=dispatch,
    )  # fmt: skip


async def measure(bench: BenchStack, cell: Cell) -> Measured:
    """Play one cell on a running stack. Orders that are open at its end go on."""
    loop, orders = asyncio.get_running_loop(), dict[int, tuple[float, float | None, bool]]()
    await bench.set_faults(cell.plan)
    began = loop.time()

    async def one(number: int, at: float) -> None:
        ended = await run_order(bench.desk, cell.policy, prefix="storm")
        orders[number] = at, loop.time() - began, ended.state is State.COMPLETED

    running: set[asyncio.Task[None]] = set()
    found: float | None = None
    number, starved, end = 0, 0, cell.healed + cell.window
    try:
        while found is None and starved < 2 and end <= cell.healed + 3 * cell.followed:
            number += 1
            at = number / cell.rate
            await asyncio.sleep(max(0.0, began + at - loop.time()))
            # The scheduled time counts: an order that starts late has waited.
            orders[number] = at, None, False
            running.add(asyncio.create_task(one(number, at)))
            if at > cell.healed:
                found = _drained(orders, cell)
            if at >= end:
                starved = starved + 1 if _starved(orders, end - cell.window, end) else 0
                end += cell.window
    finally:
        for task in running:
            task.cancel()
        failures = await asyncio.gather(*running, return_exceptions=True)
    for failure in failures:
        if isinstance(failure, Exception):
            raise failure
    times, last = Times.of(list(orders.values())), (loop.time() - began - cell.window, loop.time() - began)
    tries = await asyncio.to_thread(attempts, bench.database_url)
    hit = int((tries["outage"].notna() & (tries["step"] == cell.step)).sum())
    return Measured(found, number, times.begun(*last), times.completed(*last), hit)


def _starved(orders: dict[int, tuple[float, float | None, bool]], begin: float, end: float) -> bool:
    """Whether a window keeps the bad state up."""
    times = Times.of(list(orders.values()))
    before, after = times.open_at([begin, end])
    return bool(times.completed(begin, end) < _STARVED * times.begun(begin, end) and after >= before)


def _drained(orders: dict[int, tuple[float, float | None, bool]], cell: Cell) -> float | None:
    times = Times.of(list(orders.values()))
    usual = Usual.of(times, cell.before / 4, cell.before)
    # An order that meets one timeout is not quick. What is less than half a timeout slower, the machine's noise may do.
    room = cell.policy.retry_of(cell.step).try_timeout / 2
    usual = replace(usual, backlog=usual.backlog + 2, seconds=usual.seconds + room, share=1.0)
    at = drained_at(times, cell.healed, usual)
    return None if at is None else at - cell.healed


def predicted(cell: Cell, seed: int = 0) -> float | None:
    """The same cell, simulated: `drained_s`, None for never."""
    return storm(cell.policy, cell.plan, rate=cell.rate, even=True, seed=seed).drained_s


def cells(number: int, seed: int = 0) -> list[tuple[Cell, float]]:
    """Pairs of cells around predicted borders, each with the border's load."""
    found: list[tuple[Cell, float]] = []
    for timeout, seconds in _CASES[: math.ceil(number / 2)]:
        policy = eager(timeout)
        at = border(policy, seconds, FaultPlan(capacity={STEP: CAPACITY}), step=STEP, seed=seed)
        for load in (at.load * (1 - AWAY), min(_HEAVIEST, at.load * (1 + AWAY))):
            found.append((Cell(policy, load * CAPACITY.per_second, seconds), at.load))
    return found[:number]


async def run(settings: Settings, number: int, seed: int, tick: Callable[[], None]) -> dict[str, Any]:
    """{cells: [{policy, outage_s, border, load, rate, predicted, predicted_s, measured, drained_s, orders, arrived,
    completed, hit, agrees}], agree, of}. `border`: the predicted border's load. `predicted`, `measured`: recovers or
    never. `agree`: in how many cells both say the same, so that the border is at most 15 % of the load away."""
    rows = []
    for cell, at in cells(number, seed):
        # Each cell has servers of its own: a provider that was overwhelmed stays busy for minutes.
        async with bench_stack(settings, own_servers=True) as bench:
            found = await measure(bench, cell)
        expected = predicted(cell, seed)
        words = ["never" if one is None else "recovers" for one in (expected, found.drained_s)]
        rows.append({
            "policy": cell.policy.name, "outage_s": cell.outage_s, "border": round(at, 3), "load": round(cell.load, 3),
            "rate": round(cell.rate, 3), "predicted": words[0], "predicted_s": _rounded(expected),
            "measured": words[1], "drained_s": _rounded(found.drained_s), "orders": found.orders,
            "arrived": found.arrived, "completed": found.completed, "hit": found.hit, "agrees": words[0] == words[1],
        })  # fmt: skip
        tick()
    return {"cells": rows, "agree": sum(row["agrees"] for row in rows), "of": len(rows)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)

"""Scenarios: orders arrive, a nemesis breaks something and heals it, the orders end, the audit looks.

Each scenario has servers, workers and a folder of its own, so that one cannot spoil the next.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trellis import stack
from trellis.chaos.arrivals import Arrivals
from trellis.chaos.house import Break, House, own_house
from trellis.chaos.memory import Memory
from trellis.chaos.moves import Moves, after_kill
from trellis.chaos.nemesis import Nemesis
from trellis.chaos.recovery import Backlog, Pace, drained, pace, predicted
from trellis.chaos.verdict import Verdict, judge
from trellis.config import Settings
from trellis.driving import many, run_order
from trellis.errors import BadInput, StackError
from trellis.faults import FaultPlan, Mix
from trellis.policies import Policy, preset
from trellis.runtime import workspace

COMPENSATION = 30.0
"""How long the run waits for orders beyond their budget and the outages [s]: their compensation, on a busy machine."""

FIRST, LAST = 0.3, 0.45
"""Where in the run the first break comes, as a share of the time in which orders arrive. The seed draws it."""

LONGEST = 0.4
"""The default length of a fault is at most this share of the run, so that orders also arrive after it."""

DRAINS = (8, 32)
"""How many orders wait in the two drains that the pace is measured by."""


def mild() -> FaultPlan:
    """The faults that are in force in every scenario: some calls fail or hang, and some replies are lost after the
    provider did its work, which is what makes a second charge likely."""
    lossy = Mix(error=0.1, hang=0.05, reply_lost=0.1)
    return FaultPlan(Mix(error=0.1, hang=0.05), steps=dict.fromkeys(("charge", "dispatch", "refund"), lossy)).check()


@dataclass(frozen=True)
class Options:
    """What all scenarios of a run share.

    orders, rate: how many orders, and how many a second. seconds: how long each fault lasts; None: as long as its
    nemesis says. every: break again every so many seconds; None: once. break_at: seconds until the first break; None:
    the seed draws it. keep: leave the folder of a scenario with
    violations. predicts: measure the pace first, and predict how long outages take to drain.
    """

    orders: int = 60
    rate: float = 3.0
    seed: int = 0
    seconds: float | None = None
    every: float | None = None
    break_at: float | None = None
    policy: Policy = field(default_factory=lambda: preset("swift"))
    faults: FaultPlan = field(default_factory=mild)
    workers: int = 2
    keep: bool = False
    predicts: bool = True

    @property
    def plan(self) -> FaultPlan:
        """The faults, drawn with the seed."""
        return replace(self.faults, seed=self.seed)

    @property
    def span(self) -> float:
        """How long orders arrive [s]."""
        return self.orders / self.rate

    def check(self) -> Options:
        """The options themselves. Raises BadInput."""
        after = self.span * (1 - LAST) if self.break_at is None else self.span - self.break_at
        if self.seconds is not None and not 0 <= self.seconds < after:
            raise BadInput(
                f"An outage of {self.seconds:g} s does not fit a run of {self.span:g} s ({self.orders} orders at "
                f"{self.rate:g}/s): it must end while orders still arrive. Give more orders, or a shorter outage."
            )
        if self.every is not None and self.every >= self.span:
            raise BadInput(
                f"A break every {self.every:g} s does not fit a run of {self.span:g} s. Give more orders or minutes."
            )
        return self

    def lasts(self, nemesis: type[Nemesis]) -> float:
        """How long this fault lasts [s]."""
        return min(nemesis.seconds, self.span * LONGEST) if self.seconds is None else self.seconds

    def schedule(self, name: str) -> list[float]:
        """When the breaks come, in seconds after the first order was due."""
        first = self.break_at
        if first is None:
            first = random.Random(f"break {self.seed} {name}").uniform(FIRST, LAST) * self.span
        if self.every is None:
            return [first]
        first = min(first, self.every)
        return [first + self.every * number for number in range(int((self.span - first) / self.every) + 1)]


@dataclass
class Scenario:
    """What one scenario showed. Times `*_s` are seconds; None: not measured, or never.

    drained_s: see `recovery.drained`; predicted_s: the same, before the run. moves: see `moves.after_kill`.
    memory: see `memory.Memory`. ended_workers: processes that ended without being killed. folder: what was kept.
    """

    name: str
    orders: int
    acknowledged: int
    verdict: Verdict
    drained_s: float | None
    predicted_s: float | None
    states: Counter[str]
    breaks: list[Break]
    moves: Moves
    memory: dict[str, dict[str, float]]
    ended_workers: list[str]
    began: float
    curve: list[tuple[float, int]]
    folder: Path | None = None

    def since(self, moment: datetime) -> float:
        """Seconds after the first order was due."""
        return moment.timestamp() - self.began

    def to_json(self) -> dict[str, Any]:
        def short(seconds: float | None) -> float | None:
            return None if seconds is None else round(seconds, 2)

        return {
            "name": self.name,
            "orders": self.orders,
            "acknowledged": self.acknowledged,
            "landed": self.verdict.landed,
            "violations": self.verdict.violations,
            "void": self.verdict.void,
            "drained_s": short(self.drained_s),
            "predicted_s": short(self.predicted_s),
            "states": dict(self.states),
            "backlog": max((waiting for _, waiting in self.curve), default=0),
            "moved_s": short(self.moves.others_s),
            "after_heartbeat_s": short(self.moves.in_flight_s),
            "breaks": [
                {"began_s": short(self.since(one.began)), "healed_s": short(self.since(one.healed or one.began))}
                for one in self.breaks
            ],
            "memory_mb": self.memory,
            "ended_workers": self.ended_workers,
            "found": self.verdict.listed(),
            "kept": None if self.folder is None else str(self.folder),
        }


@dataclass(frozen=True)
class Skipped:
    """A scenario that this machine cannot stage. It is neither a pass nor a scenario."""

    name: str
    why: str


@dataclass
class Result:
    scenarios: list[Scenario] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    pace: Pace | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "scenarios": [one.to_json() for one in self.scenarios],
            "skipped": [{"name": one.name, "why": one.why} for one in self.skipped],
        }


Tell = Callable[[str], None]
"""Told one sentence at a time about what happens."""


async def chaos(
    settings: Settings,
    nemeses: Sequence[type[Nemesis]],
    options: Options,
    *,
    tell: Tell = lambda sentence: None,
    tick: Callable[[int], None] = lambda orders: None,
) -> Result:
    """Run these scenarios one after the other. `tick` gets the number of orders that just ended.

    Raises BadInput and StackError, one sentence. However it ends, it heals what it broke and ends what it started.
    """
    refuse_named_servers(settings)
    options.check()
    result = Result()
    if options.predicts and any(one.outage for one in nemeses):
        result.pace = await measure_pace(settings, options)
        tell(
            f"Measured: {result.pace.orders_per_s:.1f} orders/s when many wait, {result.pace.lag_s:.1f} s after new "
            f"workers began, which take {result.pace.hire_s:.1f} s to start."
        )
    for nemesis in nemeses:
        one = await scenario(settings, nemesis, options, result.pace, tell, tick)
        if isinstance(one, Skipped):
            result.skipped.append(one)
            tell(f"{one.name}: skipped. {one.why}")
        else:
            result.scenarios.append(one)
            tell(f"{one.name}: {one.verdict.sentence}")
    return result


def refuse_named_servers(settings: Settings) -> None:
    """Raise StackError if the settings name a server: it is somebody's, and chaos would break things beside it."""
    named = [
        name
        for name, value in (
            ("DATABASE_URL", settings.database_url), ("TEMPORAL_ADDRESS", settings.temporal_address),
            ("TEMPORAL_PROFILE", settings.temporal_profile),
        )
        if value is not None
    ]  # fmt: skip
    if named:
        raise StackError(
            f"Chaos breaks servers, and only those that it starts itself, but {' and '.join(named)} "
            f"{'names' if len(named) == 1 else 'name'} one. Run it with {' '.join(f'{name}=' for name in named)}"
        )


async def measure_pace(settings: Settings, options: Options) -> Pace:
    """How fast orders end when many are waiting: without workers, let some wait; start workers; wait for the last end.

    Twice, with few and with many orders, because new workers need some time to get going.
    """
    drains, hires = [], []
    with workspace(settings) as own:
        async with own_house(own, options.plan, options.workers) as house:
            await _warm_up(house, options.policy)
            for waiting in DRAINS:
                for member in list(house.crew.members):
                    await house.crew.kill(member)
                arrivals = Arrivals(house, options.policy, waiting, 20, options.seed, name=f"pace-{waiting}")
                await arrivals.run()
                # Signals of approval arrive a second after their updates got no answer, so all orders wait by now.
                began = time.time()
                await house.crew.fill()
                hired = time.time()
                await arrivals.settle(hired + options.policy.budget + COMPENSATION)
                hires.append(hired - began)
                drains.append((waiting, max((one.ended or time.time()) for one in arrivals.all) - hired))
    return pace(drains, max(hires))


async def scenario(
    settings: Settings,
    kind: type[Nemesis],
    options: Options,
    pace: Pace | None = None,
    tell: Tell = lambda sentence: None,
    tick: Callable[[int], None] = lambda orders: None,
) -> Scenario | Skipped:
    """One scenario on servers of its own. Raises StackError if servers or workers cannot be started or healed."""
    found: Scenario | Skipped | None = None
    first = kind()

    def keeps() -> bool:
        return options.keep and isinstance(found, Scenario) and found.verdict.violations > 0

    with workspace(settings, kept=keeps) as own:
        try:
            await first.prepare(own)
            async with own_house(own, options.plan, options.workers) as house:
                why = first.why_not(house)
                found = Skipped(kind.name, why) if why else await _run(house, kind, first, options, pace, tell, tick)
        finally:
            stack.down(own)
            first.clear(own)
        if keeps() and isinstance(found, Scenario):
            found.folder = own.home
    return found


async def _run(
    house: House,
    kind: type[Nemesis],
    first: Nemesis,
    options: Options,
    pace: Pace | None,
    tell: Tell,
    tick: Callable[[int], None],
) -> Scenario:
    expected = expect(kind, options, pace) if pace is not None else None
    if expected is not None:
        tell(f"{kind.name}: predicted {expected:.1f} s from the end of the outage until all is as before.")
    await _warm_up(house, options.policy)
    arrivals = Arrivals(house, options.policy, options.orders, options.rate, options.seed, name=kind.name)
    nemeses: list[Nemesis] = []
    memory = Memory(house)
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(house, memory))
            began = time.time()
            clients = group.create_task(arrivals.run())
            for at in options.schedule(kind.name):
                await asyncio.sleep(max(0.0, began + at - time.time()))
                nemeses.append(kind() if nemeses else first)
                await house.stage(nemeses[-1], options.lasts(kind))
            await clients
            outage_s = sum(((one.healed or one.began) - one.began).total_seconds() for one in house.broken)
            await arrivals.settle(time.time() + options.policy.budget + outage_s + COMPENSATION, tick)
            landed = [await nemesis.landed(house) for nemesis in nemeses]
            verdict = await judge(
                house, _met(landed, house.broken, arrivals), arrivals.acknowledged,
                policy=options.policy, outage_s=outage_s,
            )  # fmt: skip
            watch.cancel()
    except ExceptionGroup as failed:
        raise _first(failed) from None
    until = max((one.ended or 0.0 for one in arrivals.all), default=began)
    broke, healed = house.broken[0].began.timestamp(), (house.broken[-1].healed or house.broken[-1].began).timestamp()
    return Scenario(
        name=kind.name,
        orders=options.orders,
        acknowledged=len(arrivals.acknowledged),
        verdict=verdict,
        drained_s=drained(arrivals.all, broke, healed) if options.every is None else None,
        predicted_s=expected,
        states=Counter(str(one.state) for one in arrivals.all),
        breaks=house.broken,
        moves=await after_kill(house, arrivals) if kind.replaces_workers else Moves(),
        memory=memory.found,
        ended_workers=[f"{member.name}: {member.last_words()}" for member in house.crew.ended],
        began=began,
        curve=Backlog(arrivals.all).curve(began, max(until, healed) + 1),
    )


def expect(kind: type[Nemesis], options: Options, pace: Pace) -> float | None:
    """How long this outage takes to drain [s], from what is known before the run; None for what is no outage."""
    if not kind.outage or options.every is not None:
        return None
    outage_s = options.lasts(kind) + kind.heal_s + (pace.hire_s if kind.replaces_workers else 0.0)
    lag_s = kind.lag_s + (pace.lag_s if kind.replaces_workers else 0.0)
    left_s = max(0.0, options.span - options.schedule(kind.name)[0] - outage_s)
    return predicted(options.rate, outage_s, pace, lag_s=lag_s, left_s=left_s)


def _met(landed: list[int], broken: list[Break], arrivals: Arrivals) -> int:
    """The faults that landed while there were orders for them to hit."""
    return sum(
        number
        for number, one in zip(landed, broken, strict=True)
        if any(
            order.due <= (one.healed or one.began).timestamp()
            and (order.ended is None or order.ended >= one.began.timestamp())
            for order in arrivals.all
        )
    )


async def _warm_up(house: House, policy: Policy) -> None:
    """A few orders before the run: the first orders of new workers are slow, and what is usual is measured early."""
    orders = 2 * house.crew.size
    await many(orders, orders, lambda: _one_order(house, policy))


async def _one_order(house: House, policy: Policy) -> None:
    await run_order(house.runtime.desk, policy, prefix="warm-up")


async def _watch(house: House, memory: Memory) -> None:
    """Measure memory, and replace workers that end by themselves, as whatever runs them elsewhere would."""
    crew = house.crew
    while True:
        await asyncio.sleep(0.5)
        memory.look()
        crew.sweep()
        if len(crew.members) < crew.size and all(one.healed is not None for one in house.broken):
            await crew.fill()


def _first(failed: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group of groups: a command prints one sentence, not a tree."""
    one = failed.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one

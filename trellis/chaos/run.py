"""Scenarios: orders arrive, a nemesis breaks something and heals it, the orders end, the audit looks.

Each scenario has servers, workers and a folder of its own, so that one cannot spoil the next.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

from trellis import stack
from trellis.chaos.arrivals import Arrivals
from trellis.chaos.house import Break, House, own_house
from trellis.chaos.memory import Memory
from trellis.chaos.moves import Moves, after_kill
from trellis.chaos.nemesis import Nemesis
from trellis.chaos.recovery import Backlog, Pace, drained, pace_of, predicted
from trellis.chaos.scenario import Options, Result, Scenario, Skipped
from trellis.chaos.verdict import judge
from trellis.config import Settings
from trellis.driving import many, run_order
from trellis.errors import StackError, TrellisError
from trellis.policies import Policy
from trellis.runtime import workspace

COMPENSATION = 30.0
"""How long the run waits for orders beyond their budget and the outages [s]: their compensation, on a busy machine."""

DRAINS = (8, 32)
"""How many orders wait in the two drains that the pace is measured by."""


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

    Raises BadInput, one sentence; StackError only where one scenario was asked for: of several, one that cannot be
    played to its end is void, and the next one follows. However it ends, it heals what it broke and ends what it
    started.
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
        slower = options.within(result.pace)
        if slower.rate < options.rate:
            tell(f"That leaves too little room for {options.rate:g} orders/s, so {slower.rate:.2g} arrive a second.")
        options = slower
    result.rate = options.rate
    for nemesis in nemeses:
        try:
            one = await scenario(settings, nemesis, options, result.pace, tell, tick)
        except Exception as error:
            if len(nemeses) == 1:
                raise
            # The others are worth their minutes all the same.
            why = str(error) if isinstance(error, TrellisError) else f"{type(error).__name__}: {error}"
            one = Scenario.failed(nemesis.name, options.orders, why)
        if isinstance(one, Skipped):
            result.skipped.append(one)
            tell(f"{one.name}: skipped. {one.why}")
        else:
            result.scenarios.append(one)
            tell(f"{one.name}: {one.sentence}")
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
    return pace_of(drains, max(hires))


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
            try:
                stack.down(own)
            finally:
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
    staged: list[Break] = []
    memory = Memory(house)
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_watch(house, memory))
            began = time.time()
            clients = group.create_task(arrivals.run())
            for at in options.schedule(kind.name):
                await asyncio.sleep(max(0.0, began + at - time.time()))
                nemeses.append(kind() if nemeses else first)
                nemeses[-1].seed = f"{options.seed} {len(nemeses)}"
                staged.append(await house.stage(nemeses[-1], options.lasts(kind)))
            await clients
            outage_s = length(staged)
            await arrivals.settle(time.time() + options.policy.budget + outage_s + COMPENSATION, tick)
            landed = [await nemesis.landed(house) for nemesis in nemeses]
            verdict = await judge(
                house, _met(landed, staged, arrivals), arrivals.acknowledged,
                policy=options.policy, outage_s=outage_s,
            )  # fmt: skip
            watch.cancel()
    except ExceptionGroup as failed:
        raise _first(failed) from None
    until = max((one.ended or 0.0 for one in arrivals.all), default=began)
    broke, healed = staged[0].began.timestamp(), staged[-1].until.timestamp()
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


def length(breaks: Sequence[Break]) -> float:
    """For how long something was broken [s]. The breaks of one run come one after the other."""
    return sum((one.until - one.began).total_seconds() for one in breaks)


def _met(landed: list[int], broken: list[Break], arrivals: Arrivals) -> int:
    """The faults that landed while there were orders for them to hit."""
    return sum(
        number
        for number, one in zip(landed, broken, strict=True)
        if any(
            order.due <= one.until.timestamp() and (order.ended is None or order.ended >= one.began.timestamp())
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

"""Each nemesis lands on the real servers and heals, and the orders that run meanwhile all end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from trellis import runtime
from trellis.audit import audit
from trellis.chaos.arrivals import Arrivals
from trellis.chaos.experiments import EXPERIMENTS
from trellis.chaos.house import House, own_house
from trellis.chaos.nemeses import deploys, disk, doors, requests, servers, together, wires
from trellis.chaos.nemesis import Nemesis
from trellis.chaos.registry import NEMESES
from trellis.chaos.wire import PASS
from trellis.config import Settings
from trellis.edited import Edit, package_copy
from trellis.errors import StackError
from trellis.faults import FaultPlan
from trellis.policies import preset

pytestmark = pytest.mark.slow

ENDS_WITHIN = 90.0


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    with runtime.workspace(Settings.model_validate({"TRELLIS_FAULTS": "calm", "LOG_LEVEL": "ERROR"})) as settings:
        async with own_house(settings, FaultPlan.canonical(), workers=2) as house:
            yield house


async def staged(
    house: House, nemeses: Sequence[Nemesis], until: Callable[[Any], object] = lambda _: True, least: float = 0.7
) -> dict[str, int]:
    """Stage one after another while three orders arrive a second; how many faults of each landed.

    Each fault lasts `least` seconds, and until `until` holds of its nemesis. Then its staging is interrupted, as by a
    Ctrl-C, and must heal it. Every order ends, and the audit is clean.
    """
    arrivals = Arrivals(house, preset("swift"), 600, 3.0)
    clients = asyncio.create_task(arrivals.run())
    before = house.door
    try:
        for nemesis in nemeses:
            number = len(house.broken)
            staging = asyncio.create_task(house.stage(nemesis, 600))
            try:
                async with asyncio.timeout(60):
                    while not (staging.done() or (len(house.broken) > number and house.broken[number].broken)):
                        await asyncio.sleep(0.02)
                    await asyncio.sleep(least)
                    while not staging.done() and not await _of(until(nemesis)):
                        await asyncio.sleep(0.05)
            finally:
                staging.cancel()
                with suppress(asyncio.CancelledError):
                    await staging
            await nemesis.heal(house)
            assert house.door is before
            assert {wire.mode for wire in house.wires.values()} == {PASS}
    finally:
        # No more orders arrive. Those that are due by now are seen through to their ends.
        del arrivals.all[sum(one.due <= time.time() for one in arrivals.all) + 1 :]
        await clients
    await arrivals.settle(time.time() + ENDS_WITHIN)
    landed = {nemesis.name: await nemesis.landed(house) for nemesis in nemeses}
    assert [one.order.order_id for one in arrivals.all if one.acknowledged is None or one.ended is None] == []
    report = await audit(house.runtime.desk.client, house.runtime.pool)
    # The eleventh compares seconds: heartbeats are late on a machine that does other things, too.
    assert [one for one in report.violations if one.invariant != 11] == []
    return landed


async def _of(answer: object) -> object:
    return await answer if isinstance(answer, Awaitable) else answer


async def test_servers_are_killed_and_frozen(house: House) -> None:
    """Temporal and Postgres, each killed and each frozen, while orders arrive."""
    landed = await staged(house, [one() for one in servers.ALL])
    assert landed == {one.name: 1 for one in servers.ALL}


@pytest.mark.parametrize("wire", ["postgres", "temporal"])
async def test_a_wire_breaks_in_four_ways(house: House, wire: str) -> None:
    """It is slow, cut, half-open, and cut after the server did its work."""
    nemeses = [one() for one in wires.ALL if one.wire == wire]
    landed = await staged(house, nemeses, until=lambda nemesis: nemesis.landed(house))
    assert len(landed) == 4
    assert all(landed.values()), landed


async def test_requests_come_twice_early_late_and_in_a_storm(house: House) -> None:
    """The doors are there while orders arrive, and each order still happens once."""
    doors_of = [requests.RequestsDoubled(), requests.RequestsEarly()]
    landed = await staged(house, doors_of, until=lambda nemesis: nemesis.door.changed > 2)
    landed |= await staged(house, [requests.RequestsLate()], until=lambda nemesis: len(nemesis.door.sent) > 2)
    landed |= await staged(house, [requests.CancelStorm()])
    assert landed.keys() == {one.name for one in requests.ALL}
    assert all(landed.values()), landed
    # The others are cancellations that came before the first start of their order, and were told so.
    assert landed["cancel-storm"] >= requests.CancelStorm.CALLS


async def test_an_api_that_is_killed_loses_no_acknowledged_order(house: House) -> None:
    """It is killed between requests and answers; whoever asks again gets the same order."""
    landed = await staged(house, [doors.ApiKilled()], until=lambda nemesis: nemesis.landed(house))
    assert landed["api-killed"] > 0


async def test_a_full_disk_fails_writes_and_loses_none(house: House) -> None:
    """Postgres itself says that there is no room; when there is, everything goes on. The tables are back afterwards."""
    nemesis = disk.DiskFull()
    why = nemesis.why_not(house)
    if why is not None:
        pytest.skip(why)
    assert (await staged(house, [nemesis], until=lambda nemesis: nemesis.landed(house)))["disk-full"] > 0
    assert not os.path.exists(house.settings.home / "small-disk")
    async with house.runtime.pool.connection() as connection:
        row = await (await connection.execute("SELECT count(*) FROM pg_tablespace")).fetchone()
    assert row == (2,)


async def test_all_at_once(house: House) -> None:
    """Servers, wires, workers, providers and requests break at the same time, and nothing is lost."""
    nemesis, number = together.AllAtOnce(), len(house.broken)
    assert (await staged(house, [nemesis], until=lambda _: len(house.broken) > number + 4, least=3.0))[
        "all-at-once"
    ] > 0


async def test_a_house_without_wires_says_why_it_cuts_none(house: House) -> None:
    """The nemeses of wires are refused with a sentence, and nothing is broken."""
    bare = House(house.runtime, house.crew, {}, house.plan)
    for kind in wires.ALL:
        with pytest.raises(StackError, match="without a wire"):
            await bare.stage(kind(), 1)
    assert bare.broken == []


@pytest.mark.parametrize("kind", deploys.ALL)
def test_another_version_is_this_one_with_its_edits(kind: type[deploys._Deployed], tmp_path: Path) -> None:
    """The edits fit this version and give modules that compile. An edit that no longer fits is refused."""
    made = package_copy(tmp_path / "other", kind.edits)
    assert made["PYTHONPATH"] == str(tmp_path / "other")
    for name, old, new in kind.edits:
        text = (tmp_path / "other" / name).read_text("utf-8")
        assert new in text
        assert text.count(old) == new.count(old)
        compile(text, name, "exec")
        with pytest.raises(StackError, match="exactly once"):
            package_copy(tmp_path / "other", [Edit(name, "no such line", "")])


def test_every_experiment_of_the_guide_has_a_nemesis() -> None:
    """Each experiment that is not about Temporal's cloud is covered, under the guide's own name."""
    covered = {kind.experiment for kind in NEMESES.values()} - {""}
    assert covered == {name for name, why_not in EXPERIMENTS.items() if not why_not}

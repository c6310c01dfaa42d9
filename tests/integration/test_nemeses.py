"""Each nemesis lands on the real servers and heals, and the orders that run meanwhile all end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

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


async def staged(house: House, nemeses: Sequence[Nemesis], seconds: float, orders: int) -> dict[str, int]:
    """Stage one after another while orders arrive, three a second; how many faults of each landed.

    Every order ends, everything is healed, and the audit is clean.
    """
    arrivals = Arrivals(house, preset("swift"), orders, 3.0)
    clients = asyncio.create_task(arrivals.run())
    before = house.door
    try:
        for nemesis in nemeses:
            await house.stage(nemesis, seconds)
            await nemesis.heal(house)
        await clients
    finally:
        clients.cancel()
        await asyncio.gather(clients, return_exceptions=True)
    await arrivals.settle(time.time() + ENDS_WITHIN)
    landed = {nemesis.name: await nemesis.landed(house) for nemesis in nemeses}
    assert [one.order.order_id for one in arrivals.all if one.acknowledged is None or one.ended is None] == []
    assert house.door is before
    assert {wire.mode for wire in house.wires.values()} == {PASS}
    report = await audit(house.runtime.desk.client, house.runtime.pool)
    assert report.clean, report.violations
    return landed


async def test_servers_are_killed_and_frozen(house: House) -> None:
    """Temporal and Postgres, each killed and each frozen, while orders arrive."""
    landed = await staged(house, [one() for one in servers.ALL], 1.0, 24)
    assert landed == {one.name: 1 for one in servers.ALL}


async def test_the_wire_to_postgres_breaks(house: House) -> None:
    """It is slow, cut, half-open, and cut after commits."""
    landed = await staged(house, [one() for one in wires.ALL if one.wire == "postgres"], 1.5, 20)
    assert all(landed.values()), landed


async def test_the_wire_to_temporal_breaks(house: House) -> None:
    """It is slow, cut, half-open, and cut after answers."""
    landed = await staged(house, [one() for one in wires.ALL if one.wire == "temporal"], 1.5, 20)
    assert all(landed.values()), landed


async def test_requests_come_twice_early_late_and_in_a_storm(house: House) -> None:
    """The doors are there while orders arrive, and each order still happens once."""
    landed = await staged(house, [one() for one in requests.ALL], 1.5, 20)
    assert all(landed.values()), landed
    assert landed["cancel-storm"] == 2 * requests.CancelStorm.CALLS


async def test_an_api_that_is_killed_loses_no_acknowledged_order(house: House) -> None:
    """It is killed between requests and answers; whoever asks again gets the same order."""
    landed = await staged(house, [doors.ApiKilled()], 4.0, 20)
    assert landed["api-killed"] > 0


async def test_a_full_disk_fails_writes_and_loses_none(house: House) -> None:
    """Postgres itself says that there is no room; when there is, everything goes on. The tables are back afterwards."""
    nemesis = disk.DiskFull()
    why = nemesis.why_not(house)
    if why is not None:
        pytest.skip(why)
    assert (await staged(house, [nemesis], 2.0, 15))["disk-full"] > 0
    assert not os.path.exists(house.settings.home / "small-disk")
    async with house.runtime.pool.connection() as connection:
        row = await (await connection.execute("SELECT count(*) FROM pg_tablespace")).fetchone()
    assert row == (2,)


async def test_other_versions_are_deployed_while_orders_run(house: House) -> None:
    """A change under workflow.patched fits old and new orders; one without it does not, and is taken back."""
    landed = await staged(house, [one() for one in deploys.ALL], 1.0, 30)
    assert landed["deploy-versioned"] == deploys.DeployVersioned.ORDERS
    assert landed["deploy-broken"] > 0


async def test_all_at_once(house: House) -> None:
    """Servers, wires, workers, providers and requests break at the same time, and nothing is lost."""
    nemesis = together.AllAtOnce()
    assert (await staged(house, [nemesis], 6.0, 24))["all-at-once"] > 0
    assert len([name for name, landed in nemesis.landed_by.items() if landed]) > 2


async def test_an_interrupted_fault_is_healed(house: House) -> None:
    """A cancelled run lets go on what it froze, and closes what it cut, before it ends."""
    frozen, cut = servers.PostgresFrozen(), wires.TemporalCut()
    both = [asyncio.create_task(house.stage(one, 60)) for one in (frozen, cut)]
    async with asyncio.timeout(30):
        while not all(note.broken for note in house.broken[-2:]):
            await asyncio.sleep(0.05)
    for task in both:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*both)
    await asyncio.wait(both)
    assert {wire.mode for wire in house.wires.values()} == {PASS}
    await house.runtime.desk.ledger.ping()


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
    made = deploys.package_copy(tmp_path / "other", kind.edits)
    assert made["PYTHONPATH"] == str(tmp_path / "other")
    for name, old, new in kind.edits:
        text = (tmp_path / "other" / "trellis" / name).read_text("utf-8")
        assert new in text
        assert text.count(old) == new.count(old)
        compile(text, name, "exec")
        with pytest.raises(StackError, match="exactly once"):
            deploys.package_copy(tmp_path / "other", [(name, "no such line", "")])


def test_every_experiment_of_the_guide_has_a_nemesis() -> None:
    """Each experiment that is not about Temporal's cloud is covered, under the guide's own name."""
    covered = {kind.experiment for kind in NEMESES.values()} - {""}
    assert covered == {name for name, why_not in EXPERIMENTS.items() if not why_not}

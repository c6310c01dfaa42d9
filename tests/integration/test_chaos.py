"""Chaos breaks its own workers and provider on its own servers, says when it did not, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.test_cli import trellis
from trellis.chaos.arrivals import Arrivals
from trellis.chaos.house import House
from trellis.chaos.nemeses.provider import ProviderRaises
from trellis.chaos.nemeses.workers import AllWorkersGone, WorkerFrozen, WorkerKilled
from trellis.chaos.nemesis import Nemesis
from trellis.chaos.run import chaos
from trellis.chaos.scenario import Options
from trellis.chaos.verdict import judge
from trellis.config import Settings, load
from trellis.crew import Crew
from trellis.db.pool import Pool
from trellis.errors import StackError
from trellis.faults import FaultPlan, Mix
from trellis.policies import preset, tuned
from trellis.runtime import Runtime, open_desk

pytestmark = pytest.mark.slow

ELSEWHERE = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "TEMPORAL_ADDRESS": "127.0.0.1:1"}


async def test_a_killed_worker_and_a_providers_outage_lose_no_order(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The short form of `trellis chaos`: both faults land, every acknowledged order ends, the audit is clean, and the
    folders and servers of both scenarios are gone afterwards."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    options = Options(orders=24, rate=8, seed=1, predicts=False)
    found = await chaos(settings, [WorkerKilled, ProviderRaises], options)
    assert found.skipped == []
    for one in found.scenarios:
        assert one.verdict.word == "CLEAN", one.verdict.sentence
        assert one.verdict.landed > 0
        assert one.acknowledged == one.orders == 24
        assert set(one.states) <= {"COMPLETED", "FAILED"}
        assert sum(one.states.values()) == 24
    killed, _ = found.scenarios
    assert killed.moves.orders > 0
    assert not list(tmp_path.glob("trellis-*"))


@pytest.fixture
async def house(opened: Runtime, settings: Settings, pool: Pool, tmp_path: Path) -> AsyncIterator[House]:
    """The servers of this test run with two workers on queues of their own, and calm providers."""
    own = settings.model_copy(update={"orders_queue": "chaos-orders", "shipping_queue": "chaos-shipping"})
    runtime = replace(opened, settings=own, desk=await open_desk(opened.stack, own, pool))
    await runtime.desk.set_faults(FaultPlan.calm())
    async with Crew(own, tmp_path / "worker.log", 2) as crew:
        yield await House.over(runtime, crew)
    await runtime.desk.set_faults(FaultPlan.calm())


@pytest.mark.timeout(240)
async def test_a_worker_that_wakes_after_others_took_over_does_no_harm(house: House) -> None:
    """Frozen past its heartbeats: its steps or workflow tasks go to the other worker, all orders end, and the books
    balance when it goes on with what it held."""
    # Steps take long, so that the worker holds some when it stops.
    await house.set_plan(FaultPlan(Mix(latency=0.3)))
    arrivals = Arrivals(house, tuned(preset("swift"), try_timeout=5, budget=60), 8, 4, name=f"frozen-{os.getpid()}")
    frozen = WorkerFrozen()
    async with asyncio.TaskGroup() as group:
        group.create_task(arrivals.run())
        await asyncio.sleep(1.2)
        await house.stage(frozen, 12)
    await arrivals.settle(arrivals.all[-1].due + 120)
    ids = " OR ".join(f"WorkflowId = 'order-{one.order.order_id}'" for one in arrivals.all)
    verdict = await judge(house, await frozen.landed(house), arrivals.acknowledged, query=ids)
    assert verdict.landed > 0
    assert verdict.findings == ()
    assert [one for one in verdict.report.violations if one.order_id.startswith("frozen-")] == []
    assert len(arrivals.acknowledged) == 8
    assert len(house.crew.working) == 2


class Clumsy(WorkerKilled):
    """Kills a worker, then fails half-way."""

    name: ClassVar[str] = "clumsy"

    async def break_(self, house: House) -> None:
        await super().break_(house)
        raise RuntimeError("it slipped")


async def test_a_break_that_fails_half_way_or_is_interrupted_is_healed(house: House) -> None:
    """Two workers work again, and the note of the break says that it is over."""
    with pytest.raises(RuntimeError, match="it slipped"):
        await house.stage(Clumsy(), 1)
    assert len(house.crew.working) == 2
    staging = asyncio.create_task(house.stage(AllWorkersGone(), 600))
    async with asyncio.timeout(30):
        while house.crew.members:
            await asyncio.sleep(0.02)
    staging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await staging
    assert len(house.crew.working) == 2
    assert all(one.healed is not None for one in house.broken)


async def test_a_house_of_servers_that_trellis_did_not_start_is_refused(opened: Runtime, tmp_path: Path) -> None:
    """Each server that the settings name is named in the sentence, and no worker is touched."""
    crew = Crew(opened.settings, tmp_path / "worker.log", 1)
    theirs = replace(opened, stack=replace(opened.stack, database_external=True))
    with pytest.raises(StackError, match="Postgres is named by its settings"):
        await House.over(theirs, crew)
    assert crew.hired == []


async def test_another_process_at_work_in_the_workspace_is_not_broken(house: House, tmp_path: Path) -> None:
    """A crew that this house does not know works on the same queues: buttons would break its orders, too."""
    async with Crew(house.settings, tmp_path / "others.log", 1) as others:
        async with asyncio.timeout(30):
            while not any(
                worker["identity"].startswith(f"{others.members[0].pid}@")
                for worker in await house.runtime.desk.workers()
            ):
                await asyncio.sleep(0.1)
        with pytest.raises(StackError, match=f"Process {others.members[0].pid} also works in this workspace"):
            await House.over(house.runtime, house.crew)


class Nothing(Nemesis):
    """Breaks nothing and says that this machine cannot stage it."""

    name: ClassVar[str] = "nothing"
    says: ClassVar[str] = "Nothing breaks."

    def why_not(self, house: House) -> str | None:
        return "There is nothing to break."

    async def break_(self, house: House) -> None:
        raise AssertionError("it was staged all the same")

    async def heal(self, house: House) -> None:
        pass

    async def landed(self, house: House) -> int:
        return 0


async def test_what_cannot_be_staged_is_skipped_with_its_reason(settings: Settings) -> None:
    """It is neither a pass nor a scenario."""
    found = await chaos(settings, [Nothing], Options(orders=3))
    assert found.to_json() == {
        "scenarios": [], "skipped": [{"name": "nothing", "why": "There is nothing to break."}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--scenario", "flood"], "There is no scenario 'flood'"),
        (["--outage", "100"], "does not fit a run of 20 s"),
        (["--policy", "nope"], "There is no policy 'nope'"),
        (["--page", "/proc/nowhere/page.html"], "cannot be written"),
    ],
)
async def test_bad_input_is_one_sentence_and_starts_nothing(
    settings: Settings, tmp_path: Path, words: list[str], sentence: str
) -> None:
    """Exit code 1, the reason on stderr, and no workspace was made."""
    done = await trellis(settings, "chaos", *words, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


async def test_chaos_leaves_the_servers_that_settings_name_in_peace(settings: Settings, tmp_path: Path) -> None:
    """Named by the environment or by `.env`, they are refused in one sentence, and nothing is started."""
    done = await trellis(settings, "chaos", TMPDIR=str(tmp_path), **ELSEWHERE)
    assert done.returncode == 1
    assert "DATABASE_URL and TEMPORAL_ADDRESS name one" in done.stderr
    assert not list(tmp_path.iterdir())


async def test_the_scenarios_are_listed(settings: Settings) -> None:
    """Each with what it breaks, for how long, and the experiment of Temporal's guide that it covers."""
    listed = json.loads((await trellis(settings, "chaos", "--list", "--json")).stdout)
    assert {"worker-killed", "workers-gone", "worker-frozen", "provider-raises"} <= {one["name"] for one in listed}
    assert {"Kill all Workers, then restart them", "Frequent Worker restart"} <= {one["experiment"] for one in listed}


def test_a_child_process_is_given_these_very_settings(tmp_path: Path) -> None:
    """Read back, the variables give the same settings, whatever a `.env` says."""
    given = load({"TRELLIS_HOME": str(tmp_path), "ORDERS_TQ": "mine", "TRELLIS_FAULTS": "calm"} | ELSEWHERE, None)
    env_file = tmp_path / ".env"
    env_file.write_text("SHIPPING_TQ=theirs\nTEMPORAL_NAMESPACE=theirs\n", "utf-8")
    assert load(given.environment(), env_file) == given
    own = given.with_own_servers(tmp_path / "own")
    assert load({**os.environ, **ELSEWHERE, **own.environment()}, env_file) == own
    assert (own.database_url, own.temporal_address, own.orders_queue) == (None, None, "mine")

"""`trellis check` against real servers: what is open there, a patch that was tried, and what a deployment does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.worker import Worker

from trellis.bench import mutations
from trellis.bench.mutants import source
from trellis.bench.mutated.checkout import Checkout
from trellis.config import Settings
from trellis.desk import Desk
from trellis.errors import BadInput
from trellis.replay.check import check
from trellis.sandbox import RUNNER

CHARGED = '            await self._do("charge", amount, "card")\n'


@activity.defn(dynamic=True)
async def answer(args: Sequence[RawValue]) -> str:
    return "done"


@pytest.fixture(scope="module")
async def waiting(idle_desk: Desk) -> str:
    """A checkout that was charged and waits. Its worker is gone."""
    client: Client = idle_desk.client
    worker = Worker(client, task_queue="checkouts", workflows=[Checkout], activities=[answer], workflow_runner=RUNNER)
    async with asyncio.timeout(60), worker:
        handle = await client.start_workflow("Checkout", 60, id="checked-checkout", task_queue="checkouts")
        await handle.signal("go")
        while await handle.query("waited", result_type=int) < 2:
            await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        # The server lists a workflow a moment after it was started.
        while not [one async for one in client.list_workflows("WorkflowType = 'Checkout'")]:
            await asyncio.sleep(0.05)
    return handle.id


async def test_a_patch_is_proposed_after_old_and_new_code_ran_with_it(
    waiting: str, settings: Settings, tmp_path: Path
) -> None:
    """An activity is inserted before the charge. The open workflow would break. With the patch it replays,
    and the new code completes on a throw-away server. The source is not touched."""
    new = source("checkout").replace(CHARGED, f'            await self._do("screen", amount)\n{CHARGED}')
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "checkout_next.py").write_text(source("checkout"), "utf-8")
    module = tmp_path / "checkout_next.py"
    module.write_text(new, "utf-8")
    report = await asyncio.to_thread(check, str(module), before=tmp_path / "before", settings=settings)
    assert (report.open_breaking, report.unrun_lines) == (1, ())
    [path] = report.paths
    assert path.example == waiting
    assert (path.finding.history, path.finding.code) == ("activity `charge` scheduled", "activity `screen`")
    assert report.proposal is not None, report.notes
    assert '+            if workflow.patched("' in report.proposal.diff
    assert "`screen` has no recorded answer" in report.proposal.new
    assert module.read_text("utf-8") == new


async def test_a_query_that_the_server_refuses_is_one_sentence(idle_desk: Desk, settings: Settings) -> None:
    """So is one that finds nothing."""
    with pytest.raises(BadInput, match="does not understand the query"):
        await asyncio.to_thread(check, "trellis.workflows.shipping", query="Nonsense ==", settings=settings)
    with pytest.raises(BadInput, match="nothing can be checked"):
        await asyncio.to_thread(check, "trellis.workflows.shipping", query="WorkflowId = 'nobody'", settings=settings)


async def test_a_check_says_what_a_deployment_does(settings: Settings) -> None:
    """Edits drawn at random, each deployed to a workflow that is open: the short form of `trellis bench mutations`."""
    found = await mutations.run(settings, 5, seed=3, propose=False)
    assert found["agree"] == 5, [case for case in found["cases"] if not case["agrees"]]

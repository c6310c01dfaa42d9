"""Workflow code that a replay could not repeat: the sandbox refuses it, at replay and on a worker."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowHistory
from temporalio.worker import Replayer, Worker

import trellis
from tests.conftest import House
from trellis.messages import ORDER_WORKFLOW, OrderInput
from trellis.model import workflow_id
from trellis.policies import preset
from trellis.workers import RUNNER
from trellis.workflows import order, shipping
from trellis.workflows.order import OrderWorkflow

CALLS = {
    "time": "time.time()",
    "random": "random.random()",
    "datetime": "datetime.now()",
    "os": "os.listdir()",
}
CALM = Path(__file__).parents[1] / "replay" / "histories" / "calm.json"


@pytest.fixture
def planted(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The order workflow's file with one call more: the first line of `_fulfil`, or of the child's `run`."""
    kind, source, before = request.param
    text = Path(source.__file__).read_text("utf-8")
    assert text.count(before) == 1
    head, body = text.split("from __future__ import annotations\n")
    imports = "import os\nimport random\nimport time\nfrom datetime import datetime\n"
    body = body.replace(before, f"{before}        {CALLS[kind]}\n")
    name = f"planted_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(f"{head}from __future__ import annotations\n{imports}{body}", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(name)
    del sys.modules[name]


FULFIL = [(kind, order, "    async def _fulfil(self) -> str:\n") for kind in CALLS]
ROUND = [("time", shipping, "    async def run(self, given: ShippingInput) -> Dispatched:\n")]


def named(case: tuple[str, ModuleType, str]) -> str:
    return f"{case[0]}-{case[1].__name__.rpartition('.')[2]}"


REPLAYS = """
import asyncio, importlib, pathlib, sys
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from trellis import workers
from trellis.workflows import order, shipping

async def main():
    file, text = pathlib.Path(order.__file__), pathlib.Path(order.__file__).read_text()
    assert file.is_relative_to(sys.argv[1])
    head = "    async def _fulfil(self) -> str:\\n"
    for call in ["pass", *sys.argv[3:]]:
        line = call if call == "pass" else f"import {call.partition('.')[0]}; {call}"
        file.write_text(text.replace(head, f"{head}        {line}\\n"))
        importlib.reload(order)
        importlib.reload(workers)
        replayer = Replayer(workflows=[order.OrderWorkflow, shipping.ShippingWorkflow], workflow_runner=workers.RUNNER)
        try:
            await replayer.replay_workflow(WorkflowHistory.from_json("calm", pathlib.Path(sys.argv[2]).read_text()))
            print("replayed", call)
        except Exception as refused:
            print("refused" if "from inside a workflow" in str(refused) else f"failed ({refused})", call)

asyncio.run(main())
"""


def test_a_planted_call_is_refused_at_replay(tmp_path: Path) -> None:
    """Calls for the time, a random number or the disk, in the real workflow's own file: the replay refuses each."""
    shutil.copytree(Path(trellis.__file__).parent, tmp_path / "trellis")
    calls = ["time.time()", "random.random()", "datetime.datetime.now()", "os.listdir()"]
    replays = subprocess.run(
        [sys.executable, "-c", REPLAYS, str(tmp_path), str(CALM), *calls],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    # Temporal's core prints its warnings among them.
    verdicts = [line for line in replays.stdout.splitlines() if line.startswith(("replayed ", "refused ", "failed "))]
    assert verdicts == ["replayed pass", *(f"refused {call}" for call in calls)]


@pytest.mark.parametrize("planted", FULFIL, indirect=True, ids=named)
async def test_a_planted_call_fails_the_task_and_never_the_order(house: House, planted: Any) -> None:
    """On a worker such a call fails the workflow task. The code can be corrected, and the order does not end."""
    queue = f"planted-{uuid.uuid4().hex[:8]}"
    sample = house.order()
    async with Worker(house.desk.client, task_queue=queue, workflows=[planted.OrderWorkflow], workflow_runner=RUNNER):
        handle = await house.desk.client.start_workflow(
            ORDER_WORKFLOW, OrderInput(sample, preset("swift")), id=workflow_id(sample.order_id), task_queue=queue
        )
        failed = None
        async with asyncio.timeout(60):
            while failed is None:
                async for event in handle.fetch_history_events():
                    if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
                        failed = event.workflow_task_failed_event_attributes.failure
                await asyncio.sleep(0.05)
        assert failed.application_failure_info.type == "RestrictedWorkflowAccessError"
        assert (await handle.describe()).status is WorkflowExecutionStatus.RUNNING
        await handle.terminate("the test is over")
    assert await house.desk.ledger.order(sample.order_id) is None


@pytest.mark.parametrize("planted", ROUND, indirect=True, ids=named)
async def test_a_planted_call_in_the_child_tells_the_parent_nothing(planted: Any) -> None:
    """A mistake in the child is not a failed dispatch: its task fails, and it sends no signal."""
    replayer = Replayer(workflows=[OrderWorkflow, planted.ShippingWorkflow], workflow_runner=RUNNER)
    text = CALM.with_name("calm.shipping.json").read_text("utf-8")
    with pytest.raises(Exception, match=r"Cannot access \S+ from inside a workflow"):
        await replayer.replay_workflow(WorkflowHistory.from_json("calm.shipping", text))

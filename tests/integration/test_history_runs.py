"""Which runs are read: all of a chain, a sample of many, one of a reset workflow; and what is said of the rest."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    WorkflowFailureError,
)
from temporalio.common import RetryPolicy

from tests.integration.odd_workflows import listed, run, worker
from trellis import insight
from trellis.desk import Desk
from trellis.errors import BadInput, TrellisError
from trellis.insight.history import PartialHistory

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def client(idle_desk: Desk) -> AsyncIterator[Client]:
    """A client beside a worker that runs the odd workflows."""
    async with worker(idle_desk.client):
        yield idle_desk.client


async def test_an_id_gives_all_runs_that_belong_together(client: Client) -> None:
    """Three runs, each continuing the last, come with the id alone, oldest first; `run_id` gives one of them."""
    id_ = await run(client, more=2)
    found = await insight.download(client, id_)
    runs = list(dict.fromkeys(found["run_id"]))
    assert len(runs) == 3
    assert insight.history_workflows(found)["began_at"].is_monotonic_increasing
    assert found.attrs["notes"] == []
    assert set((await insight.download(client, id_, run_id=runs[1]))["run_id"]) == {runs[1]}
    with pytest.warns(PartialHistory, match="has more than 2 runs: the newest were read"):
        newest = await insight.download(client, id_, limit=2)
    assert list(dict.fromkeys(newest["run_id"])) == runs[1:]


async def test_runs_that_were_not_read_are_named(client: Client) -> None:
    """An id that was used twice is two workflows. The later one is read, and the other is mentioned."""
    id_ = await run(client)
    await client.execute_workflow("Many", 0, id=id_, task_queue="many")
    await listed(client, id_, 2)
    with pytest.warns(PartialHistory, match="1 other runs of many-.* were not read"):
        found = await insight.download(client, id_)
    assert found["run_id"].nunique() == 1


async def test_a_retried_workflow_is_one_chain(client: Client) -> None:
    """Each attempt of a workflow with a retry policy is a run of its own; all are read."""
    id_ = f"failing-{uuid.uuid4().hex[:8]}"
    twice = RetryPolicy(initial_interval=timedelta(milliseconds=10), maximum_attempts=2)
    with pytest.raises(WorkflowFailureError):
        await client.execute_workflow("Failing", id=id_, task_queue="many", retry_policy=twice)
    found = await insight.download(client, id_)
    assert list(found.loc[found["kind"] == "workflow", "attempt"]) == [1, 2]
    assert list(found.loc[found["kind"] == "workflow", "maximum_attempts"]) == [2, 2]
    assert list(insight.history_workflows(found)["state"]) == ["FAILED", "FAILED"]


async def test_of_many_workflows_a_sample_is_read_and_says_so(client: Client) -> None:
    """Of five workflows three are read, the same three for the same seed. Times choose by the start."""
    kind = f"sampled-{uuid.uuid4().hex[:8]}"
    began = datetime.now(UTC)
    for number in range(5):
        await client.execute_workflow("Many", 0, id=f"{kind}-{number}", task_queue="many")
    query = f"WorkflowId STARTS_WITH '{kind}'"
    async with asyncio.timeout(30):
        while (await client.count_workflows(query)).count < 5:
            await asyncio.sleep(0.1)
    chosen = []
    for _ in range(2):
        with pytest.warns(PartialHistory, match="found 5 workflows; a random sample of 3"):
            found = await insight.download(client, query=query, sample=3, seed=7)
        chosen.append(set(found["workflow_id"]))
        assert len(found.attrs["notes"]) == 1
    assert len(chosen[0]) == 3
    assert chosen[0] == chosen[1]
    newest = await insight.download(client, query=query, limit=2)
    assert set(newest["workflow_id"]) == {f"{kind}-3", f"{kind}-4"}
    assert (await insight.download(client, query=query, since=began))["workflow_id"].nunique() == 5
    with pytest.raises(TrellisError, match="No workflow in namespace"):
        await insight.download(client, query=query, until=began)
    with pytest.raises(BadInput, match="since= has no time zone"):
        await insight.download(client, query=query, since=datetime(2026, 1, 1))
    with pytest.raises(BadInput, match="an id names one"):
        await insight.download(client, id="x", since=began)
    with pytest.raises(BadInput, match="sample= is a number"):
        await insight.download(client, query=query, sample=0)


async def test_an_activity_that_no_worker_takes_made_no_call(client: Client) -> None:
    """It timed out in its queue, which the server's history tells from a call that timed out."""
    id_ = f"nobody-{uuid.uuid4().hex[:8]}"
    with pytest.raises(WorkflowFailureError):
        await client.execute_workflow("Unserved", id=id_, task_queue="many")
    tries = insight.history_attempts(await insight.download(client, id_))
    assert list(tries.loc[tries["step"] == "tiny", "outcome"]) == ["lost"]
    # The time may run out in an attempt or between two: then nobody knows how many there were.
    assert set(tries.loc[tries["step"] == "never", "outcome"]) <= {"failed", "unknown"}


async def test_what_a_reset_copied_counts_once(client: Client) -> None:
    """The base run and the reset one: attempts once, updates with names, seconds from the reset."""
    id_ = f"asked-{uuid.uuid4().hex[:8]}"
    handle = await client.start_workflow("Asked", id=id_, task_queue="many")
    await handle.execute_update("rename", "x")
    await handle.execute_update("finish")
    await handle.result()
    first = (await handle.describe()).run_id
    events = (await handle.fetch_history()).events
    worked = next(e.event_id for e in events if e.HasField("activity_task_completed_event_attributes"))
    done = [e.event_id for e in events if e.HasField("workflow_task_completed_event_attributes")]
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=id_, run_id=first),
        workflow_task_finish_event_id=min(one for one in done if one > worked), request_id=uuid.uuid4().hex,
        reason="again",
    )  # fmt: skip
    ended = (await handle.describe()).close_time
    second = (await client.workflow_service.reset_workflow_execution(request)).run_id
    await client.get_workflow_handle(id_, run_id=second).result()
    found = await insight.download(client, id_)
    assert list(dict.fromkeys(found["run_id"])) == [first, second]
    again = found[found["run_id"] == second]
    assert set(again.loc[again["kind"] == "update", "name"]) == {"rename", "finish"}
    assert set(again["reset_from"]) == {first}
    began = insight.history_workflows(found)["began_at"]
    assert ended is not None
    assert began.iloc[1] >= ended, "it began at the reset"
    tries = insight.history_attempts(found)
    assert len(tries) == 1, "the only activity ran once, before the reset"
    assert insight.timelines(insight.history_workflows(found), tries).to_dict()
    assert insight.state_map(found).to_dict()


async def test_a_workflow_task_that_fails_is_a_row(client: Client) -> None:
    """With cause, type and message; while it fails again, a row says at which attempt it is."""
    id_ = f"broken-{uuid.uuid4().hex[:8]}"
    handle = await client.start_workflow("Broken", id=id_, task_queue="many")
    async with asyncio.timeout(30):
        while True:
            found = await insight.download(client, id_)
            tasks = found[found["kind"] == "workflow task"]
            if len(tasks) == 2:
                break
            await asyncio.sleep(0.2)
    await handle.terminate(reason="enough")
    assert list(tasks["outcome"]) == ["failed", "open"]
    assert tasks["failure_type"].iloc[0] == "KeyError"
    assert "colour" in tasks["error"].iloc[0]
    assert tasks["attempt"].iloc[1] >= 2
    ended = await insight.download(client, id_)
    assert ended.loc[ended["kind"] == "workflow", "error"].tolist() == ["enough"]
    assert ended.loc[ended["kind"] == "workflow", "build_id"].isna().all()


async def test_a_reset_run_has_its_own_id(client: Client) -> None:
    """After a reset the run that is asked for is the one that is shown, not the one that it was copied from."""
    id_ = await run(client)
    handle = client.get_workflow_handle(id_)
    events = (await handle.fetch_history()).events
    first = (await handle.describe()).run_id
    done = next(e.event_id for e in events if e.HasField("workflow_task_completed_event_attributes"))
    request = ResetWorkflowExecutionRequest(
        namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=id_, run_id=first),
        workflow_task_finish_event_id=done, request_id=uuid.uuid4().hex, reason="again",
    )  # fmt: skip
    second = (await client.workflow_service.reset_workflow_execution(request)).run_id
    await client.get_workflow_handle(id_, run_id=second).result()
    assert set((await insight.download(client, id=id_))["run_id"]) == {first, second}
    assert set((await insight.download(client, id=id_, run_id=second))["run_id"]) == {second}
    assert set((await insight.download(client, id=id_, run_id=first))["run_id"]) == {first}

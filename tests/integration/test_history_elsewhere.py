"""Histories of other people's workflows, from another namespace."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import pandas as pd
import pytest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from trellis import insight
from trellis.bench.bare import BareChild, BareOrder, nothing
from trellis.errors import BadInput, TrellisError
from trellis.insight.history.frames import POLICY
from trellis.stack import Stack


@pytest.fixture(scope="module")
async def stranger(running: Stack) -> Client:
    """A namespace of somebody else's, with two workflows that know nothing of orders."""
    home = await Client.connect(running.temporal.address)
    name = f"elsewhere-{uuid.uuid4().hex[:6]}"
    request = RegisterNamespaceRequest(namespace=name)
    request.workflow_execution_retention_period.FromTimedelta(timedelta(days=1))
    await home.workflow_service.register_namespace(request)
    client = await Client.connect(running.temporal.address, namespace=name)
    worker = Worker(client, task_queue="bare", workflows=[BareOrder, BareChild], activities=[nothing])
    async with asyncio.timeout(60):
        # A new namespace is known to all parts of the server only after a moment.
        while True:
            try:
                await client.count_workflows()
                break
            except RPCError:
                await asyncio.sleep(0.2)
        async with worker:
            for n in range(2):
                await client.execute_workflow("BareOrder", "bare", id=f"bare-{n}", task_queue="bare")
    return client


async def test_a_strangers_history_becomes_a_frame(stranger: Client, running: Stack) -> None:
    """One row per activity and child, with queues, workers and seconds, from another namespace by its address."""
    found = await asyncio.to_thread(insight.history, "bare-0", running.temporal.address, namespace=stranger.namespace)
    assert found["kind"].value_counts().to_dict() == {"activity": 5, "child": 1, "workflow": 1}
    acts = found[found["kind"] == "activity"]
    assert set(acts["outcome"]) == {"succeeded"}
    assert set(acts["queue"]) == {"bare"}
    assert acts["worker"].notna().all()
    assert (acts["schedule_to_start"] >= 0).all()
    assert (acts["start_to_close"] >= 0).all()


async def test_a_query_finds_many_and_their_attempts_draw(stranger: Client, running: Stack) -> None:
    """A visibility query gives all its workflows, in the ledger's attempts shape, which every chart takes."""
    async with asyncio.timeout(30):
        found = pd.DataFrame()
        while found.empty or found["workflow_id"].nunique() < 2:
            try:
                found = await insight.download(stranger, 'WorkflowType = "BareOrder"')
            except TrellisError:
                await asyncio.sleep(0.1)  # visibility lags behind
    tries = insight.history_attempts(found)
    assert len(tries) == 10
    ledger = insight.attempts(insight.events(running.database_url, "nobody"))
    assert set(tries.columns) == {*ledger.columns, "queue", "scheduled_at", *POLICY}
    assert "succeeded" in insight.gantt(tries[tries["order_id"] == "bare-0"]).to_json()


async def test_what_cannot_be_read_is_one_sentence(stranger: Client, running: Stack) -> None:
    """No such workflow, no such namespace, a query nobody understands: each says so."""
    with pytest.raises(TrellisError, match="no workflow nobody"):
        await insight.download(stranger, "nobody")
    with pytest.raises(TrellisError, match="does not exist"):
        await asyncio.to_thread(insight.history, "bare-0", running.temporal.address, namespace="nowhere")
    with pytest.raises(TrellisError, match="No workflow"):
        await insight.download(stranger, 'WorkflowType = "Nothing"')
    with pytest.raises(BadInput, match="understand"):
        await insight.download(stranger, "Colour = 'red'")

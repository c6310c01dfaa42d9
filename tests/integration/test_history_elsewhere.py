"""Histories of other people's workflows, from another namespace."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from trellis import config, insight
from trellis.bench.bare import BareChild, BareOrder, nothing
from trellis.errors import BadInput, StackError, TrellisError
from trellis.insight.history import connected
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
    assert set(tries.columns) == {*ledger.columns, "queue", "scheduled_at", "namespace", *POLICY}
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


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A folder without a stack and without `.env`, and an environment that names no server."""
    for name in config.variable_names() | {"TEMPORAL_API_KEY", "TEMPORAL_TLS"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRELLIS_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return monkeypatch


async def test_an_address_alone_is_enough(stranger: Client, running: Stack, nowhere: pytest.MonkeyPatch) -> None:
    """With TEMPORAL_ADDRESS and nothing else, histories can be read: no stack, no database. Without it, a sentence."""
    with pytest.raises(StackError, match="Name one in TEMPORAL_ADDRESS"):
        await asyncio.to_thread(insight.history, "bare-0")
    nowhere.setenv("TEMPORAL_ADDRESS", running.temporal.address)
    found = await asyncio.to_thread(insight.history, "bare-0", namespace=stranger.namespace)
    assert set(found["workflow_id"]) == {"bare-0"}


async def test_a_key_reaches_the_server_and_no_message(running: Stack, nowhere: pytest.MonkeyPatch) -> None:
    """Keys and TLS come from Temporal's own variables or from connect=; a failure does not repeat them."""
    nowhere.setenv("TEMPORAL_ADDRESS", running.temporal.address)
    nowhere.setenv("TEMPORAL_API_KEY", "very-secret")
    nowhere.setenv("TEMPORAL_TLS", "false")
    client = await connected()
    assert client.service_client.config.api_key == "very-secret"
    client = await connected(connect={"api_key": "another"})
    assert client.service_client.config.api_key == "another"
    client = await connected(running.temporal.address, connect={"tls": False})
    assert client.service_client.config.api_key is None, "a key in the environment goes to the address beside it only"
    with pytest.raises(TrellisError) as refused:
        await connected(running.temporal.address, connect={"api_key": "very-secret", "tls": True})
    assert "very-secret" not in str(refused.value)
    with pytest.raises(TrellisError) as refused:
        await connected(running.temporal.address, connect={"rpc_metadata": {"auth": "very-secret\n"}})
    assert "very-secret" not in str(refused.value)
    with pytest.raises(BadInput, match="connect= holds colour"):
        await connected(running.temporal.address, connect={"colour": "red"})


async def test_a_function_may_connect(stranger: Client, running: Stack) -> None:
    """The synchronous `history` takes a function that returns a Client, plain or awaitable; a Client says why not."""

    async def connect() -> Client:
        return await Client.connect(running.temporal.address, namespace=stranger.namespace)

    found = await asyncio.to_thread(insight.history, "bare-0", connect)
    assert set(found["namespace"]) == {stranger.namespace}
    with pytest.raises(BadInput, match="a function that returns a Client"):
        insight.history("bare-0", stranger)
    with pytest.raises(BadInput, match="connect another one"):
        await asyncio.to_thread(insight.history, "bare-0", connect, namespace="other")

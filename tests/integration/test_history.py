"""Temporal's own history as frames, of workflows that repeat, retry, run on, and vanish."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import (
    Client,
    FetchWorkflowHistoryEventsInput,
    Interceptor,
    OutboundInterceptor,
)
from temporalio.service import RPCError, RPCStatusCode

from tests.frames import drawn
from tests.integration.odd_workflows import listed, run, worker
from trellis import insight
from trellis.desk import Desk
from trellis.errors import BadInput, TrellisError
from trellis.insight.fit import learn
from trellis.insight.history import rows
from trellis.insight.retries import predict
from trellis.policies import preset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
async def client(idle_desk: Desk) -> AsyncIterator[Client]:
    """A client beside a worker that runs the odd workflows."""
    async with worker(idle_desk.client):
        yield idle_desk.client


async def test_repeated_activities_are_no_attempts_of_one(client: Client) -> None:
    """Five activities of one type are five rounds of one attempt; one that was retried is a round of three."""
    found = await insight.download(client, await run(client))
    tries = insight.history_attempts(found)
    regular = tries[tries["started_at"].notna() | (tries["outcome"] != "succeeded")]
    tinies, third = (regular[regular["step"] == name] for name in ("tiny", "third_time"))
    assert list(tinies["round"]) == [0, 1, 2, 3, 4]
    assert set(tinies["execution"]) == {1}
    assert list(third["round"]) == [0, 0, 0]
    assert list(third["execution"]) == [1, 2, 3]
    assert list(third["outcome"]) == ["unknown", "failed", "succeeded"]
    bars = drawn(insight.attempts_per_step(tries)).set_index("attempts")["measured"]
    assert bars.to_dict() == pytest.approx({"1": 6 / 7, "2": 0.0, "3": 1 / 7}), (
        "six activities took one, one took three"
    )


async def test_runs_of_one_id_stand_apart(client: Client) -> None:
    """Three runs of one id, each continuing the last, are three runs with attempts of their own."""
    id_ = await run(client, more=2)
    found = await insight.download(client, query=await listed(client, id_, 3))
    assert found["run_id"].nunique() == 3
    tries = insight.history_attempts(found)
    assert tries.groupby(["order_id", "step"], observed=True)["round"].max().tolist() == [0, 5] * 3
    runs = insight.history_workflows(found)
    assert sorted(runs["order_id"]) == sorted(tries["order_id"].unique())
    assert set(runs["order_id"]) == {f"{id_} {one}" for one in found["run_id"].unique()}, "run ids are not cut"
    assert len(insight.timelines(runs, tries).to_dict()["layer"]) > 1


async def test_a_row_says_which_workflow_task_made_it_and_under_which_policy(client: Client) -> None:
    """Activities that follow one another have different tasks; timeouts and retry policy are those of the history."""
    found = await insight.download(client, await run(client))
    acts = found[found["kind"] == "activity"]
    first = acts.groupby("event").first()
    assert first["task"].is_monotonic_increasing
    assert first["task"].nunique() == len(first) == 6
    assert (first["task"] > first["end_event"].shift()).iloc[1:].all(), "the task follows the end of the one before"
    third = acts[acts["name"] == "third_time"].iloc[-1]
    limits = third[["start_to_close_timeout", "initial_interval", "backoff_coefficient", "maximum_attempts"]]
    assert list(limits) == [30, 0.01, 1, 0]
    assert set(found["namespace"]) == {client.namespace}
    assert found["parent"].isna().all()
    tries = insight.history_attempts(found)
    assert set(tries.loc[tries["step"] == "third_time", "initial_interval"]) == {0.01}


async def test_activities_started_together_share_a_workflow_task(client: Client) -> None:
    """A task's number tells what ran side by side; a timer's column says how long it was set to."""
    id_ = f"together-{uuid.uuid4().hex[:8]}"
    await client.execute_workflow("Together", id=id_, task_queue="many")
    found = await insight.download(client, id_)
    assert found.loc[found["kind"] == "activity", "task"].nunique() == 1
    timer = found[found["kind"] == "timer"].iloc[0]
    assert timer["start_to_close_timeout"] == 0.2
    assert timer["task"] == found.loc[found["kind"] == "activity", "task"].iloc[0]


async def test_a_running_activity_shows_how_far_it_is(client: Client) -> None:
    """An activity that has failed since the start has the attempt number and the last failure that Describe gives."""
    id_ = f"stuck-{uuid.uuid4().hex[:8]}"
    handle = await client.start_workflow("Stuck", id=id_, task_queue="many")
    async with asyncio.timeout(30):
        while True:
            found = await insight.download(client, id_)
            acts = found[found["kind"] == "activity"]
            if len(acts) >= 3:
                break
            await asyncio.sleep(0.2)
    assert list(acts["attempt"]) == list(range(1, len(acts) + 1))
    assert list(acts["outcome"]) == [*["unknown"] * (len(acts) - 2), "failed", "open"]
    assert list(acts["error"].iloc[-2:].isna()) == [False, True]
    assert acts["failure_type"].iloc[-2] == "Never"
    tries = insight.history_attempts(found)
    assert {"unknown", "failed", "open"} <= set(tries["outcome"])
    assert '"open"' in insight.gantt(tries).to_json()
    steps = insight.steps(tries)
    assert (steps["open"].iloc[0], steps["succeeded"].iloc[0]) == (1, False)
    assert list(insight.history_workflows(found)["state"]) == ["RUNNING"]
    await handle.terminate()
    ended = await insight.download(client, id_)
    assert ended.loc[ended["kind"] == "activity", "attempt"].isna().all(), "nobody knows any more"
    assert list(insight.history_workflows(ended)["state"]) == ["CANCELLED"]


async def test_a_strangers_orders_draw_too(client: Client) -> None:
    """Timelines, completion, latency and the use of queues come from histories alone, local activities among them."""
    found = await insight.download(client, await run(client))
    orders, tries = insight.history_workflows(found), insight.history_attempts(found)
    assert list(orders["state"]) == ["COMPLETED"]
    assert orders["seconds"].iloc[0] > 0
    assert tries["started_at"].isna().sum() > 2, "the local activity and two attempts have no start"
    steps = insight.steps(tries)
    assert steps["seconds"].notna().all()
    for chart in (
        insight.timelines(orders, tries), insight.completion(orders), insight.utilisation(tries, by="queue"),
        insight.latency(steps), insight.gantt(tries), insight.attempts_per_step(tries),
    ):  # fmt: skip
        assert chart.to_dict()
    marks = drawn(insight.timelines(orders, tries).layer[-1])
    assert list(marks["outcome"]) == ["unknown", "failed"]
    assert set(marks["times"]) == {"not known"}
    assert marks["at"].between(0, orders["seconds"].iloc[0]).all()


async def test_faults_are_learned_from_a_strangers_histories(client: Client) -> None:
    """An activity that works at its third attempt fails two of three calls, though its history keeps one failure."""
    frames = [insight.history_attempts(await insight.download(client, await run(client))) for _ in range(6)]
    learned = learn(pd.concat(frames, ignore_index=True))
    assert list(learned.steps) == ["tiny", "third_time"]
    assert learned.steps["tiny"].lent == 0.0
    assert learned.steps["tiny"].shares["ok"] == 1.0
    third = learned.steps["third_time"]
    assert third.tries == 18
    assert third.shares == pytest.approx({"ok": 1 / 3, "error": 2 / 3, "hang": 0.0}, abs=1e-9)
    assert predict(preset("swift"), learned.calls).calls_per_step == pytest.approx((1 + 3) / 2)


async def test_a_history_that_vanished_is_a_gap(client: Client) -> None:
    """A workflow that is gone between the list and its turn is a marked row; the others are all there."""
    kept, gone = [await run(client) for _ in range(2)]
    query = f'WorkflowId IN ("{kept}", "{gone}")'
    async with asyncio.timeout(30):
        while (await client.count_workflows(query)).count < 2:
            await asyncio.sleep(0.1)

    class Late(OutboundInterceptor):
        """The server deletes in its own time: asking for a run that never was gets its very answer."""

        def fetch_workflow_history_events(self, input: FetchWorkflowHistoryEventsInput) -> Any:
            run_id = str(uuid.uuid4()) if input.id == gone else input.run_id
            return super().fetch_workflow_history_events(replace(input, run_id=run_id))

    found = await insight.download(with_interceptor(client, Late), query=query)
    gaps = found[found["kind"] == "gap"]
    assert list(gaps["workflow_id"]) == [gone]
    assert (found.loc[found["workflow_id"] == kept, "outcome"] == "succeeded").sum() > 5
    assert insight.history_attempts(found)["order_id"].nunique() == 1


def with_interceptor(client: Client, kind: type[OutboundInterceptor]) -> Client:
    class Between(Interceptor):
        def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:
            return kind(next)

    return Client(client.service_client, namespace=client.namespace, interceptors=[Between()])


async def test_a_namespace_one_may_not_read_is_one_sentence(client: Client) -> None:
    """A refusal by the server names the namespace and what to do, for a query and for an id."""

    class Denies(OutboundInterceptor):
        def list_workflows(self, input: Any) -> Any:
            raise RPCError("Request unauthorized.", RPCStatusCode.PERMISSION_DENIED, b"")

        async def describe_workflow(self, input: Any) -> Any:
            raise RPCError("Request unauthorized.", RPCStatusCode.PERMISSION_DENIED, b"")

    denied = with_interceptor(client, Denies)
    for which in ("some-id", 'WorkflowType = "Many"'):
        with pytest.raises(TrellisError, match=r"may not read namespace \w+ \(Request unauthorized\.\)"):
            await insight.download(denied, which)


async def test_ids_and_queries_are_told_apart(client: Client) -> None:
    """An id with an equals sign is an id, a condition is a query, and the keywords leave no doubt."""
    id_ = f"shard=3, {uuid.uuid4().hex[:8]}"
    await client.execute_workflow("Many", 0, id=id_, task_queue="many")
    assert set((await insight.download(client, id_))["workflow_id"]) == {id_}
    with pytest.raises(BadInput, match="understand"):
        await insight.download(client, query=id_)
    for query in (
        "WorkflowType IS NULL",
        "(`WorkflowType`='Nobody')",
        "HistoryLength > 1000000",
        "StartTime<'2020-01-01T00:00:00Z'",
    ):
        with pytest.raises(TrellisError, match="No workflow in namespace"):
            await insight.download(client, query)
    with pytest.raises(TrellisError, match="no workflow WorkflowType IS NULL"):
        await insight.download(client, id="WorkflowType IS NULL")
    for wrong in ({}, {"id": " "}, {"id": "a", "query": "b"}):
        with pytest.raises(BadInput, match="Say which"):
            await insight.download(client, **wrong)  # type: ignore[arg-type]


def test_what_a_history_says_that_nobody_knows_is_marked() -> None:
    """An event type of a later server is a row of its own; a Nexus cancel request ends no operation."""

    def event(number: int, type_: int, **more: Any) -> HistoryEvent:
        # An enum of proto3 is open: a number from the future passes.
        kind = EventType.ValueType(type_)
        return HistoryEvent(event_id=number, event_type=kind, event_time=Timestamp(seconds=number), **more)

    def nexus(number: int, what: str, **more: Any) -> HistoryEvent:
        type_ = EventType.Value(f"EVENT_TYPE_NEXUS_OPERATION_{what}")
        return event(number, type_, **{f"nexus_operation_{what.lower()}_event_attributes": more})

    found = rows(
        "w",
        [
            event(1, 9999),
            nexus(2, "SCHEDULED", operation="pay"),
            nexus(3, "CANCEL_REQUESTED", scheduled_event_id=2),
            nexus(4, "CANCEL_REQUEST_COMPLETED", scheduled_event_id=2),
            nexus(5, "CANCEL_REQUEST_FAILED", scheduled_event_id=2),
        ],
    )
    assert [(row["kind"], row["name"], row["outcome"]) for row in found] == [
        ("unknown event", "type 9999", "unknown"),
        ("nexus", "pay", "open"),
    ]

"""Temporal's own history as frames, of workflows that repeat, retry, run on, are reset, and vanish."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio import activity, workflow
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    FetchWorkflowHistoryEventsInput,
    Interceptor,
    OutboundInterceptor,
    WorkflowFailureError,
)
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from tests.frames import drawn
from trellis import insight
from trellis.desk import Desk
from trellis.errors import BadInput, TrellisError
from trellis.insight.fit import learn
from trellis.insight.history import PartialHistory, rows
from trellis.insight.retries import predict
from trellis.policies import preset

pytestmark = pytest.mark.slow

SOON = timedelta(seconds=30)
QUICK = RetryPolicy(initial_interval=timedelta(milliseconds=10), backoff_coefficient=1)


@activity.defn
async def tiny() -> None:
    """Works at once."""


@activity.defn
async def third_time() -> None:
    """Fails twice."""
    if activity.info().attempt < 3:
        raise ApplicationError("not yet", type="NotYet", category=ApplicationErrorCategory.BENIGN)


@activity.defn
async def never() -> None:
    """Fails for ever."""
    raise ApplicationError("never", type="Never", category=ApplicationErrorCategory.BENIGN)


@workflow.defn(name="Many")
class Many:
    """Five tiny activities, one that needs three attempts, a local one, and a run more for each of `more`."""

    @workflow.run
    async def run(self, more: int) -> None:
        for _ in range(5):
            await workflow.execute_activity(tiny, start_to_close_timeout=SOON)
        await workflow.execute_activity(third_time, start_to_close_timeout=SOON, retry_policy=QUICK)
        await workflow.execute_local_activity(tiny, start_to_close_timeout=SOON)
        if more:
            workflow.continue_as_new(more - 1)


@workflow.defn(name="Stuck")
class Stuck:
    """One activity that never works."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(never, start_to_close_timeout=SOON, retry_policy=QUICK)


@workflow.defn(name="Together")
class Together:
    """Two activities and a timer, started together."""

    @workflow.run
    async def run(self) -> None:
        await asyncio.gather(
            *(workflow.execute_activity(tiny, start_to_close_timeout=SOON) for _ in range(2)), workflow.sleep(0.2)
        )


@workflow.defn(name="Failing")
class Failing:
    """Fails at once."""

    @workflow.run
    async def run(self) -> None:
        raise ApplicationError("no", type="No")


@workflow.defn(name="Unserved")
class Unserved:
    """An activity on a queue without workers, and one that fails until its time is up."""

    @workflow.run
    async def run(self) -> None:
        with suppress(ActivityError):
            await workflow.execute_activity(
                tiny, task_queue="nobody-works-here", start_to_close_timeout=SOON,
                schedule_to_start_timeout=timedelta(seconds=0.2),
            )  # fmt: skip
        slow = RetryPolicy(initial_interval=timedelta(seconds=0.5), backoff_coefficient=1)
        await workflow.execute_activity(never, schedule_to_close_timeout=timedelta(seconds=2.2), retry_policy=slow)


@workflow.defn(name="Asked")
class Asked:
    """One activity, and two updates."""

    def __init__(self) -> None:
        self.finished = False

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(tiny, start_to_close_timeout=SOON)
        await workflow.wait_condition(lambda: self.finished and workflow.all_handlers_finished())

    @workflow.update
    async def rename(self, name: str) -> str:
        await workflow.sleep(0.01)
        return name

    @workflow.update
    async def finish(self) -> None:
        self.finished = True


@workflow.defn(name="Broken")
class Broken:
    """Its workflow task fails for ever."""

    @workflow.run
    async def run(self) -> None:
        raise KeyError("colour")


@pytest.fixture(scope="module")
async def client(idle_desk: Desk) -> AsyncIterator[Client]:
    """A client beside a worker that runs the workflows above."""
    async with Worker(
        idle_desk.client, task_queue="many", workflows=[Many, Stuck, Together, Failing, Unserved, Asked, Broken],
        activities=[tiny, third_time, never], workflow_runner=UnsandboxedWorkflowRunner(),
    ):  # fmt: skip
        yield idle_desk.client


async def run(client: Client, more: int = 0) -> str:
    id_ = f"many-{uuid.uuid4().hex[:8]}"
    await client.execute_workflow("Many", more, id=id_, task_queue="many")
    return id_


async def listed(client: Client, id_: str, runs: int) -> str:
    """A query for the id, once visibility knows so many runs."""
    query = f'WorkflowId = "{id_}"'
    async with asyncio.timeout(30):
        while (await client.count_workflows(query)).count < runs:
            await asyncio.sleep(0.1)
    return query


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
    assert dict(zip(tries["step"], tries["outcome"], strict=True)) == {"tiny": "lost", "never": "failed"}


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
    assert not learned.alike
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

"""Recordings of workflows on a real server: true, with their children, and of running ones so far."""

from __future__ import annotations

import asyncio
import json
from itertools import islice

import pytest
from temporalio.client import Client

from tests.conftest import House
from tests.integration.test_cli import trellis
from trellis.bench import truth
from trellis.config import Settings
from trellis.faults import FaultPlan
from trellis.model import State, shipping_workflow_id, workflow_id
from trellis.policies import preset, tuned
from trellis.replay import ReplayError, replay, replay_all, replay_all_async, replay_async


async def test_recorded_variables_equal_what_live_queries_said(house: House) -> None:
    """Orders under the canonical faults, with requests: each answer of the status query is what the recording says."""
    await house.faults(FaultPlan.canonical(7))
    policy = tuned(preset("swift"), review_window=5)
    found = await truth.compare(house.desk, policy, 8, at_once=4, seed=7)
    assert found.differences == []
    # On a machine that is very busy the SDK itself may lose its way: a few histories replay nowhere.
    assert found.equal == 8 - len(found.unreplayable) >= 5
    assert found.answers >= found.equal


async def test_a_wrong_answer_would_be_noticed(house: House) -> None:
    """The comparison fails where it must: one step earlier, the order says something else."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    handle = house.desk.client.get_workflow_handle(workflow_id(order.order_id))
    history = await handle.fetch_history()
    recording = await replay_async(history, lines=False, family=False)
    live = await handle.query("status")
    at = truth.last_task(history, len(history.events))
    assert at is not None
    last = recording.at(at)
    assert truth.status_of(recording.variables(last)) == live
    assert truth.status_of(recording.variables(last.number - 1)) != live


async def test_an_order_is_recorded_with_its_child(house: House, settings: Settings) -> None:
    """By its id, from Python and from the command line; a query finds both."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    client = house.desk.client
    recording = await replay_async(workflow_id(order.order_id), client=client)
    (child,) = recording.children
    assert child.workflow_id == shipping_workflow_id(order.order_id, 1)
    assert [command.name for step in child.steps for command in step.commands if command.kind == "activity"] == [
        "prepare", "dispatch",
    ]  # fmt: skip
    assert recording.trouble == child.trouble == ""
    said = await trellis(settings, "replay", order.order_id, "--json")
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert [step["event"] for step in found["steps"]] == [step.event for step in recording.steps]
    assert [each["workflow_id"] for each in found["children"]] == [child.workflow_id]
    query = f"WorkflowId = '{recording.workflow_id}'"
    async with asyncio.timeout(30):
        while not (found := [each async for each in replay_all_async(query, client=client)]):
            # Temporal lists a workflow a moment after it began.
            await asyncio.sleep(0.1)
    assert [each.steps for each in found] == [recording.steps]


async def test_a_running_order_is_recorded_so_far(house: House) -> None:
    """It waits in the review, and the recording ends at the line that waits."""
    order = await house.start(tuned(preset("swift"), review_window=300))
    await house.until(order, "AWAITING_APPROVAL")
    client, id_ = house.desk.client, workflow_id(order.order_id)
    async with asyncio.timeout(30):
        while True:
            recording = await replay_async(id_, client=client)
            waits = [frame.function for wait in recording.steps[-1].waits for frame in wait.frames]
            if "OrderWorkflow._review" in waits:
                break
            await asyncio.sleep(0.1)
    assert recording.trouble == ""
    assert truth.status_of(recording.variables(recording.steps[-1].number))["step"] == "review"
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)
    longer = await replay_async(id_, client=client)
    assert longer.steps[: len(recording.steps)] == recording.steps
    assert len(longer.steps) > len(recording.steps)


async def test_the_blocking_form_connects_by_itself(house: House) -> None:
    """A client belongs to the loop that made it, so that one is made on the replay's own loop."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    config = house.desk.client.service_client.config

    def connect() -> object:
        return Client.connect(config.target_host, namespace=house.desk.client.namespace)

    id_ = workflow_id(order.order_id)
    recording = await asyncio.to_thread(replay, id_, client=connect)  # type: ignore[arg-type]
    assert recording.steps

    def first() -> list[str]:
        # The others are not replayed.
        found = islice(replay_all(query, client=connect), 1)  # type: ignore[arg-type]
        return [each.workflow_id for each in found]

    query = f"WorkflowId = '{id_}'"
    async with asyncio.timeout(30):
        while await asyncio.to_thread(first) != [id_]:
            await asyncio.sleep(0.1)


async def test_an_unknown_workflow_is_a_sentence(house: House) -> None:
    """The sentence names the workflow and the namespace."""
    with pytest.raises(ReplayError, match="has no workflow nobody-knows-it"):
        await replay_async("nobody-knows-it", client=house.desk.client)
    with pytest.raises(ReplayError, match="does not understand the query"):
        async for _ in replay_all_async("this is no query", client=house.desk.client):
            pass

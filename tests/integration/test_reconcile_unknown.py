"""Reconcile where Temporal does not know the order, does not answer, or has another order under its id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client

from tests.conftest import House
from tests.integration.reconciling import changed, ended, outlived, repairs, terminate
from trellis import stack
from trellis.desk import Desk
from trellis.errors import TemporalUnavailable
from trellis.messages import ORDER_WORKFLOW, OrderInput
from trellis.model import State, workflow_id
from trellis.policies import preset
from trellis.reconcile import Outcome, Repair, reconcile


async def test_an_order_whose_history_is_gone_is_ended(house: House) -> None:
    """Temporal has forgotten the workflow altogether: the ledger and the provider are enough to end it."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*")
    await house.desk.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(
            namespace=house.desk.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=workflow_id(order.order_id)),
        )
    )
    async with asyncio.timeout(30):
        while not (found := await repairs(house, order, apply=False)) or "not known" not in found[0].workflow:
            await asyncio.sleep(0.2)
    # For all we know it runs elsewhere, until its run timeout is over.
    [repair] = await repairs(house, order)
    assert (repair.outcome, repair.ended) == (Outcome.LEFT_ALONE, None)
    await outlived(house, order)
    [repair] = await repairs(house, order)
    assert "gone" in repair.workflow
    await ended(house, order, State.FAILED, charges=1, refunds=1, parcels=0)


async def test_a_living_order_survives_the_wrong_temporal(house: House, running: stack.Stack) -> None:
    """Asked in a namespace that does not know the order, reconcile leaves it alone and says until when."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*")
    before = await house.desk.ledger.order(order.order_id)
    client = await Client.connect(running.temporal.address, namespace="elsewhere", lazy=True)
    wrong = Desk(client, house.desk.ledger, house.desk.settings, search_attributes=False)
    found: list[Repair] = []

    async def mend() -> None:
        async for repair in reconcile(wrong, house.pool, apply=True):
            found.append(repair)

    with pytest.raises(TemporalUnavailable, match="elsewhere"):
        await mend()
    [left_alone] = [repair for repair in found if repair.order_id == order.order_id]
    assert (left_alone.outcome, left_alone.ended) == (Outcome.LEFT_ALONE, None)
    assert "not known in namespace elsewhere" in left_alone.workflow
    assert "until 20" in left_alone.action
    assert await house.desk.ledger.order(order.order_id) == before
    await house.faults("calm")
    await house.ends(order, State.COMPLETED)


@pytest.mark.slow
async def test_a_temporal_that_is_away_stops_it(house: House, running: stack.Stack) -> None:
    """A server that went away is one sentence for all orders, not a failure of each; nothing is changed."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    before = await house.desk.ledger.order(order.order_id)
    async with wire(running.temporal.address) as address:
        client = await Client.connect(address)
    nowhere = Desk(client, house.desk.ledger, house.desk.settings, search_attributes=False)
    with pytest.raises(TemporalUnavailable, match="does not answer"):
        await anext(reconcile(nowhere, house.pool, apply=True))
    assert await house.desk.ledger.order(order.order_id) == before
    await house.desk.cancel(order.order_id)


@asynccontextmanager
async def wire(address: str) -> AsyncIterator[str]:
    """Another address of a server, which is dead after the block."""
    host, port = address.rsplit(":", 1)
    ends: list[asyncio.StreamWriter] = []

    async def join(here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(host, int(port))
        ends.extend((back, out))

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

        await asyncio.gather(pump(here, out), pump(there, back), return_exceptions=True)

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for end in ends:
            end.close()


async def test_another_order_under_the_same_id_proves_nothing(house: House) -> None:
    """A Temporal that closed another order under this id says nothing of the one in the ledger."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await terminate(house, order)
    await changed(house, "UPDATE orders SET fingerprint = 'another' || fingerprint WHERE id = %s", order)
    [repair] = await repairs(house, order)
    assert repair.outcome is Outcome.LEFT_ALONE
    assert "not the one that closed" in repair.workflow
    await outlived(house, order)
    await repairs(house, order)
    await ended(house, order, State.FAILED, charges=0, refunds=0, parcels=0)


async def test_an_order_started_by_hand_is_known_again(house: House) -> None:
    """Its workflow has no memo to compare. Its input shows that it is the ledger's order."""
    order = house.order()
    await house.desk.client.start_workflow(
        ORDER_WORKFLOW, OrderInput(order, preset("swift"), house.desk.settings.shipping_queue),
        id=workflow_id(order.order_id), task_queue=house.desk.settings.orders_queue,
    )  # fmt: skip
    await house.until(order, "AWAITING_APPROVAL")
    await terminate(house, order)
    [repair] = await repairs(house, order)
    assert (repair.outcome, repair.workflow) == (Outcome.ENDED, "was terminated")
    await ended(house, order, State.FAILED, charges=0, refunds=0, parcels=0)

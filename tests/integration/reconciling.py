"""Helpers for tests of reconcile: orders that Temporal closed, their repair, and what both books say afterwards."""

from __future__ import annotations

from typing import LiteralString

from tests.conftest import House
from trellis.audit import audit
from trellis.model import Order, State, workflow_id
from trellis.reconcile import Repair, reconcile


async def repairs(house: House, order: Order, *, apply: bool = True) -> list[Repair]:
    return [
        repair async for repair in reconcile(house.desk, house.pool, apply=apply) if repair.order_id == order.order_id
    ]


async def terminate(house: House, order: Order) -> None:
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")


async def ended(house: House, order: Order, state: State, *, charges: int, refunds: int, parcels: int) -> None:
    """Assert that the order ended in this state, marked as reconciled, that both books agree, and that the audit finds
    nothing."""
    row = await house.desk.ledger.order(order.order_id)
    assert row is not None
    assert (row["state"], row["reconciled"]) == (state, True)
    for table, number in (("charges", charges), ("refunds", refunds), ("parcels", parcels)):
        assert await house.one(f"SELECT count(*) FROM provider.{table} WHERE order_id = %s", order.order_id) == number
    events = await house.desk.events(order.order_id)
    assert [e["payload_json"].get("reconciled") for e in events if e["step"] in ("fail", "cancel", "complete")] == [
        True
    ]
    assert await violations(house, order) == set()


async def violations(house: House, order: Order) -> set[int | str]:
    query = f"WorkflowId IN ('order-{order.order_id}', 'shipping-{order.order_id}-1')"
    report = await audit(house.desk.client, house.pool, histories=await known(house, order), query=query)
    assert not report.void
    return {violation.invariant for violation in report.violations if violation.order_id == order.order_id}


async def known(house: House, order: Order) -> bool:
    """Whether Temporal has a history of the order."""
    return (await house.desk.status(order.order_id))["workflow"]["close_status"] is not None


async def answers(house: House, order: Order) -> dict[str, str]:
    """The type of the event that each request left behind, by request id."""
    events = await house.desk.ledger.events(order.order_id)
    return {e["payload_json"]["request_id"]: e["type"] for e in events if e["payload_json"].get("request_id")}


async def changed(house: House, statement: LiteralString, order: Order) -> None:
    async with house.pool.connection() as connection:
        await connection.execute(statement, (order.order_id,))


async def outlived(house: House, order: Order) -> None:
    """Make the order older than its run timeout."""
    await changed(house, "UPDATE orders SET created_at = created_at - interval '1 hour' WHERE id = %s", order)

"""Helpers for tests of the audit: orders that ended, errors to plant in the books, and what the audit finds."""

from __future__ import annotations

from tests.conftest import House
from trellis.audit import GRACE, audit
from trellis.model import Order, State


async def planted(house: House, *statements: str, **values: object) -> None:
    """Change the books as only a superuser can, without triggers and foreign keys."""
    async with house.pool.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement, values)


def about(order: Order) -> str:
    """A visibility query for its workflow, its children, and one under another id."""
    ids = [f"WorkflowId STARTS_WITH '{prefix}-{order.order_id}'" for prefix in ("order", "shipping", "rogue")]
    return " OR ".join(ids)


async def violated(house: House, order: Order, *, histories: bool = False, grace: float = GRACE) -> set[int | str]:
    """The invariants that an order breaks; each violation comes with evidence."""
    report = await audit(house.desk.client, house.pool, histories=histories, query=about(order), grace=grace)
    assert not report.void
    found = [violation for violation in report.violations if violation.order_id == order.order_id]
    assert all(violation.sentence and violation.evidence for violation in found)
    return {violation.invariant for violation in found}


async def completed(house: House) -> Order:
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    return order


async def cancelled(house: House) -> Order:
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*")
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)
    await house.faults("calm")
    return order


async def withdrawn(house: House) -> Order:
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)
    return order

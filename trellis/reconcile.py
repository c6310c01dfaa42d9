"""Orders whose workflow Temporal closed behind our back: timed out, terminated, or gone with its history.

They are ended by the same fence as the workflow's: what is claimed goes forward if its parcel exists, everything
else is undone. Every part may be done twice, so two reconciles at once do no harm, nor does one that was killed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from trellis.activities.undo import record, undo
from trellis.db.ledger import Ledger, Row, stored_order
from trellis.db.pool import Pool
from trellis.db.provider import Provider
from trellis.desk import Desk
from trellis.errors import TemporalUnavailable
from trellis.model import State, workflow_id


@dataclass(frozen=True)
class Repair:
    """One stranded order: where it stood, what became of its workflow, and what is (or would be) done."""

    order_id: str
    state: str
    workflow: str
    action: str
    ended: str | None = None


async def reconcile(desk: Desk, pool: Pool, *, apply: bool = False) -> AsyncIterator[Repair]:
    """Each stranded order in turn; with `apply` it is ended first. An order that Temporal still runs is left alone.

    Raises TemporalUnavailable, DatabaseUnavailable.
    """
    provider = Provider(pool)
    async for order_id in desk.ledger.open_orders():
        gone = await _what_became(desk, order_id)
        # Read after Temporal was asked: a workflow that closed by itself wrote its ending first.
        row = await desk.ledger.order(order_id)
        if gone is None or row is None or State(row["state"]).terminal:
            continue
        if apply:
            action, ended = await _end(desk.ledger, provider, row, f"its workflow {gone}")
            yield Repair(order_id, row["state"], gone, action, ended)
        else:
            yield Repair(order_id, row["state"], gone, _plan(row))


async def _what_became(desk: Desk, order_id: str) -> str | None:
    """What became of the workflow, in words; None while it runs."""
    try:
        status = (await desk.client.get_workflow_handle(workflow_id(order_id)).describe()).status
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return "is gone from Temporal"
        raise TemporalUnavailable(f"Temporal does not answer ({' '.join(error.message.split())[:200]}).") from None
    if status is None or status is WorkflowExecutionStatus.RUNNING:
        return None
    words = {WorkflowExecutionStatus.TERMINATED: "was terminated", WorkflowExecutionStatus.TIMED_OUT: "timed out"}
    return words.get(status, f"closed as {status.name}")


def _plan(row: Row) -> str:
    ending = row["ending"] or State.FAILED
    if row["claimed_at"]:
        return f"ask the carrier: complete the order if its parcel exists, else refund and end it {ending}"
    return f"void the charge and end it {ending}"


async def _end(ledger: Ledger, provider: Provider, row: Row, reason: str) -> tuple[str, str]:
    order = stored_order(row)
    answer = await ledger.close(order.order_id, State.FAILED, reason)
    if row["payment"] is None:
        # Its payment id is another order's, and so is whatever was charged under it.
        await ledger.reconcile(order.order_id, State(answer.ending or State.FAILED), answer.reason or reason)
        return "nothing had been charged", answer.ending or State.FAILED
    undone = await undo(ledger, provider, order, State.FAILED, reason, claimed=not answer.closed)
    rounds = [int(shipment["round"]) for shipment in row["shipments"]]
    await record(ledger, order, max(rounds, default=1), reason, undone)
    if undone.tracking is not None:
        await ledger.ship(order.order_id, None)
        await ledger.reconcile(order.order_id, State.COMPLETED, reason)
        return f"went forward: parcel {undone.tracking}", State.COMPLETED
    ending = State(answer.ending or State.FAILED)
    await ledger.reconcile(order.order_id, ending, answer.reason or reason)
    return "refunded" if undone.refunded else "nothing had been charged", ending

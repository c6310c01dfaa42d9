"""Orders whose workflow ended before the order did: it timed out, was terminated, or was deleted with its history.

They end behind the same fence as in the workflow. An order that a dispatch claimed is completed if its parcel exists.
Every other order is undone. Each part may run twice, so two reconciles at once do no harm, and one that was killed can
be run again.

If Temporal does not know a workflow, it may be the wrong Temporal. So such an order is left alone until its run timeout
is over. After that, no Temporal can still run it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError

from trellis.activities.undo import record, undo
from trellis.db.ledger import Ledger
from trellis.db.pool import Pool
from trellis.db.provider import Provider
from trellis.db.rows import EventRow, OrderRow
from trellis.desk import Desk
from trellis.errors import StackError
from trellis.histories import OrderHistory, Request, UnreadableHistory
from trellis.messages import ORDER_WORKFLOW, OrderInput, Unwound
from trellis.model import EventType, State, workflow_id
from trellis.temporal_calls import describe, fetch_history, unavailable

MARGIN = timedelta(seconds=10)
"""How far the clocks of Temporal and Postgres may differ, plus how late a timer may be."""

_KILLED = {
    WorkflowExecutionStatus.TERMINATED: "was terminated",
    WorkflowExecutionStatus.TIMED_OUT: "timed out",
    WorkflowExecutionStatus.CANCELED: "was cancelled",
}
_KILLED_QUERY = f"WorkflowType = '{ORDER_WORKFLOW}' AND ExecutionStatus IN ('Terminated', 'TimedOut', 'Canceled')"


class Outcome(StrEnum):
    """What reconcile did with a stranded order. PLANNED: it changed nothing and only says what it would do."""

    PLANNED = "planned"
    ENDED = "ended"
    LEFT_ALONE = "left alone"
    FAILED = "failed"


@dataclass(frozen=True)
class Repair:
    """One stranded order: its state, what happened to its workflow, and what is (or would be) done."""

    order_id: str
    state: str
    workflow: str
    action: str
    ended: str | None = None
    outcome: Outcome = Outcome.PLANNED


@dataclass(frozen=True)
class _Stranded:
    """`row` is None if the workflow closed before the order was received.

    `history` is None when Temporal has none, or none that can be read: `workflow` then says so.
    """

    workflow: str
    row: OrderRow | None
    history: OrderHistory | None
    until: datetime | None = None
    """Set if the order may still run on another Temporal: the time after which it cannot."""

    @property
    def not_recorded(self) -> bool:
        """Whether neither the ledger nor the history holds the order."""
        return self.row is None and self.history is None


async def reconcile(desk: Desk, pool: Pool, *, apply: bool = False) -> AsyncIterator[Repair]:
    """Each stranded order in turn; with `apply` it is ended first. An order that Temporal still runs is left alone.

    An order that cannot be ended is reported as FAILED and does not stop the others.
    Raises TemporalUnavailable, DatabaseUnavailable.
    """
    provider = Provider(pool)
    shown: set[str] = set()
    async for order_id in _suspects(desk):
        if order_id in shown:
            continue
        repair = await _repair(desk, provider, order_id, apply=apply)
        if repair is not None:
            shown.add(order_id)
            yield repair


async def _suspects(desk: Desk) -> AsyncIterator[str]:
    """Ids of orders that are open in the ledger, then of those whose workflow Temporal knows to have been killed."""
    async for order_id in desk.ledger.open_orders():
        yield order_id
    try:
        async for execution in desk.client.list_workflows(_KILLED_QUERY):
            order_id = execution.id.removeprefix(workflow_id(""))
            row = await desk.ledger.order(order_id)
            if execution.id == workflow_id(order_id) and not (row is not None and row.reconciled):
                yield order_id
    except RPCError as error:
        raise unavailable(error) from None


async def _repair(desk: Desk, provider: Provider, order_id: str, *, apply: bool) -> Repair | None:
    state, workflow = "not known", "was not looked at"
    try:
        case = await _look(desk, order_id)
        if case is None:
            return None
        state, workflow = case.row.state if case.row else "not received", case.workflow
        if case.until is not None:
            action = f"left alone: it may run elsewhere until {case.until:%Y-%m-%d %H:%M:%S%z}"
            return Repair(order_id, state, workflow, action, outcome=Outcome.LEFT_ALONE)
        if case.not_recorded:
            action = "left alone: it was never received, so nothing was charged"
            return Repair(order_id, state, workflow, action, outcome=Outcome.LEFT_ALONE)
        if not apply:
            return Repair(order_id, state, workflow, _plan(case))
        action, ended = await _end(desk.ledger, provider, order_id, case)
        return Repair(order_id, state, workflow, action, ended, Outcome.ENDED)
    except StackError:
        raise
    except Exception as error:
        # A defect of this one order must not stop the refunds of all others.
        action = f"could not be ended: {' '.join(str(error).split())[:200] or type(error).__name__}"
        return Repair(order_id, state, workflow, action, outcome=Outcome.FAILED)


async def _look(desk: Desk, order_id: str) -> _Stranded | None:
    """What is known of an order whose workflow no longer runs; None if there is nothing to do."""
    described = await describe(desk.client, workflow_id(order_id))
    status = described.status if described else None
    if described and status in (None, WorkflowExecutionStatus.RUNNING):
        return None
    # Read after Temporal was asked. A workflow that closed by itself has written its ending by then.
    row = await desk.ledger.order(order_id)
    ended = row is not None and row.state.terminal
    # The order ended in the ledger, and its workflow was killed before it closed. Only the mark is missing.
    if (row is None or ended) and (status not in _KILLED or (row is not None and row.reconciled)):
        return None
    history, unreadable = await _read(desk, described) if described else (None, "")
    if row is not None and not (described and await _same_order(described, history, row)):
        until, over = await desk.ledger.longest_run(order_id, MARGIN)
        if not over:
            where = f"in namespace {desk.client.namespace}"
            why = f"is not known {where}" if described is None else f"is not the one that closed {where}"
            return None if ended else _Stranded(why, row, None, until)
        return _Stranded("is gone from Temporal", row, None)
    assert status is not None
    if row is None and not unreadable and (history is None or history.order_id != order_id):
        return None
    return _Stranded(_KILLED.get(status, f"closed as {status.name}") + unreadable, row, history)


async def _read(desk: Desk, described: WorkflowExecutionDescription) -> tuple[OrderHistory | None, str]:
    """The history, or why it cannot be read, as the second half of a sentence. The ledger alone may be enough."""
    raw = await fetch_history(desk.client, described.id, described.run_id)
    try:
        return (await OrderHistory.read(raw, desk.client.data_converter) if raw else None), ""
    except UnreadableHistory as why:
        return None, f", and its history cannot be read ({why})"


async def _same_order(described: WorkflowExecutionDescription, history: OrderHistory | None, row: OrderRow) -> bool:
    """Whether this run is the one in the ledger. Another Temporal may have another order under the same id."""
    fingerprint = (await described.memo()).get("fingerprint")
    if fingerprint is None and history is not None:
        # An order that was started by hand has no memo.
        fingerprint = history.input.order.fingerprint()
    if fingerprint != row.fingerprint:
        return False
    closed = described.close_time or row.created_at
    return bool(described.start_time - MARGIN <= row.created_at <= closed + MARGIN)


def _plan(case: _Stranded) -> str:
    row = case.row
    if row is not None and row.state.terminal:
        return "mark it as reconciled: there is nothing left to undo"
    cancel = _deciding(_unanswered(case.history, row, []))
    ending = (row.ending if row else None) or (State.CANCELLED if cancel else State.FAILED)
    if row is None:
        return f"write it down and end it {ending}: nothing had been charged"
    if row.claimed_at:
        return f"ask the carrier: complete the order if its parcel exists, else refund and end it {ending}"
    return f"void the charge and end it {ending}"


async def _end(ledger: Ledger, provider: Provider, order_id: str, case: _Stranded) -> tuple[str, State]:
    if case.row is None and case.history is not None and isinstance(case.history.input, OrderInput):
        # The workflow's own fence does the same: an order that ends must be in the ledger.
        await ledger.receive(case.history.input.order, case.history.input.policy, None)
    row = await ledger.order(order_id)
    assert row is not None
    events = await ledger.events(order_id)
    unanswered = _unanswered(case.history, row, events)
    state = row.state
    if state.terminal:
        action, why, refusal = "marked as reconciled: there was nothing left to undo", "", f"the order is {state}"
    else:
        action, state, why = await _undo(ledger, provider, row, f"its workflow {case.workflow}", _deciding(unanswered))
        refusal = f"the order was ended by reconcile as {state}"
    for request in unanswered:
        if not _needs_no_refusal(request, state, events):
            await ledger.refuse(order_id, request.id, request.kind, refusal)
    # This comes last, because the mark says that nothing is left to do.
    await ledger.reconcile(order_id, state, why)
    return action, state


async def _undo(
    ledger: Ledger, provider: Provider, row: OrderRow, reason: str, cancel: Request | None
) -> tuple[str, State, str]:
    """(what was done, how the order ends, why)"""
    order = row.order()
    ending, id_ = (State.CANCELLED, cancel.id) if cancel else (State.FAILED, "")
    if cancel:
        reason = cancel.reason or "cancelled on request"
    answer = await ledger.close(order.order_id, ending, reason, id_)
    undone = Unwound(False)
    # An order without a payment row was started with another order's payment id. What was charged under that id is the
    # other order's.
    if row.payment is not None:
        undone = await undo(ledger, provider, order, ending, reason, claimed=not answer.closed, request_id=id_)
        rounds = [shipment.round for shipment in row.shipments]
        await record(ledger, order, max(rounds, default=1), reason, undone)
    if undone.tracking is not None:
        await ledger.ship(order.order_id, None)
        return f"went forward: parcel {undone.tracking}", State.COMPLETED, reason
    # The first to close the row decides how the order ends. That may be the workflow or another reconcile.
    answer = await ledger.close(order.order_id, ending, reason, id_)
    action = "refunded" if undone.refunded else "nothing had been charged"
    return action, State(answer.ending or ending), answer.reason or reason


def _unanswered(history: OrderHistory | None, row: OrderRow | None, events: list[EventRow]) -> list[Request]:
    """Requests in the history that no worker has answered."""
    known = {event.payload_json.get("request_id") for event in events}
    if row is not None and row.closing_at:
        known.add(row.ending_request)
    requests = history.requests if history else []
    return [request for request in requests if request.accepted is None and request.id not in known]


def _deciding(unanswered: list[Request]) -> Request | None:
    """The cancel that decides how the order ends, if the row has no ending yet."""
    return next((request for request in unanswered if request.kind == "cancel"), None)


def _needs_no_refusal(request: Request, state: State, events: list[EventRow]) -> bool:
    """Whether a request needs no refusal: it decided the ending, asked for what had happened already, or has no id."""
    if request.kind == "cancel" and state is State.CANCELLED:
        return True
    approved = any(event.type == EventType.ORDER_APPROVED for event in events)
    return (request.kind == "approve" and approved) or not request.id

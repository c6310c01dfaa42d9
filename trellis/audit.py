"""Are the books right? Ten invariants, from the ledger, the provider's own book and Temporal's histories.

 1 at most one charge per order at the provider
 2 what the provider kept is the total of what shipped, and nothing for what did not
 3 nothing ships unpaid or twice
 4 the provider's charges and our payments agree, both ways
 5 events follow legal edges, are unique, and none is missing for a completed activity
 6 the ledger's terminal state is the workflow's close status
 7 one workflow per order
 8 nothing is open past its budget
 9 every request that was acknowledged can be seen
10 every history replays

It streams: a batch of orders, then one history at a time, so memory does not grow with their number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import EventType as HistoryEventType
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer

from trellis.db.audit import AuditBooks, Finding
from trellis.db.pool import Pool
from trellis.errors import TemporalUnavailable
from trellis.messages import ORDER_WORKFLOW, SHIPPING_WORKFLOW, OrderInput, ShippingInput, Verdict
from trellis.model import EventType, State, Step, workflow_id
from trellis.workers import RUNNER
from trellis.workflows.order import OrderWorkflow
from trellis.workflows.shipping import ShippingWorkflow

GRACE = 15.0
"""Seconds past its budget that an order may still need to begin its compensation on a busy machine."""

_FETCHES = 8
_KEPT = 1000

_LEAVES = {
    Step.RECEIVE: EventType.ORDER_RECEIVED,
    Step.VALIDATE: EventType.ORDER_VALIDATED,
    Step.CHARGE: EventType.PAYMENT_CHARGED,
    Step.PREPARE: EventType.PACKAGE_PREPARED,
    Step.DISPATCH: EventType.CARRIER_DISPATCHED,
    Step.SHIP: EventType.ORDER_SHIPPED,
}
"""The event that an activity leaves behind."""

_AFTER_REFUND = {EventType.PAYMENT_REFUNDED, EventType.PAYMENT_FAILED, EventType.CARRIER_DISPATCHED}
_IN_REVIEW = {State.ORDER_RECEIVED, State.ORDER_VALIDATED, State.AWAITING_APPROVAL}

_REQUESTS = {
    "approve": ("approve", EventType.ORDER_APPROVED),
    "approve_order": ("approve", EventType.ORDER_APPROVED),
    "cancel": ("cancel", EventType.ORDER_CANCELLED),
    "cancel_order": ("cancel", EventType.ORDER_CANCELLED),
    "update_address": ("update_address", EventType.ADDRESS_UPDATED),
}

_CLOSES = {
    State.COMPLETED: WorkflowExecutionStatus.COMPLETED,
    State.CANCELLED: WorkflowExecutionStatus.COMPLETED,
    State.FAILED: WorkflowExecutionStatus.FAILED,
    State.APPROVAL_TIMEOUT: WorkflowExecutionStatus.FAILED,
}


@dataclass(frozen=True)
class Violation:
    """One order, the invariant it breaks (1 to 10), what is wrong in words, and the figures behind it."""

    order_id: str
    invariant: int
    sentence: str
    evidence: dict[str, Any]


@dataclass
class Report:
    """What an audit saw. `void`: it saw no order, and so says nothing.

    At most 1,000 violations are kept; `found` counts them all.
    """

    orders: int = 0
    charges: int = 0
    faults: int = 0
    histories: int = 0
    violations: list[Violation] = field(default_factory=list)
    found: Counter[int] = field(default_factory=Counter)

    @property
    def void(self) -> bool:
        return self.orders == 0

    @property
    def clean(self) -> bool:
        return not self.void and not self.found

    def add(self, findings: list[Violation]) -> None:
        for violation in findings:
            self.found[violation.invariant] += 1
            if len(self.violations) < _KEPT:
                self.violations.append(violation)


async def audit(
    client: Client,
    pool: Pool,
    *,
    histories: bool = True,
    query: str = "",
    grace: float = GRACE,
    tick: Callable[[int], None] = lambda orders: None,
) -> Report:
    """Check all ten invariants, or without `histories` those of the two books (1 to 5, 8).

    `query` narrows the histories by a visibility query, such as `StartTime > "2026-01-01T00:00:00Z"`.

    `tick` is told how many orders or histories were just looked at. Orders may run meanwhile: what looks wrong is
    looked at again after a second. Raises TemporalUnavailable, DatabaseUnavailable.
    """
    books = AuditBooks(pool, grace=grace)
    report = Report()
    report.orders, report.charges, report.faults = await books.counts()
    async for number, findings in books.batches():
        report.add(_violations(findings))
        tick(number)
    report.add(_violations(await books.strays()))
    if histories:
        await _Histories(client, books, report, tick, query).run()
    return report


def _violations(findings: list[Finding]) -> list[Violation]:
    return [Violation(f["order_id"], f["invariant"], f["sentence"], f["evidence"]) for f in findings]


class _Histories:
    """Invariants 5, 6, 7, 9 and 10: each execution of ours that Temporal knows, against its order's row."""

    def __init__(
        self, client: Client, books: AuditBooks, report: Report, tick: Callable[[int], None], query: str
    ) -> None:
        self._query = query
        self._client = client
        self._books = books
        self._report = report
        self._tick = tick
        self._converter = client.data_converter

    async def run(self) -> None:
        replayer = Replayer(
            workflows=[OrderWorkflow, ShippingWorkflow],
            workflow_runner=RUNNER,
            data_converter=self._converter,
            namespace=self._client.namespace,
        )
        try:
            async with replayer.workflow_replay_iterator(self._examined()) as results:
                async for result in results:
                    self._report.histories += 1
                    self._tick(1)
                    if result.replay_failure is not None:
                        id_ = result.history.workflow_id
                        evidence = {"workflow": id_, "failure": " ".join(str(result.replay_failure).split())[:300]}
                        sentence = "its history does not replay with today's code"
                        self._report.add([Violation(_order_of(id_), 10, sentence, evidence)])
        except RPCError as error:
            raise TemporalUnavailable(f"Temporal does not answer ({' '.join(error.message.split())[:200]}).") from None

    async def _examined(self) -> AsyncIterator[WorkflowHistory]:
        """Each history, after what it says was held against the ledger; a few are fetched at a time."""
        waiting: list[asyncio.Task[WorkflowHistory | None]] = []
        query = f"WorkflowType IN ('{ORDER_WORKFLOW}', '{SHIPPING_WORKFLOW}')"
        if self._query:
            query += f" AND ({self._query})"
        async for execution in self._client.list_workflows(query):
            waiting.append(asyncio.create_task(self._examine(execution)))
            if len(waiting) >= _FETCHES:
                history = await waiting.pop(0)
                if history is not None:
                    yield history
        for task in waiting:
            history = await task
            if history is not None:
                yield history

    async def _examine(self, execution: WorkflowExecution) -> WorkflowHistory | None:
        try:
            history, found = await self._look(execution)
            if found:
                # A running order is a step ahead in one book now and then; a second later it no longer is.
                await asyncio.sleep(1)
                history, found = await self._look(execution)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                # Deleted between the list and the look.
                return None
            raise
        self._report.add(found)
        return history

    async def _look(self, execution: WorkflowExecution) -> tuple[WorkflowHistory, list[Violation]]:
        handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
        status = (await handle.describe()).status
        history = await handle.fetch_history()
        told = await _Told.read(history, self._converter)
        row = await self._books.order(told.order_id)
        found: list[Violation] = []

        def wrong(invariant: int, sentence: str, **evidence: Any) -> None:
            found.append(Violation(told.order_id, invariant, sentence, {"workflow": execution.id, **evidence}))

        if row is None:
            if told.completed:
                wrong(5, "its workflow did work that our books do not know", activities=[n for n, _ in told.completed])
            return history, found
        events = {(event["type"], event["round"]) for event in row["events"]}
        types = {type_ for type_, _ in events}
        for name, round_ in told.completed:
            if name == Step.REFUND:
                there = bool(types & _AFTER_REFUND)
            elif name == Step.PREPARE:
                there = (EventType.PACKAGE_PREPARED, round_) in events
            else:
                there = name not in _LEAVES or _LEAVES[Step(name)] in types
            if not there:
                wrong(5, f"{name} completed, and no event tells of it", activity=name, round=round_)
        if told.child:
            return history, found
        if execution.id != workflow_id(told.order_id):
            wrong(7, "a second workflow runs under another id", expected=workflow_id(told.order_id))
        elif await self._runs(execution.id) > 1:
            wrong(7, "its workflow ran more than once", run=execution.run_id)
        found += self._close(told.order_id, execution.id, State(row["state"]), bool(row["reconciled"]), status)
        for name, request_id, accepted in told.requests:
            kind, leaves = _REQUESTS[name]
            seen = {event["type"] for event in row["events"] if event["request_id"] == request_id}
            state = State(row["state"])
            if accepted is False:
                seen_to = EventType.REQUEST_REFUSED in seen
            elif accepted is None and not state.terminal:
                seen_to = True
            elif kind == "approve":
                # An early one is written when its turn comes; a second one finds the first one's event; one that an
                # ending overtook changes nothing any more.
                seen_to = bool(seen) or leaves in types or row["ending"] is not None or state in _IN_REVIEW
            elif kind == "cancel":
                # Written when everything is undone.
                seen_to = bool(seen) or leaves in types or (row["ending"] is not None and not state.terminal)
            else:
                seen_to = bool(seen)
            if not seen_to:
                said = {True: "accepted", False: "refused", None: "received as a signal"}[accepted]
                wrong(9, f"{kind} was {said}, and nothing shows it", request=request_id)
        return history, found

    def _close(
        self, order_id: str, id_: str, state: State, reconciled: bool, status: WorkflowExecutionStatus | None
    ) -> list[Violation]:
        if status is None or status is WorkflowExecutionStatus.RUNNING or reconciled:
            return []
        if state.terminal and _CLOSES[state] is status:
            return []
        sentence = f"the workflow closed {status.name}, the order is {state}"
        if not state.terminal:
            sentence += "; `trellis reconcile` can end it"
        return [Violation(order_id, 6, sentence, {"workflow": id_, "state": state, "closed": status.name})]

    async def _runs(self, id_: str) -> int:
        return (await self._client.count_workflows(f"WorkflowId = '{id_}'")).count


@dataclass
class _Told:
    """What a history tells: whose it is, which activities completed, and how requests were answered.

    `requests` holds (name, request id, accepted); accepted is None for a signal, which nobody answered.
    """

    order_id: str
    child: bool
    completed: list[tuple[str, int | None]] = field(default_factory=list)
    requests: list[tuple[str, str, bool | None]] = field(default_factory=list)

    @staticmethod
    async def read(history: WorkflowHistory, converter: DataConverter) -> _Told:
        async def decode(payloads: Any, type_: type) -> Any:
            found: list[Payload] = list(payloads)
            return (await converter.decode(found, [type_]))[0] if found else None

        events = history.events
        started = events[0].workflow_execution_started_event_attributes
        child = started.workflow_type.name == SHIPPING_WORKFLOW
        given = await decode(started.input.payloads, ShippingInput if child else OrderInput)
        told = _Told(given.order.order_id, child)
        # Only a child's events carry a round of their own; the parent's steps are told apart by their type.
        round_: int | None = given.round if child else None
        names: dict[int, str] = {}
        asked: dict[int, tuple[str, str]] = {}
        for event in events:
            if event.event_type == HistoryEventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
            elif event.event_type == HistoryEventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                name = names[event.activity_task_completed_event_attributes.scheduled_event_id]
                told.completed.append((name, round_))
            elif event.event_type == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED:
                request = event.workflow_execution_update_accepted_event_attributes.accepted_request
                if request.input.name in _REQUESTS:
                    body = await decode(request.input.args.payloads, dict)
                    asked[event.event_id] = (request.input.name, str((body or {}).get("request_id") or ""))
            elif event.event_type == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
                done = event.workflow_execution_update_completed_event_attributes
                if done.accepted_event_id in asked and done.outcome.HasField("success"):
                    name, id_ = asked[done.accepted_event_id]
                    verdict = await decode(done.outcome.success.payloads, Verdict)
                    told.requests.append((name, id_, bool(verdict.accepted)))
            elif event.event_type == HistoryEventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
                signal = event.workflow_execution_signaled_event_attributes
                if signal.signal_name in _REQUESTS:
                    body = await decode(signal.input.payloads, dict)
                    id_ = str((body or {}).get("request_id") or "")
                    if id_:
                        told.requests.append((signal.signal_name, id_, None))
        return told


def _order_of(id_: str) -> str:
    return id_.removeprefix("order-") if id_.startswith("order-") else id_.removeprefix("shipping-").rsplit("-", 1)[0]

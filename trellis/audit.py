"""Are the books right? Ten invariants, from the ledger, the provider's own book and Temporal's histories.

 1 at most one charge per order at the provider
 2 what the provider kept is the total of what shipped, and nothing for what did not
 3 nothing ships unpaid, twice, or elsewhere than to the order's address
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
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer

from trellis.db.audit import AuditBooks, Finding
from trellis.db.pool import Pool
from trellis.histories import Request, Told
from trellis.messages import ORDER_WORKFLOW, SHIPPING_WORKFLOW, OrderInput
from trellis.model import EventType, State, Step, workflow_id
from trellis.temporal_calls import unavailable
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

_ANSWERS = {
    "approve": EventType.ORDER_APPROVED,
    "cancel": EventType.ORDER_CANCELLED,
    "update_address": EventType.ADDRESS_UPDATED,
}
"""The event that a request leaves behind when it is granted."""

_KILLED = {
    WorkflowExecutionStatus.TERMINATED,
    WorkflowExecutionStatus.TIMED_OUT,
    WorkflowExecutionStatus.CANCELED,
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
    """What an audit saw. `void`: it saw no order, or no history where it was to look at some, and so says nothing.

    `looked_at` counts the orders among the histories. At most 1,000 violations are kept; `found` counts them all.
    """

    asked_for_histories: bool = True
    orders: int = 0
    charges: int = 0
    faults: int = 0
    histories: int = 0
    looked_at: int = 0
    violations: list[Violation] = field(default_factory=list)
    found: Counter[int] = field(default_factory=Counter)

    @property
    def void(self) -> bool:
        return self.orders == 0 or (self.asked_for_histories and self.histories == 0)

    @property
    def without_history(self) -> int:
        """How many orders had no history looked at: Temporal has forgotten them, or the query left them out."""
        return max(0, self.orders - self.looked_at) if self.asked_for_histories else self.orders

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
    report = Report(asked_for_histories=histories)
    report.orders, report.charges, report.faults = await books.counts()
    async for number, findings in books.batches():
        report.add(_violations(findings))
        tick(number)
    report.add(_violations(await books.strays()))
    if histories:
        await _Histories(client, books, report, tick, query, grace).run()
    return report


def _violations(findings: list[Finding]) -> list[Violation]:
    return [Violation(f["order_id"], f["invariant"], f["sentence"], f["evidence"]) for f in findings]


class _Histories:
    """Invariants 5 to 10: each execution of ours that Temporal knows, against its order's row."""

    def __init__(
        self,
        client: Client,
        books: AuditBooks,
        report: Report,
        tick: Callable[[int], None],
        query: str,
        grace: float,
    ) -> None:
        self._query = query
        self._grace = grace
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
            raise unavailable(error) from None

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
        self._report.looked_at += execution.id.startswith(workflow_id(""))
        return history

    async def _look(self, execution: WorkflowExecution) -> tuple[WorkflowHistory, list[Violation]]:
        handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
        status = (await handle.describe()).status or WorkflowExecutionStatus.RUNNING
        history = await handle.fetch_history()
        told = await Told.read(history, self._converter)
        row = await self._books.order(told.order_id)
        found: list[Violation] = []

        def wrong(invariant: int, sentence: str, **evidence: Any) -> None:
            found.append(Violation(told.order_id, invariant, sentence, {"workflow": execution.id, **evidence}))

        if row is None:
            if told.completed:
                wrong(5, "its workflow did work that our books do not know", activities=[n for n, _ in told.completed])
        else:
            events = {(event["type"], event["round"]) for event in row["events"]}
            for name, round_ in told.completed:
                # A task that was lost had ended the order already: validated after that, it stays as it is.
                late = name == Step.VALIDATE and row["ending"] is not None
                if not late and not _left(name, round_, events):
                    wrong(5, f"{name} completed, and no event tells of it", activity=name, round=round_)
        if not isinstance(told.given, OrderInput):
            return history, found
        if execution.id != workflow_id(told.order_id):
            wrong(7, "a second workflow runs under another id", expected=workflow_id(told.order_id))
        else:
            if await self._runs(execution.id) > 1:
                wrong(7, "its workflow ran more than once", run=execution.run_id)
            age = (datetime.now(UTC) - execution.start_time).total_seconds()
            closed = self._close(row, status, age > told.given.policy.whole_run + self._grace)
            if closed is not None:
                invariant, sentence = closed
                wrong(invariant, sentence, state=row and row["state"], status=status.name)
        running = status is WorkflowExecutionStatus.RUNNING
        for request in told.requests:
            if request.acknowledged and not (running if row is None else _seen_to(request, row)):
                said = {True: "accepted", False: "refused", None: "received as a signal"}[request.accepted]
                wrong(9, f"{request.kind} was {said}, and nothing shows it", request=request.id)
        return history, found

    def _close(
        self, row: dict[str, Any] | None, status: WorkflowExecutionStatus, overdue: bool
    ) -> tuple[int, str] | None:
        """What is wrong between the order's row and its workflow's status: (invariant, sentence)."""
        if status is WorkflowExecutionStatus.RUNNING:
            if row is None:
                return (8, "runs after its run timeout, and our books do not know it") if overdue else None
            if row["reconciled"]:
                return 6, "reconcile ended it, and its workflow still runs"
            if State(row["state"]).terminal and row["unchanged"] > self._grace:
                return 8, f"the order is {row['state']}, and its workflow still runs"
            return None
        if row is None:
            what, mendable = "and our books do not know the order", status in _KILLED
        else:
            state = State(row["state"])
            if row["reconciled"] or (state.terminal and _CLOSES[state] is status):
                return None
            what, mendable = f"the order is {state}", not state.terminal or status in _KILLED
        mend = "; `trellis reconcile` can mend it" if mendable else ""
        return 6, f"the workflow closed {status.name}, {what}{mend}"

    async def _runs(self, id_: str) -> int:
        return (await self._client.count_workflows(f"WorkflowId = '{id_}'")).count


def _left(activity: str, round_: int | None, events: set[tuple[str, int | None]]) -> bool:
    """Does the log tell of a completed activity?"""
    types = {type_ for type_, _ in events}
    if activity == Step.REFUND:
        return bool(types & _AFTER_REFUND)
    if activity == Step.PREPARE:
        return (EventType.PACKAGE_PREPARED, round_) in events
    return activity not in _LEAVES or _LEAVES[Step(activity)] in types


def _seen_to(request: Request, row: dict[str, Any]) -> bool:
    """Does the log, or the row, show what became of a request?"""
    seen = {event["type"] for event in row["events"] if event["request_id"] == request.id}
    granted = any(event["type"] == _ANSWERS[request.kind] for event in row["events"])
    state = State(row["state"])
    if request.accepted is False:
        return EventType.REQUEST_REFUSED in seen
    if request.accepted is None and not state.terminal:
        return True
    if request.kind == "approve":
        # An early one is written when its turn comes; a second one finds the first one's event; one that an
        # ending overtook changes nothing any more.
        return bool(seen) or granted or row["ending"] is not None or state in _IN_REVIEW
    if request.kind == "cancel":
        # Written when everything is undone.
        return bool(seen) or granted or (row["ending"] is not None and not state.terminal)
    return bool(seen)


def _order_of(id_: str) -> str:
    return id_.removeprefix("order-") if id_.startswith("order-") else id_.removeprefix("shipping-").rsplit("-", 1)[0]

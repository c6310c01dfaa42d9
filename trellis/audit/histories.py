"""The audit of Temporal's histories: invariants 5 to 11, each workflow execution compared with its order's row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHandle, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Replayer

from trellis.audit.report import Report, Violation
from trellis.db.audit import AuditBooks
from trellis.db.rows import AuditedRow
from trellis.histories import NoOrder, OrderHistory, UnreadableHistory
from trellis.messages import OUR_WORKFLOWS, OrderInput
from trellis.model import State, Step, workflow_id
from trellis.outcomes import has_outcome, left_its_event
from trellis.parsing import ID_PATTERN
from trellis.temporal_calls import unavailable
from trellis.workers import RUNNER
from trellis.workflows.order import OrderWorkflow
from trellis.workflows.shipping import ShippingWorkflow

_FETCHES = 8

_KILLED = {
    WorkflowExecutionStatus.TERMINATED,
    WorkflowExecutionStatus.TIMED_OUT,
    WorkflowExecutionStatus.CANCELED,
}

_DAMAGED = {RPCStatusCode.DATA_LOSS, RPCStatusCode.INTERNAL, RPCStatusCode.UNKNOWN}
"""Temporal answers with one of these if it cannot read a history. This is a finding of one order and must not stop the
audit."""

_CLOSES = {
    State.COMPLETED: WorkflowExecutionStatus.COMPLETED,
    State.CANCELLED: WorkflowExecutionStatus.COMPLETED,
    State.FAILED: WorkflowExecutionStatus.FAILED,
    State.APPROVAL_TIMEOUT: WorkflowExecutionStatus.FAILED,
}


class Histories:
    """Each workflow execution that Temporal has, compared with its order's row."""

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
        histories = self._examined()
        try:
            while not await self._replay(histories):
                pass
        except RPCError as error:
            raise unavailable(error) from None

    async def _replay(self, histories: AsyncIterator[WorkflowHistory]) -> bool:
        """Replay until the histories end (True), or until one breaks the replayer, which is a finding (False)."""
        replayer = Replayer(
            workflows=[OrderWorkflow, ShippingWorkflow],
            workflow_runner=RUNNER,
            data_converter=self._converter,
            namespace=self._client.namespace,
        )
        under_way: WorkflowHistory | None = None

        async def each() -> AsyncIterator[WorkflowHistory]:
            nonlocal under_way
            async for history in histories:
                under_way = history
                yield history

        try:
            async with replayer.workflow_replay_iterator(each()) as results:
                async for result in results:
                    under_way = None
                    self._count(result.history.workflow_id, result.replay_failure)
        except Exception as error:
            if under_way is None:
                raise
            self._count(under_way.workflow_id, error)
            return False
        return True

    def _count(self, id_: str, failure: Exception | None) -> None:
        self._report.histories += 1
        self._tick(1)
        if failure is not None:
            evidence = {"workflow": id_, "failure": " ".join(str(failure).split())[:300]}
            sentence = "its history does not replay with today's code"
            self._report.add([Violation(_order_of(id_), 10, sentence, evidence)])

    async def _examined(self) -> AsyncIterator[WorkflowHistory]:
        """Each history, after it was compared with the ledger. A few are fetched at a time."""
        waiting: list[asyncio.Task[WorkflowHistory | None]] = []
        query = OUR_WORKFLOWS
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
        """The history, to be replayed; None where there is none, or none that can be read."""
        try:
            history, found = await self._look(execution)
            if found:
                # One book of a running order may be a step ahead. A second later it no longer is.
                await asyncio.sleep(1)
                history, found = await self._look(execution)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                # It was deleted after it was listed.
                return None
            raise
        self._report.add(found)
        self._report.looked_at += execution.id.startswith(workflow_id(""))
        if history is None:
            self._report.histories += 1
            self._tick(1)
        return history

    async def _look(self, execution: WorkflowExecution) -> tuple[WorkflowHistory | None, list[Violation]]:
        handle = self._client.get_workflow_handle(execution.id, run_id=execution.run_id)
        status = (await handle.describe()).status or WorkflowExecutionStatus.RUNNING
        try:
            raw = await self._fetch(handle)
            history = await OrderHistory.read(raw, self._converter)
        except UnreadableHistory as why:
            if isinstance(why, NoOrder) and status is WorkflowExecutionStatus.FAILED:
                # Its sender got the reason, and no order was made.
                return raw, []
            return None, await self._unreadable(execution, status, why)
        row = await self._books.order(history.order_id)
        findings = _Findings(history.order_id, execution.id)
        self._work(findings, history, row)
        for name, seconds in history.unwatched:
            findings.add(
                11, f"if the worker of {name} is lost, no other takes over: no heartbeat is asked for",
                activity=name, timeout_s=seconds,
            )  # fmt: skip
        if isinstance(history.input, OrderInput):
            overdue = _age(execution) > history.input.policy.whole_run + self._grace
            if not history.passes_on:
                await self._life(findings, execution, status, row, overdue=overdue)
            self._requests(findings, history, row, running=status is WorkflowExecutionStatus.RUNNING)
        return raw, findings.all

    async def _fetch(self, handle: WorkflowHandle[Any, Any]) -> WorkflowHistory:
        try:
            return await handle.fetch_history()
        except RPCError as error:
            if error.status not in _DAMAGED:
                raise
            raise UnreadableHistory(f"{error.status.name}: {' '.join(error.message.split())[:200]}") from None

    async def _unreadable(
        self, execution: WorkflowExecution, status: WorkflowExecutionStatus, why: UnreadableHistory
    ) -> list[Violation]:
        """Report the history as a finding, and check what needs no history."""
        order_id = _order_of(execution.id)
        findings = _Findings(order_id, execution.id)
        findings.add(10, f"its history cannot be read: {why}", run=execution.run_id)
        if execution.id == workflow_id(order_id) and ID_PATTERN.fullmatch(order_id):
            row = await self._books.order(order_id)
            if row is not None:
                await self._life(findings, execution, status, row, overdue=False)
        return findings.all

    def _work(self, findings: _Findings, history: OrderHistory, row: AuditedRow | None) -> None:
        """Invariant 5: every completed activity has its event."""
        if row is None:
            if history.completed:
                activities = [name for name, _ in history.completed]
                findings.add(
                    5, "its workflow did work for an order that the ledger does not have", activities=activities
                )
            return
        events = {(event["type"], event["round"]) for event in row.events}
        for name, round_ in history.completed:
            # A workflow task that was lost had ended the order already. Validating it after that changes nothing.
            late = name == Step.VALIDATE and row.ending is not None
            if not late and not left_its_event(name, round_, events):
                findings.add(5, f"{name} completed, and it has no event", activity=name, round=round_)

    async def _life(
        self,
        findings: _Findings,
        execution: WorkflowExecution,
        status: WorkflowExecutionStatus,
        row: AuditedRow | None,
        *,
        overdue: bool,
    ) -> None:
        """Invariants 6 to 8: one workflow per order, closed as the ledger says, and in time."""
        if execution.id != workflow_id(findings.order_id):
            findings.add(7, "a second workflow runs under another id", expected=workflow_id(findings.order_id))
            return
        if (await self._client.count_workflows(f"WorkflowId = '{execution.id}'")).count > 1:
            findings.add(7, "its workflow ran more than once", run=execution.run_id)
        closed = self._close(row, status, overdue)
        if closed is not None:
            invariant, sentence = closed
            findings.add(invariant, sentence, state=row.state if row else None, status=status.name)

    def _requests(self, findings: _Findings, history: OrderHistory, row: AuditedRow | None, *, running: bool) -> None:
        """Invariant 9: the ledger shows the outcome of each acknowledged request."""
        for request in history.requests:
            if request.acknowledged and not (running if row is None else has_outcome(request, row)):
                answer = {True: "accepted", False: "refused", None: "received as a signal"}[request.accepted]
                findings.add(9, f"{request.kind} was {answer}, and the ledger does not show it", request=request.id)

    def _close(self, row: AuditedRow | None, status: WorkflowExecutionStatus, overdue: bool) -> tuple[int, str] | None:
        """What is wrong between the order's row and its workflow's status: (invariant, sentence)."""
        if status is WorkflowExecutionStatus.RUNNING:
            if row is None:
                return (8, "runs after its run timeout, and the ledger does not have the order") if overdue else None
            if row.reconciled:
                return 6, "reconcile ended it, and its workflow still runs"
            if State(row.state).terminal and row.unchanged > self._grace:
                return 8, f"the order is {row['state']}, and its workflow still runs"
            return None
        if row is None:
            what, mendable = "and the ledger does not have the order", status in _KILLED
        else:
            state = State(row.state)
            if row.reconciled or (state.terminal and _CLOSES[state] is status):
                return None
            what, mendable = f"the order is {state}", not state.terminal or status in _KILLED
        mend = "; `trellis reconcile` can mend it" if mendable else ""
        return 6, f"the workflow closed {status.name}, {what}{mend}"


class _Findings:
    """What is wrong with the order of one execution."""

    def __init__(self, order_id: str, workflow: str) -> None:
        self.order_id = order_id
        self.all: list[Violation] = []
        self._workflow = workflow

    def add(self, invariant: int, sentence: str, **evidence: Any) -> None:
        self.all.append(Violation(self.order_id, invariant, sentence, {"workflow": self._workflow, **evidence}))


def _age(execution: WorkflowExecution) -> float:
    return (datetime.now(UTC) - execution.start_time).total_seconds()


def _order_of(id_: str) -> str:
    return id_.removeprefix("order-") if id_.startswith("order-") else id_.removeprefix("shipping-").rsplit("-", 1)[0]

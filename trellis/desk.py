"""The one door: start, approve, cancel, update_address, status, events, orders. Notebooks, CLI and API use it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    QueryRejectCondition,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from trellis.config import Settings
from trellis.db.ledger import Ledger, Row
from trellis.db.migrate import check_schema
from trellis.db.pool import Pool, open_pool
from trellis.errors import (
    BadInput,
    DatabaseUnavailable,
    OrderConflict,
    OrderNotFound,
    RequestRefused,
    TemporalUnavailable,
)
from trellis.messages import (
    ORDER_WORKFLOW,
    Approve,
    Cancel,
    OrderInput,
    OrderResult,
    Status,
    UpdateAddress,
    Verdict,
)
from trellis.model import EventType, Order, State, Step, shipping_workflow_id, workflow_id
from trellis.parsing import parse_address, parse_id, parse_reason
from trellis.policies import Policy, preset
from trellis.stack import Stack, connect
from trellis.stack.temporal import ensure_search_attributes

log = structlog.get_logger("trellis.desk")

T = TypeVar("T")

PATIENCE = 1.0
"""Seconds that a request waits for its verdict, and a status for the workflow's own word."""

ANSWER = timedelta(seconds=5)
"""How long a call to Temporal may take, the SDK's own retries included, before it counts as away."""


@dataclass(frozen=True)
class Started:
    """`created` is False when the same order had been started before."""

    workflow_id: str
    run_id: str
    created: bool


@dataclass(frozen=True)
class Receipt:
    """What became of a request: `accepted`, or `pending` when no worker has judged it yet."""

    verdict: str
    reason: str = ""


def default_policy(settings: Settings) -> Policy:
    """TRELLIS_POLICY, with WORKFLOW_RUN_TIMEOUT_SECONDS when that is set. Raises ConfigError."""
    policy = preset(settings.policy)
    if settings.run_timeout is not None:
        policy = replace(policy, run_timeout=settings.run_timeout)
    return policy.check()


class Desk:
    """Orders, for everybody who is not a workflow. Raises TrellisError's children, each with one sentence."""

    def __init__(
        self, client: Client, ledger: Ledger, settings: Settings, *, search_attributes: bool, stack: Stack | None = None
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.settings = settings
        self.stack = stack
        self._search_attributes = search_attributes

    def default_policy(self) -> Policy:
        """The policy of an order that names none."""
        return default_policy(self.settings)

    async def start(self, order: Order, policy: Policy | None = None) -> Started:
        """Start an order; the same order again returns the same run.

        Raises OrderConflict for another order under a known id, or a payment id that is another order's.
        """
        policy = (policy or self.default_policy()).check()
        owner, known = await asyncio.gather(
            self.ledger.payment_owner(order.payment_id), self.ledger.order(order.order_id)
        )
        if owner not in (None, order.order_id):
            raise OrderConflict(f"Payment id {order.payment_id} belongs to order {owner}. Choose a new one.")
        fingerprint = order.fingerprint()
        if known is not None and known["fingerprint"] != fingerprint:
            raise OrderConflict(f"Order {order.order_id} exists with another body. Choose a new id.")
        id_ = workflow_id(order.order_id)
        if known is not None:
            theirs = await self._description(id_)
            # Temporal may have forgotten a run that the ledger still knows; an order never runs twice.
            return Started(id_, theirs.run_id if theirs else "", created=False)
        try:
            handle: WorkflowHandle[Any, Any] = await self.client.start_workflow(
                ORDER_WORKFLOW,
                OrderInput(order, policy, self.settings.shipping_queue, self._search_attributes),
                id=id_,
                task_queue=self.settings.orders_queue,
                result_type=OrderResult,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                run_timeout=timedelta(seconds=policy.whole_run),
                memo={"fingerprint": fingerprint},
                search_attributes=self._attributes(order),
                static_summary=f"{len(order.items)} items, {order.total_cents / 100:.2f}, policy {policy.name}",
                rpc_timeout=ANSWER,
            )
        except WorkflowAlreadyStartedError as already:
            theirs = await self._description(id_)
            # Temporal may forget a closed run in just this instant; then the ledger has the last word next time.
            if theirs is not None and (await theirs.memo()).get("fingerprint") != fingerprint:
                raise OrderConflict(f"Order {order.order_id} exists with another body. Choose a new id.") from None
            return Started(id_, already.run_id or (theirs.run_id if theirs else ""), created=False)
        except RPCError as error:
            raise self._unavailable(error) from None
        return Started(id_, handle.first_execution_run_id or handle.result_run_id or "", created=True)

    def _attributes(self, order: Order) -> TypedSearchAttributes:
        if not self._search_attributes:
            return TypedSearchAttributes.empty
        return TypedSearchAttributes(
            [
                SearchAttributePair(SearchAttributeKey.for_keyword("OrderState"), State.ORDER_RECEIVED),
                SearchAttributePair(SearchAttributeKey.for_float("OrderTotal"), order.total_cents / 100),
            ]
        )

    async def approve(self, order_id: str, *, request_id: str | None = None) -> Receipt:
        """End the review. Raises OrderNotFound, or RequestRefused with the reason."""
        id_ = request_id or new_request_id()
        return await self._request(order_id, "approve", Approve(id_), id_)

    async def cancel(self, order_id: str, reason: str = "", *, request_id: str | None = None) -> Receipt:
        """Cancel, refunding what was charged. Raises OrderNotFound, BadInput, or RequestRefused."""
        id_ = request_id or new_request_id()
        return await self._request(order_id, "cancel", Cancel(id_, parse_reason(reason)), id_)

    async def update_address(self, order_id: str, address: object, *, request_id: str | None = None) -> Receipt:
        """Send the parcel elsewhere. Raises OrderNotFound, BadInput, or RequestRefused."""
        id_ = request_id or new_request_id()
        return await self._request(order_id, "update_address", UpdateAddress(id_, parse_address(address)), id_)

    async def _request(self, order_id: str, name: str, message: object, request_id: str) -> Receipt:
        """The update for a second, then the signal under the same request id: handled once whichever arrives."""
        parse_id(order_id)
        handle = self.client.get_workflow_handle(workflow_id(order_id))
        try:
            async with asyncio.timeout(PATIENCE):
                verdict: Verdict = await handle.execute_update(
                    name, message, id=f"{name}-{request_id}", result_type=Verdict
                )
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as late:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The SDK gives a cancellation of its caller the same name; swallowed here, the caller would live on.
                raise asyncio.CancelledError from late
            return await self._signal(handle, order_id, name, message, request_id)
        except WorkflowUpdateFailedError as refused:
            cause = refused.cause
            # Written out, a failure begins with its type, which is Temporal's word and not the reason.
            reason = cause.message if isinstance(cause, FailureError) else str(cause)
            return await self._refuse(order_id, name, request_id, reason)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return await self._closed(order_id, name, request_id)
            # An update that was not yet in the history dies with its workflow task; a signal is durable at once.
            return await self._signal(handle, order_id, name, message, request_id)
        if verdict.accepted:
            return Receipt("accepted", verdict.reason)
        raise RequestRefused(f"Order {order_id} refused {name}: {verdict.reason}.")

    async def _signal(
        self, handle: WorkflowHandle[Any, Any], order_id: str, name: str, message: object, request_id: str
    ) -> Receipt:
        try:
            await handle.signal(name, message, rpc_timeout=ANSWER)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return await self._closed(order_id, name, request_id)
            raise self._unavailable(error) from None
        return Receipt("pending", "no worker has judged it yet")

    async def _closed(self, order_id: str, name: str, request_id: str) -> Receipt:
        row = await self.ledger.order(order_id)
        if row is None:
            close, _ = await self._describe(order_id)
            if close is None:
                raise OrderNotFound(f"There is no order {order_id}. `trellis order list` shows the known ones.")
            return await self._refuse(order_id, name, request_id, _never_received(close))
        done = await self.ledger.brought_about(order_id, request_id)
        if done is not None and done["type"] != EventType.REQUEST_REFUSED:
            # It was heard, and the answer was lost on its way here.
            return Receipt("accepted")
        return await self._refuse(order_id, name, request_id, f"the order is {row['state']}")

    async def _refuse(self, order_id: str, name: str, request_id: str, reason: str) -> Receipt:
        await self.ledger.refuse(order_id, request_id, name, reason)
        raise RequestRefused(f"Order {order_id} refused {name}: {reason}.")

    async def status(self, order_id: str, *, patience: float = PATIENCE) -> Row:
        """Ledger, workflow and Temporal's pending activities joined; works without workers too.

        Keys: order_id, state, step, attempt, last_error, last_failure, review_deadline, seconds_left, can_cancel,
        can_update_address, total, address, payment, shipments, events (the last 20), workflow.
        Whatever Temporal or the workflow does not say within `patience` seconds is read off the ledger, and
        `workflow.late` is true. Raises OrderNotFound.
        """
        parse_id(order_id)
        row, events = await asyncio.gather(self.ledger.order(order_id), self.ledger.events(order_id, last=20))
        state = State(row["state"]) if row else State.ORDER_RECEIVED
        ended = state.terminal
        # The row comes first: asking a closed workflow would have a worker replay its whole history. Without a row
        # only Temporal knows whether there is such an order, and its word is worth any wait.
        described, live = await asyncio.gather(
            _within(patience if row else None, self._describe(order_id)),
            _within(patience, self._query(order_id)) if not ended else _within(None, _nobody()),
        )
        close, pending = described or (None, [])
        if row is None and close is None:
            raise OrderNotFound(f"There is no order {order_id}. `trellis order list` shows the known ones.")
        closed = close if close != WorkflowExecutionStatus.RUNNING.name else None
        stranded = _never_received(closed) if row is None and closed else None
        if stranded and await self.ledger.order(order_id) is not None:
            # It lived its whole life between the two questions.
            return await self.status(order_id, patience=patience)
        ended = ended or stranded is not None
        tries = [event for event in events if event["attempt"] is not None]
        step = None if ended else (pending[0]["step"] if pending else live.step if live else _step(state, events))
        mine = [event for event in tries if event["step"] == step]
        failures = [event for event in mine if event["type"].startswith("ATTEMPT_")]
        claimed = bool(row and row["claimed_at"])
        closing = bool(row and row["closing_at"])
        # A closed workflow hears nothing any more, whatever the row says.
        open_ = not (ended or closed or claimed or closing)
        deadline = live.review_deadline if live else _review_deadline(row, events) if row else None
        if step != "review":
            deadline = None
        return {
            "order_id": order_id,
            "state": state,
            "step": step,
            "attempt": (mine[-1]["attempt"] + 1 if mine else 1) if step and step != "review" else None,
            "last_error": (row["last_error"] if row else stranded) or (live.last_error if live else None),
            "last_failure": failures[-1]["payload_json"].get("error")
            if failures
            else (pending[0]["last_failure"] if pending else None),
            "review_deadline": deadline,
            "seconds_left": None
            if deadline is None
            else max(0.0, (datetime.fromisoformat(deadline) - datetime.now(UTC)).total_seconds()),
            "can_cancel": open_ and (live is None or live.can_cancel),
            "can_update_address": open_ and (live is None or live.can_update_address),
            "total": row["total"] if row else None,
            "address": row["address_json"] if row else None,
            "payment": row["payment"] if row else None,
            "shipments": row["shipments"] if row else [],
            "events": events,
            "workflow": {
                "id": workflow_id(order_id),
                "close_status": close,
                "pending": pending,
                "late": described is None or (live is None and not ended and not closed),
            },
        }

    async def _query(self, order_id: str) -> Status | None:
        """The workflow's own word; None where no worker gives it within a second, or the workflow is closed."""
        try:
            status: Status = await self.client.get_workflow_handle(workflow_id(order_id)).query(
                "status",
                result_type=Status,
                rpc_timeout=timedelta(seconds=PATIENCE),
                reject_condition=QueryRejectCondition.NOT_OPEN,
            )
            return status
        except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
            return None

    async def _describe(self, order_id: str) -> tuple[str | None, list[dict[str, Any]]]:
        """Close status (RUNNING while open, None where unknown) and pending outside steps of parent and open child."""
        parent = await self._description(workflow_id(order_id))
        if parent is None:
            return None, []
        pending = [*parent.raw_description.pending_activities]
        for child in parent.raw_description.pending_children:
            if child.workflow_id.startswith(shipping_workflow_id(order_id, 0)[:-1]):
                described = await self._description(child.workflow_id)
                pending += described.raw_description.pending_activities if described else []
        status = parent.status or WorkflowExecutionStatus.RUNNING
        return status.name, [
            {
                "step": activity.activity_type.name,
                "attempt": activity.attempt,
                "last_failure": activity.last_failure.message or None,
            }
            for activity in pending
        ]

    async def _description(self, id_: str) -> WorkflowExecutionDescription | None:
        """Temporal's own word on a workflow; None where it knows no such id."""
        try:
            return await self.client.get_workflow_handle(id_).describe(rpc_timeout=ANSWER)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise self._unavailable(error) from None

    async def events(self, order_id: str) -> list[Row]:
        """All events of an order, oldest first. Raises OrderNotFound."""
        parse_id(order_id)
        events = await self.ledger.events(order_id)
        if not events:
            await self.status(order_id)
        return events

    async def orders(
        self, *, state: str | None = None, limit: int = 50, after: tuple[datetime, str] | None = None
    ) -> Sequence[Row]:
        """Orders, newest first. Raises BadInput for a state nobody knows or a limit outside 1 to 1,000."""
        if state is not None and state not in State.__members__:
            raise BadInput(f"There is no state {state[:40]!r}. Known are {', '.join(State)}.")
        if not 1 <= limit <= 1000:
            raise BadInput("The limit must be from 1 to 1000.")
        return await self.ledger.orders(state, limit, after)

    async def health(self) -> dict[str, bool]:
        """Who answers within a second: {temporal, database}."""

        async def answers(call: Awaitable[object]) -> bool:
            try:
                async with asyncio.timeout(PATIENCE):
                    await call
                return True
            except (TimeoutError, RPCError, DatabaseUnavailable):
                return False

        info = self.client.workflow_service.get_system_info(
            GetSystemInfoRequest(), retry=False, timeout=timedelta(seconds=PATIENCE)
        )
        temporal, database = await asyncio.gather(answers(info), answers(self.ledger.ping()))
        return {"temporal": temporal, "database": database}

    async def workers(self) -> list[Row]:
        """Who polled our queues in the last minutes: {queue, identity, polled_at}, the last as Temporal saw it [UTC].

        Raises TemporalUnavailable.
        """
        found: dict[tuple[str, str], datetime] = {}
        for queue in (self.settings.orders_queue, self.settings.shipping_queue):
            for kind in (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
                request = DescribeTaskQueueRequest(
                    namespace=self.client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
                )
                try:
                    answer = await self.client.workflow_service.describe_task_queue(request, timeout=ANSWER)
                except RPCError as error:
                    raise self._unavailable(error) from None
                for poller in answer.pollers:
                    polled = poller.last_access_time.ToDatetime(UTC)
                    found[queue, poller.identity] = max(polled, found.get((queue, poller.identity), polled))
        return [
            {"queue": queue, "identity": identity, "polled_at": polled}
            for (queue, identity), polled in sorted(found.items())
        ]

    async def wait(self, order_id: str, timeout: float | None = None) -> Row:
        """The order's status once its workflow has closed. Raises TimeoutError, OrderNotFound."""
        handle = self.client.get_workflow_handle(workflow_id(order_id))
        async with asyncio.timeout(timeout):
            try:
                await handle.result()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise self._unavailable(error) from None
            except Exception as failed:
                # How it ended stands in the status; a failed order is a result here, not an error.
                log.debug("the order did not complete", order_id=order_id, error=str(failed))
        return await self.status(order_id)

    def _unavailable(self, error: RPCError) -> TemporalUnavailable:
        return TemporalUnavailable(f"Temporal does not answer ({' '.join(error.message.split())[:200]}).")

    def ui_link(self, order_id: str) -> str | None:
        """The order in Temporal's Web UI, where there is one."""
        ui = self.stack.temporal.ui if self.stack else None
        return f"{ui}/namespaces/{self.client.namespace}/workflows/{workflow_id(order_id)}" if ui else None


def _never_received(close_status: str) -> str:
    """Why an order that has no row, and whose workflow has closed, goes nowhere."""
    return f"its workflow closed as {close_status} before it was received; `trellis reconcile --apply` ends it"


async def _nobody() -> None:
    """The word of a workflow that need not be asked."""


async def _within(seconds: float | None, call: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError:
        return None


def _step(state: State, events: Sequence[Row]) -> str | None:
    """What an order does, by the ledger alone."""
    if state is State.AWAITING_APPROVAL:
        return Step.CHARGE if any(event["type"] == EventType.ORDER_APPROVED for event in events) else "review"
    if state is State.SHIPPING and any(event["type"] == EventType.CARRIER_DISPATCHED for event in events):
        return Step.SHIP
    return _NEXT.get(state)


_NEXT = {
    State.ORDER_RECEIVED: Step.VALIDATE,
    State.ORDER_VALIDATED: Step.VALIDATE,
    State.PAYMENT_CHARGED: Step.PREPARE,
    State.SHIPPING: Step.DISPATCH,
    State.SHIPPED: Step.COMPLETE,
}


def _review_deadline(row: Row, events: Sequence[Row]) -> str | None:
    """When the review ends, by the ledger alone: the workflow's own clock began some milliseconds later."""
    began = [event["ts"] for event in events if event["type"] == EventType.AWAITING_APPROVAL]
    return (began[0] + timedelta(seconds=row["policy_json"]["review_window"])).isoformat() if began else None


def new_request_id() -> str:
    return uuid.uuid4().hex


def to_json(row: Row) -> dict[str, Any]:
    """A row as plain JSON values: times as ISO 8601, money and ids as text."""
    return {
        key: value if isinstance(value, str | int | float | bool | list | dict | type(None)) else
        value.isoformat() if isinstance(value, datetime) else str(value)
        for key, value in row.items()
    }  # fmt: skip


@asynccontextmanager
async def opened(
    stack: Stack, settings: Settings, *, pool: Pool | None = None, checked: bool = False
) -> AsyncIterator[Desk]:
    """A desk on a running stack, with a client and a pool of its own (see `open_pool` for `checked`) unless given one.

    Raises TemporalUnavailable, DatabaseUnavailable, SchemaMismatch.
    """
    client, _ = await asyncio.gather(connect(stack.temporal), check_schema(stack.database_url))
    known = await ensure_search_attributes(client)
    if not known:
        log.warning("Temporal knows no OrderState and OrderTotal and lets nobody add them; orders run without")
    # Somebody waits for each answer: better a clear word soon than a long silence.
    own = pool or await open_pool(stack.database_url, patience=5, checked=checked)
    try:
        yield Desk(client, Ledger(own), settings, search_attributes=known, stack=stack)
    finally:
        if pool is None:
            await own.close()


__all__ = ["Desk", "Receipt", "Started", "default_policy", "new_request_id", "opened", "to_json"]

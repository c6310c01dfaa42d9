"""The desk: start, approve, cancel, update_address, status, events, orders. Notebooks, CLI and API all use it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, GetSystemInfoRequest
from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from trellis.config import Settings
from trellis.db.ledger import Ledger
from trellis.db.rows import EventRow, OrderLine, to_json
from trellis.errors import (
    BadInput,
    ConfigError,
    DatabaseUnavailable,
    OrderConflict,
    OrderNotFound,
    RequestRefused,
)
from trellis.faults import FaultPlan, PlanInForce, plan_in_force
from trellis.messages import (
    ORDER_WORKFLOW,
    TASK_TIMEOUT,
    Approve,
    Cancel,
    OrderInput,
    OrderResult,
    UpdateAddress,
    Verdict,
)
from trellis.model import EventType, Order, State, workflow_id
from trellis.parsing import parse_address, parse_id, parse_reason
from trellis.policies import Policy, preset, with_budget
from trellis.stack import Stack
from trellis.status import OrderStatus, StatusReader, never_received
from trellis.temporal_calls import CALL_TIMEOUT, describe, unavailable

log = structlog.get_logger("trellis.desk")

T = TypeVar("T")

REQUEST_WAIT = 1.0
"""How long a request waits for its verdict, and a status for the workflow's own answer [s]."""

FOLLOWED = 1.0
"""Seconds after which every worker has seen a new fault plan: each asks for it twice a second."""

POLLED = timedelta(seconds=90)
"""A worker without tasks polls at least once a minute. A worker that has not polled for this long has ended."""


@dataclass(frozen=True)
class Started:
    """`created` is False when the same order had been started before."""

    workflow_id: str
    run_id: str
    created: bool


@dataclass(frozen=True)
class Receipt:
    """The outcome of a request: `accepted`, or `pending` if no worker has judged it yet."""

    verdict: str
    reason: str = ""


def default_policy(settings: Settings) -> Policy:
    """TRELLIS_POLICY, with WORKFLOW_RUN_TIMEOUT_SECONDS as its budget when that is set. Raises ConfigError."""
    policy = preset(settings.policy)
    if settings.run_timeout is None:
        return policy
    try:
        return with_budget(policy, settings.run_timeout)
    except ConfigError as error:
        raise ConfigError(f"WORKFLOW_RUN_TIMEOUT_SECONDS cannot be used: {error}") from None


def check_default_policy(settings: Settings) -> None:
    """For servers: raise ConfigError now and not at the first order. Log what WORKFLOW_RUN_TIMEOUT_SECONDS means."""
    policy = default_policy(settings)
    if settings.run_timeout is not None:
        review = "the review included" if policy.budget_counts_review else "the review not counted"
        log.info(
            f"WORKFLOW_RUN_TIMEOUT_SECONDS={settings.run_timeout:g}: an order works for {policy.budget:g} s at most, "
            f"{review}, and is then undone; Temporal's own run timeout is {policy.whole_run:g} s, which leaves room "
            f"for the review and the compensation"
        )


class Desk:
    """Orders, for everybody who is not a workflow. Raises subclasses of TrellisError, each with one sentence."""

    def __init__(
        self, client: Client, ledger: Ledger, settings: Settings, *, search_attributes: bool, stack: Stack | None = None
    ) -> None:
        self.client = client
        self.ledger = ledger
        self.settings = settings
        self.stack = stack
        self._search_attributes = search_attributes
        self._status = StatusReader(client, ledger)

    def default_policy(self) -> Policy:
        """The policy of an order that names none."""
        return default_policy(self.settings)

    async def start(self, order: Order, policy: Policy | None = None) -> Started:
        """Start an order; the same order again returns the same run.

        Raises OrderConflict if the id is known with another body, or if the payment id belongs to another order.
        """
        policy = (policy or self.default_policy()).check()
        owner, known = await self.ledger.known(order.order_id, order.payment_id)
        if owner not in (None, order.order_id):
            raise OrderConflict(f"Payment id {order.payment_id} belongs to order {owner}. Choose a new one.")
        fingerprint = order.fingerprint()
        if known is not None and known != fingerprint:
            raise OrderConflict(f"Order {order.order_id} exists with another body. Choose a new id.")
        id_ = workflow_id(order.order_id)
        if known is not None:
            described = await describe(self.client, id_)
            # Temporal may have deleted a run that the ledger still has. An order never runs twice.
            return Started(id_, described.run_id if described else "", created=False)
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
                task_timeout=TASK_TIMEOUT,
                memo={"fingerprint": fingerprint},
                search_attributes=self._attributes(order),
                static_summary=f"{len(order.items)} items, {order.total_cents / 100:.2f}, policy {policy.name}",
                rpc_timeout=CALL_TIMEOUT,
            )
        except WorkflowAlreadyStartedError as already:
            described = await describe(self.client, id_)
            # Temporal may delete a closed run at this moment. The next start then decides by the ledger.
            if described is not None and (await described.memo()).get("fingerprint") != fingerprint:
                raise OrderConflict(f"Order {order.order_id} exists with another body. Choose a new id.") from None
            return Started(id_, already.run_id or (described.run_id if described else ""), created=False)
        except RPCError as error:
            raise unavailable(error) from None
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
        """Replace the whole address; a field that is left out becomes empty.

        Raises OrderNotFound, BadInput, or RequestRefused.
        """
        id_ = request_id or new_request_id()
        return await self._request(order_id, "update_address", UpdateAddress(id_, parse_address(address)), id_)

    async def _request(self, order_id: str, name: str, message: object, request_id: str) -> Receipt:
        """Send an update. Without an answer within a second, send a signal with the same request id. Only one of them
        counts."""
        parse_id(order_id)
        handle = self.client.get_workflow_handle(workflow_id(order_id))
        try:
            async with asyncio.timeout(REQUEST_WAIT):
                verdict: Verdict = await handle.execute_update(
                    name, message, id=f"{name}-{request_id}", result_type=Verdict
                )
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError) as late:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # The SDK raises the same error when its caller is cancelled. The caller must then end.
                raise asyncio.CancelledError from late
            return await self._signal(handle, order_id, name, message, request_id)
        except WorkflowUpdateFailedError as refused:
            cause = refused.cause
            # The text of a failure begins with its type. The message alone is the reason.
            reason = cause.message if isinstance(cause, FailureError) else str(cause)
            return await self._refuse(order_id, name, request_id, reason)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return await self._closed(order_id, name, request_id)
            # An update that is not yet in the history is lost with its workflow task. A signal is durable at once.
            return await self._signal(handle, order_id, name, message, request_id)
        if verdict.accepted:
            return Receipt("accepted", verdict.reason)
        raise RequestRefused(f"Order {order_id} refused {name}: {verdict.reason}.")

    async def _signal(
        self, handle: WorkflowHandle[Any, Any], order_id: str, name: str, message: object, request_id: str
    ) -> Receipt:
        try:
            await handle.signal(name, message, rpc_timeout=CALL_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return await self._closed(order_id, name, request_id)
            raise unavailable(error) from None
        return Receipt("pending", "no worker has judged it yet")

    async def _closed(self, order_id: str, name: str, request_id: str) -> Receipt:
        row = await self.ledger.order(order_id)
        if row is None:
            close = (await self._status.describe(order_id)).close_status
            if close is None:
                raise OrderNotFound(f"There is no order {order_id}. `trellis order list` shows the known ones.")
            return await self._refuse(order_id, name, request_id, never_received(close))
        outcome = await self.ledger.outcome_of(order_id, request_id)
        if outcome is not None and outcome != EventType.REQUEST_REFUSED:
            # It was accepted, and the answer was lost on its way.
            return Receipt("accepted")
        return await self._refuse(order_id, name, request_id, f"the order is {row.state}")

    async def _refuse(self, order_id: str, name: str, request_id: str, reason: str) -> Receipt:
        await self.ledger.refuse(order_id, request_id, name, reason)
        raise RequestRefused(f"Order {order_id} refused {name}: {reason}.")

    async def status(self, order_id: str, *, patience: float = REQUEST_WAIT) -> OrderStatus:
        """Ledger, workflow and Temporal's pending activities joined; works without workers too.

        What Temporal or the workflow does not say within `patience` seconds is read from the ledger, and
        `workflow.late` is true. Raises OrderNotFound.
        """
        return await self._status.read(order_id, patience)

    async def events(self, order_id: str) -> list[EventRow]:
        """All events of an order, oldest first. Raises OrderNotFound."""
        parse_id(order_id)
        events = await self.ledger.events(order_id)
        if not events:
            await self.status(order_id)
        return events

    async def orders(
        self, *, state: str | None = None, limit: int = 50, after: tuple[datetime, str] | None = None
    ) -> list[OrderLine]:
        """Orders, newest first. Raises BadInput for an unknown state or a limit outside 1 to 1,000."""
        if state is not None and state not in State.__members__:
            raise BadInput(f"There is no state {state[:40]!r}. Known are {', '.join(State)}.")
        if not 1 <= limit <= 1000:
            raise BadInput("The limit must be from 1 to 1000.")
        return await self.ledger.orders(state, limit, after)

    async def faults(self) -> PlanInForce:
        """The fault plan in force. Its version is 0 unless somebody has set one."""
        return plan_in_force(await self.ledger.fault_plan(), self.settings.faults)

    async def set_faults(self, plan: FaultPlan, *, followed: bool = False, keep_outages: bool = False) -> PlanInForce:
        """Put a plan in force; all workers follow within a second. Raises ConfigError.

        keep_outages: for a change of something else, such as a slider. Outages that the plan before has too go on.
            Otherwise the plan's outages begin now.
        followed: return when the workers of other processes follow it, too. One of them may take the next order, such
            as the worker of another notebook that is still open. Raises TemporalUnavailable.
        """
        force = await self.ledger.set_fault_plan(plan.check(), keep_outages=keep_outages)
        if followed and any(worker["identity"] != self.client.identity for worker in await self.workers()):
            await asyncio.sleep(FOLLOWED)
        return force

    async def health(self) -> dict[str, bool]:
        """Who answers within a second: {temporal, database}."""

        async def answers(call: Awaitable[object]) -> bool:
            try:
                async with asyncio.timeout(REQUEST_WAIT):
                    await call
                return True
            except (TimeoutError, RPCError, DatabaseUnavailable):
                return False

        info = self.client.workflow_service.get_system_info(
            GetSystemInfoRequest(), retry=False, timeout=timedelta(seconds=REQUEST_WAIT)
        )
        temporal, database = await asyncio.gather(answers(info), answers(self.ledger.ping()))
        return {"temporal": temporal, "database": database}

    async def workers(self) -> list[dict[str, Any]]:
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
                    answer = await self.client.workflow_service.describe_task_queue(request, timeout=CALL_TIMEOUT)
                except RPCError as error:
                    raise unavailable(error) from None
                for poller in answer.pollers:
                    polled = poller.last_access_time.ToDatetime(UTC)
                    found[queue, poller.identity] = max(polled, found.get((queue, poller.identity), polled))
        return [
            {"queue": queue, "identity": identity, "polled_at": polled}
            for (queue, identity), polled in sorted(found.items())
        ]

    async def wait(self, order_id: str, timeout: float | None = None) -> OrderStatus:
        """The order's status once its workflow has closed. Raises TimeoutError, OrderNotFound."""
        handle = self.client.get_workflow_handle(workflow_id(order_id))
        async with asyncio.timeout(timeout):
            try:
                await handle.result()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise unavailable(error) from None
            except Exception as failed:
                # The status says how it ended. A failed order is a result here, not an error.
                log.debug("the order did not complete", order_id=order_id, error=str(failed))
        return await self.status(order_id)

    def ui_link(self, order_id: str) -> str | None:
        """The order in Temporal's Web UI, where there is one."""
        ui = self.stack.temporal.ui if self.stack else None
        return f"{ui}/namespaces/{self.client.namespace}/workflows/{workflow_id(order_id)}" if ui else None


def new_request_id() -> str:
    return uuid.uuid4().hex


__all__ = ["Desk", "Receipt", "Started", "check_default_policy", "default_policy", "new_request_id", "to_json"]

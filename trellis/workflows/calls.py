"""How workflows call activities and other workflows, and wait for them. Calls are by name, so that the sandbox never
imports a driver."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from trellis.messages import ORDER_WORKFLOW, TASK_TIMEOUT, OrderInput, OrderResult
    from trellis.policies import Placement, Retry

T = TypeVar("T")

HEARTBEAT = timedelta(seconds=5)
"""After this time without a heartbeat, the server counts the worker as lost. Heartbeats go out every half second, so a
busy machine may miss several."""

_LOOP = timedelta(days=1)
_QUICK = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_interval=timedelta(seconds=1))


async def outside(name: str, given: object, retry: Retry, result: type | None = None, summary: str = "") -> Any:
    """One outside step. The placement in the retry rule decides what repeats it."""
    server = retry.placement is Placement.SERVER
    return await workflow.execute_activity(
        name,
        given,
        result_type=result,
        start_to_close_timeout=timedelta(seconds=retry.try_timeout) if server else _LOOP,
        heartbeat_timeout=HEARTBEAT,
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=max(retry.first_backoff, 0.001)),
            backoff_coefficient=retry.multiplier,
            maximum_interval=timedelta(seconds=max(retry.max_backoff, 0.001)),
            maximum_attempts=retry.max_tries,
        )
        if server
        else _QUICK,
        summary=summary or None,
    )


async def ledger(name: str, given: object, result: type | None = None) -> Any:
    """One ledger-only step: a local activity, so it costs no task of its own on the server."""
    return await workflow.execute_local_activity(
        name,
        given,
        result_type=result,
        start_to_close_timeout=timedelta(seconds=10),
        retry_policy=_QUICK,
    )


async def start_order(given: OrderInput, id_: str) -> workflow.ChildWorkflowHandle[Any, OrderResult] | None:
    """Start the order as a workflow that outlives this one. None: the id was used before."""
    try:
        return await workflow.start_child_workflow(
            ORDER_WORKFLOW,
            given,
            id=id_,
            result_type=OrderResult,
            run_timeout=timedelta(seconds=given.policy.whole_run),
            task_timeout=TASK_TIMEOUT,
            memo={"fingerprint": given.order.fingerprint()},
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )
    except WorkflowAlreadyStartedError:
        return None


async def uninterrupted(doing: Awaitable[T]) -> T:
    """Wait for something that a cancellation must not interrupt."""
    task = asyncio.ensure_future(doing)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue
    return task.result()

"""Trips: a workflow that has nothing to do with orders, run in a namespace of its own, with calls that fail."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio import activity
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from trellis.errors import TrellisError
from trellis.lab.session import Session
from trellis.stack import TemporalTarget, connect
from trellis.workers import RUNNER
from trellis.workflows.trip import Trip

NAMESPACE = "trips"
QUEUE = "trips"


@activity.defn
async def book_flight(traveller: str) -> str:
    return await _book("flight", traveller)


@activity.defn
async def book_hotel(traveller: str) -> str:
    return await _book("hotel", traveller)


@activity.defn
async def book_car(traveller: str) -> str:
    return await _book("car", traveller)


@activity.defn
async def check_visa(number: int) -> bool:
    """Ask for the `number`-th time. Half of the answers say that the visa is there; the sixth always does."""
    await _call(f"visa {number}")
    return number == 6 or _draw(f"answer {number}", 1) < 128


async def _book(what: str, traveller: str) -> str:
    await _call(what)
    return f"{what} for {traveller}"


async def _call(what: str) -> None:
    """A quarter of the calls raise and an eighth hang. The attempt's identity decides which."""
    draw = _draw(what, activity.info().attempt)
    if draw < 64:
        raise ApplicationError(f"no answer about {what}", type="NoAnswer", category=ApplicationErrorCategory.BENIGN)
    await asyncio.sleep(30 if draw < 96 else 0.02)


def _draw(what: str, attempt: int) -> int:
    """A number from 0 to 255, which depends on nothing but the workflow's id, `what` and `attempt`."""
    return hashlib.sha256(f"{activity.info().workflow_id} {what} {attempt}".encode()).digest()[0]


async def run_trips(session: Session, trips: int = 20) -> tuple[str, str]:
    """Run `trips` trips beside the lab's own workers. Returns their namespace, and a query that finds only these.

    Raises TrellisError where this Temporal does not let the client register a namespace.
    """
    assert session.desk.stack is not None
    query = await session.awaiting(_run_trips(session.desk.stack.temporal, trips))
    return NAMESPACE, query


async def _run_trips(target: TemporalTarget, trips: int) -> str:
    client = await connect(target)
    try:
        await client.workflow_service.register_namespace(
            RegisterNamespaceRequest(
                namespace=NAMESPACE,
                workflow_execution_retention_period=timedelta(days=1),  # type: ignore[arg-type]
            )
        )
    except RPCError as error:
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED):
            raise TrellisError(
                f"At {target.address} this client may not register a namespace. Run this without TEMPORAL_ADDRESS and "
                f"TEMPORAL_PROFILE, on a local Temporal."
            ) from None
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise
    trips_client = await _ready(replace(target, namespace=NAMESPACE))
    calls: list[Callable[..., Any]] = [book_flight, book_hotel, book_car, check_visa]
    # The namespace may hold trips of an earlier run. A prefix of its own tells this run apart.
    prefix = f"trip-{uuid.uuid4().hex[:6]}-"
    async with Worker(trips_client, task_queue=QUEUE, workflows=[Trip], activities=calls, workflow_runner=RUNNER):
        await asyncio.gather(
            *(
                trips_client.execute_workflow(Trip.run, f"traveller {n}", id=f"{prefix}{n:02}", task_queue=QUEUE)
                for n in range(trips)
            )
        )
    query = f'WorkflowType = "Trip" AND WorkflowId STARTS_WITH "{prefix}"'
    async with asyncio.timeout(30):
        # The visibility store is updated a little after the workflow closes.
        while (await trips_client.count_workflows(f'{query} AND ExecutionStatus = "Completed"')).count < trips:
            await asyncio.sleep(0.1)
    return query


async def _ready(target: TemporalTarget) -> Client:
    """A client of the new namespace. The server's caches need a moment before they know it."""
    client = await connect(target, wait=30)
    async with asyncio.timeout(30):
        while True:
            try:
                await client.count_workflows()
            except RPCError:
                await asyncio.sleep(0.2)
            else:
                return client

"""Workflows that have nothing to do with orders: trips, in a namespace of their own, with calls that fail."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from dataclasses import replace
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from trellis.errors import TrellisError
from trellis.lab.session import Session
from trellis.stack import TemporalTarget, connect
from trellis.workers import RUNNER

NAMESPACE = "strangers"
QUEUE = "trips"


@workflow.defn(name="Trip")
class Trip:
    """Flight, hotel and car, one after the other; the server retries what fails."""

    @workflow.run
    async def run(self, traveller: str) -> list[str]:
        return [
            await workflow.execute_activity(
                booking,
                traveller,
                start_to_close_timeout=timedelta(seconds=1),
                retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=100), backoff_coefficient=1),
            )
            for booking in (book_flight, book_hotel, book_car)
        ]


@activity.defn
async def book_flight(traveller: str) -> str:
    return await _book("flight", traveller)


@activity.defn
async def book_hotel(traveller: str) -> str:
    return await _book("hotel", traveller)


@activity.defn
async def book_car(traveller: str) -> str:
    return await _book("car", traveller)


async def _book(what: str, traveller: str) -> str:
    """A quarter of the calls raise, an eighth hang: which, the attempt's identity decides."""
    info = activity.info()
    draw = hashlib.sha256(f"{info.workflow_id} {what} {info.attempt}".encode()).digest()[0]
    if draw < 64:
        raise ApplicationError(f"no {what} to be had", type="NoRoom", category=ApplicationErrorCategory.BENIGN)
    await asyncio.sleep(30 if draw < 96 else 0.02)
    return f"{what} for {traveller}"


async def travel(session: Session, trips: int = 20) -> tuple[str, str]:
    """Run so many trips beside the lab's own workers; returns their namespace and a query that finds these alone.

    Raises TrellisError where this Temporal lets nobody register the namespace.
    """
    assert session.desk.stack is not None
    query = await session.awaiting(_travel(session.desk.stack.temporal, trips))
    return NAMESPACE, query


async def _travel(target: TemporalTarget, trips: int) -> str:
    here = await connect(target)
    try:
        await here.workflow_service.register_namespace(
            RegisterNamespaceRequest(
                namespace=NAMESPACE,
                workflow_execution_retention_period=timedelta(days=1),  # type: ignore[arg-type]
            )
        )
    except RPCError as error:
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED):
            raise TrellisError(
                f"{target.address} lets this client register no namespace. Run this without TEMPORAL_ADDRESS and "
                f"TEMPORAL_PROFILE, on a local Temporal."
            ) from None
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise
    there = await _ready(replace(target, namespace=NAMESPACE))
    bookings = [book_flight, book_hotel, book_car]
    # Earlier trips of this workspace are there too: the ids say which belong together.
    journey = f"trip-{uuid.uuid4().hex[:6]}-"
    async with Worker(there, task_queue=QUEUE, workflows=[Trip], activities=bookings, workflow_runner=RUNNER):
        await asyncio.gather(
            *(
                there.execute_workflow(Trip.run, f"traveller {n}", id=f"{journey}{n:02}", task_queue=QUEUE)
                for n in range(trips)
            )
        )
    query = f'WorkflowType = "Trip" AND WorkflowId STARTS_WITH "{journey}"'
    async with asyncio.timeout(30):
        # Visibility lags behind.
        while (await there.count_workflows(f'{query} AND ExecutionStatus = "Completed"')).count < trips:
            await asyncio.sleep(0.1)
    return query


async def _ready(target: TemporalTarget) -> Client:
    """A client of the namespace, once the server's caches have heard of it."""
    client = await connect(target, wait=30)
    async with asyncio.timeout(30):
        while True:
            try:
                await client.count_workflows()
            except RPCError:
                await asyncio.sleep(0.2)
            else:
                return client

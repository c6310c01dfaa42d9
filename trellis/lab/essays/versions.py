"""Worker versioning: letters that stay with the build they began on, and letters that move to each new build."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import pandas as pd
from temporalio import activity
from temporalio.api.enums.v1 import EventType, RoutingConfigUpdateState, WorkflowTaskFailedCause
from temporalio.api.workflowservice.v1 import DescribeWorkerDeploymentRequest, SetWorkerDeploymentCurrentVersionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import VersioningBehavior, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker, WorkerDeploymentConfig

from trellis.errors import BadInput, TrellisError
from trellis.lab.session import Session
from trellis.workers import RUNNER
from trellis.workflows.letters import LetterOne, LetterThree, LetterTwo

T = TypeVar("T")

BUILDS = {1: LetterOne, 2: LetterTwo, 3: LetterThree}
BEHAVIOURS = {"pinned": VersioningBehavior.PINNED, "auto-upgrade": VersioningBehavior.AUTO_UPGRADE}
PATIENCE = 60.0


@activity.defn
async def fold(text: str) -> str:
    return f"{text}, folded"


@activity.defn
async def weigh(text: str) -> str:
    return f"{text}, weighed"


@activity.defn
async def seal(text: str) -> str:
    return f"{text}, sealed"


@activity.defn
async def carry(text: str) -> str:
    return f"{text}, carried"


class Letters:
    """Two deployments with the same code. In one, running letters are pinned to their build; in the other they move on.

    Workers of every build that was deployed go on working until `stop`, as a rolling deployment leaves them.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._workers = AsyncExitStack()
        # A name of its own: what an earlier run deployed does not count.
        self._run = uuid.uuid4().hex[:6]
        self._written: list[tuple[str, str]] = []

    @property
    def _client(self) -> Client:
        return self._session.desk.client

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it on the engine's thread. Raises TrellisError after a minute."""

        async def within() -> T:
            try:
                async with asyncio.timeout(PATIENCE):
                    return await work
            except TimeoutError:
                raise TrellisError("The letters did not get there within a minute. See `session.log`.") from None

        return self._session.do(within())

    def deploy(self, build: int) -> None:
        """Start workers of this build in both deployments, and make it the current one.

        Raises BadInput for a build that there is not, and TrellisError where the server has no worker versioning.
        """
        if build not in BUILDS:
            raise BadInput(f"There is no build {build!r}. Known are {', '.join(map(str, BUILDS))}.")
        self._do(self._deploy(build))

    async def _deploy(self, build: int) -> None:
        for name, behaviour in BEHAVIOURS.items():
            version = WorkerDeploymentVersion(self._queue(name), str(build))
            worker = Worker(
                self._client,
                task_queue=self._queue(name),
                workflows=[BUILDS[build]],
                activities=[fold, weigh, seal, carry],
                workflow_runner=RUNNER,
                deployment_config=WorkerDeploymentConfig(version, True, behaviour),
            )
            await self._workers.enter_async_context(worker)
            await self._make_current(version)

    async def _make_current(self, version: WorkerDeploymentVersion) -> None:
        request = SetWorkerDeploymentCurrentVersionRequest(
            namespace=self._client.namespace, deployment_name=version.deployment_name, build_id=version.build_id
        )
        while True:
            try:
                await self._client.workflow_service.set_worker_deployment_current_version(request)
            except RPCError as error:
                if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                    raise TrellisError(f"This Temporal cannot version workers: {error.message}") from None
                # The server learns of a version when its first worker polls.
                await asyncio.sleep(0.1)
            else:
                break
        asked = DescribeWorkerDeploymentRequest(
            namespace=self._client.namespace, deployment_name=version.deployment_name
        )
        while True:
            found = (await self._client.workflow_service.describe_worker_deployment(asked)).worker_deployment_info
            # A task that is dispatched before all queues know it may still go to the build before.
            if found.routing_config_update_state != RoutingConfigUpdateState.ROUTING_CONFIG_UPDATE_STATE_IN_PROGRESS:
                return
            await asyncio.sleep(0.1)

    def write(self) -> None:
        """Start one letter in each deployment, and wait until it is sealed and waits to be posted."""
        self._do(self._write())

    async def _write(self) -> None:
        for name in BEHAVIOURS:
            id_ = f"letter-{self._run}-{name}-{len(self._written)}"
            await self._client.start_workflow("Letter", "a letter", id=id_, task_queue=self._queue(name))
            self._written.append((id_, name))
            while (await self._types(id_)).count(EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) < 2:
                await asyncio.sleep(0.05)

    def post(self) -> None:
        """Post all letters. Wait until each has arrived, or its workflow task has failed."""
        self._do(self._post())

    async def _post(self) -> None:
        for id_, _ in self._written:
            handle = self._client.get_workflow_handle(id_)
            if (await handle.describe()).status is WorkflowExecutionStatus.RUNNING:
                await handle.signal("post")
        await self._settled(EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED)

    def arrive(self) -> None:
        """Wait until each letter has arrived."""
        self._do(self._settled())

    async def _settled(self, *enough: EventType.ValueType) -> None:
        ends = {EventType.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, *enough}
        for id_, _ in self._written:
            while not ends & set(await self._types(id_)):
                await asyncio.sleep(0.05)

    async def _types(self, id_: str) -> list[EventType.ValueType]:
        return [event.event_type for event in (await self._client.get_workflow_handle(id_).fetch_history()).events]

    def table(self) -> pd.DataFrame:
        """One row per letter: behaviour, builds [of its workflow tasks, in order], failed [workflow tasks that did not
        fit the history], letter [what arrived, "" before that]."""
        return pd.DataFrame(self._do(self._rows()))

    async def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for id_, name in self._written:
            handle = self._client.get_workflow_handle(id_)
            events = (await handle.fetch_history()).events
            builds = [
                event.workflow_task_completed_event_attributes.deployment_version.build_id
                for event in events
                if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
            ]
            failed = sum(
                event.workflow_task_failed_event_attributes.cause
                == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
                for event in events
            )
            done = (await handle.describe()).status is WorkflowExecutionStatus.COMPLETED
            rows.append({
                "behaviour": name, "builds": ", ".join(builds), "failed": failed,
                "letter": await handle.result() if done else "",
            })  # fmt: skip
        return rows

    def _queue(self, name: str) -> str:
        return f"letters-{self._run}-{name}"

    def stop(self) -> None:
        """End the workers of all builds."""
        self._do(self._workers.aclose())


def letters(session: Session) -> Letters:
    """Letters that are written, posted and carried by three builds of a worker. `stop()` ends their workers."""
    return Letters(session)

"""Deployments: workers of one version are replaced by workers of another one while orders run.

The other version is a copy of this package with an edit or two, in a folder of the workspace.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import ClassVar

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import WorkflowHistory
from temporalio.service import RPCError

from trellis.chaos.experiments import BROKEN_DEPLOY, VERSIONED_DEPLOY
from trellis.chaos.house import House
from trellis.chaos.nemeses.workers import refill
from trellis.chaos.nemesis import Nemesis
from trellis.driving import sample_order
from trellis.edited import Edit, package_copy
from trellis.errors import StackError
from trellis.messages import ORDER_WORKFLOW
from trellis.model import Order, State, workflow_id
from trellis.policies import preset

ODD_SIGNAL = "hurry"
"""A signal that no version knows. This version writes a refusal of it, under a patch; the one before ignored it."""

PATCHED = "core_patch"
"""The name of the marker that `workflow.patched` leaves."""

PATIENCE = 60.0


class _Deployed(Nemesis):
    """Workers of another version."""

    edits: tuple[Edit, ...]
    abruptly: ClassVar[bool] = False
    """Kill the old workers, so that what they had begun is left for the new ones. Else they may finish it."""
    replaces_workers = True

    def __init__(self) -> None:
        self._environment: dict[str, str] | None = None

    def why_not(self, house: House) -> str | None:
        return None if house.crew.working else "No worker runs in a process of its own, so none can be replaced."

    async def deploy_other(self, house: House) -> None:
        """Replace all workers by ones of the edited version."""
        made = await asyncio.to_thread(package_copy, house.settings.home / "other-version", self.edits)
        self._environment = dict(house.crew.environment)
        house.crew.environment.update(made)
        await self._replace(house)

    async def deploy_ours(self, house: House) -> None:
        """Replace all workers by ones of this version. Safe to call twice."""
        if self._environment is not None:
            house.crew.environment.clear()
            house.crew.environment.update(self._environment)
            self._environment = None
            await self._replace(house)

    async def _replace(self, house: House) -> None:
        ended = house.crew.kill if self.abruptly else house.crew.dismiss
        await asyncio.gather(*(ended(member) for member in list(house.crew.members)))
        await refill(house)

    async def heal(self, house: House) -> None:
        await self.deploy_ours(house)


class DeployBroken(_Deployed):
    """A version whose orders wait before the charge, and which cannot reach what they wait for.

    Orders past that point do not replay with it (a non-determinism error, NDE). Orders that reach the point fail their
    workflow task, so nothing of this version gets into a history, and the version before can take over again.
    """

    name = "deploy-broken"
    says = "A version is deployed that cannot replay the running orders; then the version before is deployed again."
    experiment = BROKEN_DEPLOY
    seconds = 4.0
    abruptly = True
    edits = (
        Edit(
            "trellis/workflows/order.py",
            "        self._charging = True\n        await self._outside(Step.CHARGE)\n",
            "        if not workflow.unsafe.is_replaying():\n"
            '            raise RuntimeError("the fraud check does not answer")\n'
            "        await workflow.sleep(1)\n"
            "        self._charging = True\n        await self._outside(Step.CHARGE)\n",
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        self._running: list[str] = []

    async def break_(self, house: House) -> None:
        # Without an order past the charge, no history would fail to replay.
        deadline = time.monotonic() + PATIENCE
        while not await house.runtime.desk.orders(state=State.SHIPPING, limit=1):
            if time.monotonic() > deadline:
                raise StackError("No order was being shipped for a minute, so a deployment would prove nothing.")
            await asyncio.sleep(0.02)
        await self.deploy_other(house)
        client = house.runtime.desk.client
        running = f"WorkflowType = '{ORDER_WORKFLOW}' AND ExecutionStatus = 'Running'"
        self._running = [one.id async for one in client.list_workflows(running)]
        for id_ in self._running:
            # An order whose shipping stood still with its worker would have no workflow task before the version ends.
            with suppress(RPCError):
                await client.get_workflow_handle(id_).signal(ODD_SIGNAL)

    async def landed(self, house: House) -> int:
        """How many workflow tasks failed because the history did not fit the code."""
        failed = 0
        for id_ in self._running:
            failed += sum(
                event.workflow_task_failed_event_attributes.cause
                == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR
                for event in (await _history(house, id_)).events
            )
        return failed


class DeployVersioned(_Deployed):
    """The version before this one, and then this one, which differs under `workflow.patched`.

    An order that got the odd signal under the version before goes on as that version would; one that gets it now
    refuses it in writing. Both complete, and no history fails to replay.
    """

    name = "deploy-versioned"
    says = "Orders run with the version before; then this version is deployed, whose change is under workflow.patched."
    experiment = VERSIONED_DEPLOY
    seconds = 0.0
    edits = (
        Edit(
            "trellis/workflows/requests.py",
            "        if not self._unreadable and workflow.patched(READ_BY_HAND):\n",
            "        if False:\n",
        ),
    )
    ORDERS = 4

    def __init__(self) -> None:
        super().__init__()
        self._before: list[Order] = []
        self._after: list[Order] = []

    async def break_(self, house: House) -> None:
        await self.deploy_other(house)
        orders = [sample_order("versioned") for _ in range(self.ORDERS)]
        self._before, self._after = orders[: self.ORDERS // 2], orders[self.ORDERS // 2 :]
        for order in orders:
            # A long review: the orders must wait while the workers are replaced.
            await house.runtime.desk.start(order, preset("patient"))
        for order in orders:
            await _until(house, order, EventType.EVENT_TYPE_TIMER_STARTED)
        await asyncio.gather(*(self._signal(house, order) for order in self._before))
        await self.deploy_ours(house)
        await asyncio.gather(*(self._signal(house, order) for order in self._after))
        for order in orders:
            await house.runtime.desk.approve(order.order_id)

    async def _signal(self, house: House, order: Order) -> None:
        """Send the odd signal, and wait until a worker has seen it."""
        await house.runtime.desk.client.get_workflow_handle(workflow_id(order.order_id)).signal(ODD_SIGNAL)
        await _until(
            house,
            order,
            EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
            after=EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED,
        )

    async def landed(self, house: House) -> int:
        """How many of its orders completed, each in the way of the version that saw the signal first."""
        right = 0
        for orders, patched in ((self._before, False), (self._after, True)):
            for order in orders:
                status = await house.runtime.desk.wait(order.order_id, PATIENCE)
                history = await _history(house, workflow_id(order.order_id))
                # Local activities leave markers, too.
                marked = any(event.marker_recorded_event_attributes.marker_name == PATCHED for event in history.events)
                right += status["state"] == State.COMPLETED and marked is patched
        return right


async def _history(house: House, id_: str) -> WorkflowHistory:
    return await house.runtime.desk.client.get_workflow_handle(id_).fetch_history()


async def _until(
    house: House, order: Order, event: EventType.ValueType, *, after: EventType.ValueType | None = None
) -> None:
    """Wait until the order's history has such an event, after one of the type `after`. Raises StackError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            types = [one.event_type for one in (await _history(house, workflow_id(order.order_id))).events]
        except RPCError:
            types = []
        begin = 0 if after is None else types.index(after) if after in types else len(types)
        if event in types[begin:]:
            return
        await asyncio.sleep(0.05)
    raise StackError(f"The workers did not go on with order {order.order_id} within {PATIENCE:.0f} s.")


ALL: tuple[type[Nemesis], ...] = (DeployVersioned, DeployBroken)

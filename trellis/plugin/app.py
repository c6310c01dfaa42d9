"""One worker with the plugin: its task queue, where its rows go, and the fault plan of its activities."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from temporalio.activity import Info

from trellis.faults import FaultPlan, PlanInForce
from trellis.flaky import FlakyCall
from trellis.outages import Capacity
from trellis.plugin.plans import narrowed, unknown
from trellis.plugin.rows import Attempt
from trellis.plugin.saying import Saying

if TYPE_CHECKING:
    from trellis.plugin.delivery import Delivery

ASKED = 2.0
"""How long a call waits for its place in a provider's queue to be known [s]. After that it finds no queue."""


class App:
    """`types`: the worker's activity types, None if it has a dynamic activity and so takes any. `own`: the plan that
    was given in code. `refused`: why faults may not be injected here, None if they may. `payloads`: note them too."""

    def __init__(
        self, namespace: str, queue: str, worker: str | None, types: tuple[str, ...] | None, *,
        own: FaultPlan | None, refused: str | None, payloads: bool, book: bool,
    ) -> None:  # fmt: skip
        self.namespace = namespace
        self.queue = queue
        self.worker = worker
        self.types = types
        self.payloads = payloads
        self.book = book
        self.own = own
        self.running = False
        self.delivery: Delivery | None = None
        self.saying = Saying()
        self.troubles = 0
        """How often an attempt could not be noted, or a fault not be injected, because of an error of ours."""
        self._refused = refused
        # One value, because the delivery's thread changes it: a call of the old plan must not get among the new one's.
        self._in_force: tuple[PlanInForce | None, dict[str, tuple[PlanInForce, FlakyCall]]] = None, {}

    def started(self) -> None:
        """The worker runs from now on: the outages of a plan in code begin."""
        if self.own is not None:
            self._put_in_force(PlanInForce(self.own, since=datetime.now(UTC)))

    def follow(self, force: PlanInForce | None) -> None:
        """The plan that the book holds for this app now. Of no use if the worker has one of its own."""
        if self.own is not None or force == self._in_force[0]:
            return
        if force is not None:
            if self._refused is not None:
                self.saying.once("refused", f"The stored fault plan of {self.queue} is ignored: {self._refused}")
                return
            if self.types is not None and (strange := unknown(force.plan, self.types)):
                self.saying.once(
                    "unknown",
                    f"The stored fault plan of {self.queue} names {', '.join(strange)}, which no activity type of this "
                    f"worker is called; that part has no effect.",
                )
        self._put_in_force(force)

    def _put_in_force(self, force: PlanInForce | None) -> None:
        self._in_force = force, {}

    def call(self, workflow_type: str) -> tuple[PlanInForce, FlakyCall] | None:
        """The plan for the calls of one workflow type, and what makes it happen. None: nothing is injected."""
        force, calls = self._in_force
        if force is None:
            return None
        found = calls.get(workflow_type)
        if found is None:
            own, places = narrowed(force, workflow_type, self.types or ())
            found = calls[workflow_type] = own, FlakyCall(lambda: force, partial(self._reserve, places))
        return found

    async def _reserve(self, places: dict[str, str], step: str, capacity: Capacity) -> float:
        place = places.get(step, step)
        try:
            if self.delivery is None:
                return capacity.seconds
            return await self.delivery.ask(
                lambda book: book.reserve(self.namespace, self.queue, place, capacity), ASKED
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.saying.once("queue", f"The queue of {place} is not simulated, because the book is away: {error}")
            return capacity.seconds

    def attempt(self, info: Info) -> Attempt:
        return Attempt(info, self.worker, self.delivery if self.book else None)

    def trouble(self, error: Exception) -> None:
        """An error of ours. It must not reach the user's activity."""
        self.troubles += 1
        self.saying.once("trouble", f"An attempt was not noted as it should be ({type(error).__name__}: {error}).")

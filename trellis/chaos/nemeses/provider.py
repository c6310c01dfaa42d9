"""Nemeses of the provider, the outside system that a step calls: out of service, or too small for the load."""

from __future__ import annotations

from abc import abstractmethod
from datetime import UTC, datetime
from typing import ClassVar

from trellis.chaos.experiments import DEPENDENCY, DOWNSTREAM_LOAD
from trellis.chaos.house import House
from trellis.chaos.nemesis import Nemesis
from trellis.db.recovering import Recovering
from trellis.faults import FaultPlan
from trellis.model import Step
from trellis.outages import HANGS, RAISES, Capacity, Outage

STEP = Step.CHARGE.value
"""The step whose provider is broken: it takes the money."""

LONG = 86_400.0
"""The window in the plan outlasts every run [s]. `heal` ends it by putting the plan before it in force again."""


class _Provider(Nemesis):
    """Another fault plan for a while. All workers follow it within a second."""

    marks: ClassVar[tuple[str, ...]]
    """What a try that met the fault carries in its event."""

    def __init__(self) -> None:
        self._before: FaultPlan | None = None
        self._since: datetime | None = None
        self._until: datetime | None = None

    @abstractmethod
    def changed(self, plan: FaultPlan) -> FaultPlan:
        """The plan with the fault in it."""

    async def break_(self, house: House) -> None:
        before = (await house.runtime.desk.faults()).plan
        self._since = datetime.now(UTC)
        self._before = before
        await house.set_plan(self.changed(before))

    async def heal(self, house: House) -> None:
        if self._before is not None:
            await house.set_plan(self._before)
            self._before = None
            self._until = datetime.now(UTC)

    async def landed(self, house: House) -> int:
        """How many tries carry the mark of the fault."""
        if self._since is None:
            return 0
        return await Recovering(house.runtime.pool).marked(self._since, datetime.now(UTC), *self.marks)


class ProviderRaises(_Provider):
    name: ClassVar[str] = "provider-raises"
    says: ClassVar[str] = "The payment provider is out of service: every call raises at once."
    experiment: ClassVar[str] = DEPENDENCY
    outage: ClassVar[bool] = True
    # A worker asks for the plan twice a second.
    lag_s: ClassVar[float] = 0.5
    marks: ClassVar[tuple[str, ...]] = ("outage",)
    how: ClassVar[str] = RAISES

    def changed(self, plan: FaultPlan) -> FaultPlan:
        return plan.with_outages(*plan.outages, Outage(0.0, LONG, self.how, STEP))


class ProviderHangs(ProviderRaises):
    name: ClassVar[str] = "provider-hangs"
    says: ClassVar[str] = "The payment provider is out of service: every call hangs, and its caller gives up."
    how: ClassVar[str] = HANGS


class ProviderSaturated(_Provider):
    name: ClassVar[str] = "provider-saturated"
    says: ClassVar[str] = "The payment provider serves two calls at once, 0.2 s each; the others wait in its queue."
    experiment: ClassVar[str] = DOWNSTREAM_LOAD
    marks: ClassVar[tuple[str, ...]] = ("queued",)

    capacity = Capacity(calls=2, seconds=0.2)

    def changed(self, plan: FaultPlan) -> FaultPlan:
        return plan.with_capacity(STEP, self.capacity)


ALL: tuple[type[Nemesis], ...] = (ProviderRaises, ProviderHangs, ProviderSaturated)

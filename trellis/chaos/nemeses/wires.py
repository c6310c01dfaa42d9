"""Wires between the workers and their servers: slow, cut, half-open, or with answers that are lost."""

from __future__ import annotations

from typing import ClassVar

from trellis.chaos.experiments import DEPENDENCY, NETWORK
from trellis.chaos.house import House
from trellis.chaos.nemesis import Nemesis
from trellis.chaos.wire import CUT, HALF_OPEN, PASS, Mode, lose_answers, slow


class OnWire(Nemesis):
    """The wire is in another mode for a while."""

    wire: ClassVar[str]
    mode: ClassVar[Mode]
    counts: ClassVar[tuple[str, ...]]
    """The wire's counts that show this fault. They are read before it is healed, because healing cuts, too."""

    def __init__(self) -> None:
        self._before: int | None = None
        self._landed = 0

    def why_not(self, house: House) -> str | None:
        if self.wire in house.wires:
            return None
        return "The workers reach the servers without a wire here. Start the lab with lab.start(workers=2)."

    async def break_(self, house: House) -> None:
        self._before = self._seen(house)
        house.wires[self.wire].mode = self.mode

    async def heal(self, house: House) -> None:
        self._landed = await self.landed(house)
        self._before = None
        house.wires[self.wire].mode = PASS

    async def landed(self, house: House) -> int:
        return self._landed + (0 if self._before is None else self._seen(house) - self._before)

    def _seen(self, house: House) -> int:
        return sum(getattr(house.wires[self.wire], name) for name in self.counts)


class PostgresSlow(OnWire):
    name = "postgres-wire-slow"
    says = "Each message between workers and Postgres arrives 50 ms later."
    experiment = DEPENDENCY
    wire = "postgres"
    mode = slow(0.05)
    counts = ("delayed",)


class PostgresCut(OnWire):
    name = "postgres-wire-cut"
    says = "The workers' connections to Postgres are cut, and new ones are refused."
    experiment = DEPENDENCY
    outage = True
    wire = "postgres"
    mode = CUT
    counts = ("cuts", "refused")


class PostgresHalfOpen(OnWire):
    name = "postgres-wire-half-open"
    says = "The workers' connections to Postgres stay open, and nothing passes in either direction."
    experiment = DEPENDENCY
    outage = True
    wire = "postgres"
    mode = HALF_OPEN
    counts = ("swallowed",)


class PostgresAnswersLost(OnWire):
    name = "postgres-wire-cut-after-commit"
    says = "Each third commit is made, but its answer is lost and its connection is cut."
    experiment = DEPENDENCY
    wire = "postgres"
    mode = lose_answers(3)
    counts = ("lost",)


class TemporalSlow(OnWire):
    name = "temporal-wire-slow"
    says = "Each message between workers and Temporal arrives 0.2 s later."
    wire = "temporal"
    mode = slow(0.2)
    counts = ("delayed",)


class TemporalCut(OnWire):
    name = "temporal-wire-cut"
    says = "The workers' connections to Temporal are cut, and new ones are refused."
    experiment = NETWORK
    outage = True
    # As measured: the SDK connects again after a pause that has grown.
    lag_s = 1.0
    wire = "temporal"
    mode = CUT
    counts = ("cuts", "refused")


class TemporalHalfOpen(OnWire):
    name = "temporal-wire-half-open"
    says = "The workers' connections to Temporal stay open, and nothing passes in either direction."
    experiment = NETWORK
    outage = True
    # As measured: polls that were under way are lost, and a keepalive must find that out.
    lag_s = 2.0
    wire = "temporal"
    mode = HALF_OPEN
    counts = ("swallowed",)


class TemporalAnswersLost(OnWire):
    name = "temporal-wire-cut-after-answer"
    says = "Temporal does what each twentieth call of a worker asks, but its answer is lost and the connection is cut."
    wire = "temporal"
    mode = lose_answers(20)
    counts = ("lost",)


ALL: tuple[type[OnWire], ...] = (
    PostgresSlow, PostgresCut, PostgresHalfOpen, PostgresAnswersLost,
    TemporalSlow, TemporalCut, TemporalHalfOpen, TemporalAnswersLost,
)  # fmt: skip

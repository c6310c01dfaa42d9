"""A finished try, as the ledger records it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from trellis.model import EventType, TryId


@dataclass(frozen=True)
class Tried:
    """One finished try: its identity, when it began, how long it took [ms], which worker ran it, under which fault
    plan, and the marks of what time and load did to it (`outage`, `queued`)."""

    id: TryId
    started_at: datetime
    duration_ms: float
    worker: str
    plan_version: int
    marks: Mapping[str, object] = field(default_factory=dict)

    def row(self) -> tuple[object, ...]:
        return (
            self.id.step, self.id.round, self.id.execution, self.id.try_, self.started_at, self.duration_ms,
            self.worker,
        )  # fmt: skip

    def payload(self) -> dict[str, object]:
        lane: dict[str, object] = {"lane": self.id.lane} if self.id.lane else {}
        return {"fault_plan": self.plan_version} | lane | {**self.marks}


@dataclass(frozen=True)
class FailedTry:
    """A try without success: failed, timed out or abandoned, and its error."""

    tried: Tried
    type: EventType
    error: str

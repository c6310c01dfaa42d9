"""A scenario as a value: what a run is asked for, and what each scenario of it showed."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from trellis.audit import Report
from trellis.chaos.house import Break
from trellis.chaos.moves import Moves
from trellis.chaos.nemesis import Nemesis
from trellis.chaos.recovery import Pace
from trellis.chaos.verdict import Verdict
from trellis.errors import BadInput
from trellis.faults import FaultPlan, Mix
from trellis.policies import Policy, preset

FIRST, LAST = 0.3, 0.45
"""Where in the run the first break comes, as a share of the time in which orders arrive. The seed draws it."""

ROOM = 0.6
"""The default rate is at most this share of what was measured. Above it a run would show an overloaded machine, whose
orders end late, and not what was broken."""

LONGEST = 0.55
"""The default length of a fault is at most this share of the run, so that it ends while orders arrive."""


def mild() -> FaultPlan:
    """The faults that are in force in every scenario: some calls fail or hang, and some replies are lost after the
    provider did its work, which is what makes a second charge likely."""
    lossy = Mix(error=0.1, hang=0.05, reply_lost=0.1)
    return FaultPlan(Mix(error=0.1, hang=0.05), steps=dict.fromkeys(("charge", "dispatch", "refund"), lossy)).check()


@dataclass(frozen=True)
class Options:
    """What all scenarios of a run share.

    orders, rate: how many orders, and how many a second. seconds: how long each fault lasts; None: as long as its
    nemesis says. every: break again every so many seconds; None: once. break_at: seconds until the first break; None:
    the seed draws it. keep: leave the folder of a scenario with violations. predicts: measure the pace first, and
    predict how long outages take to drain. slows: the rate may be lowered to what the machine can do.
    """

    orders: int = 60
    rate: float = 3.0
    seed: int = 0
    seconds: float | None = None
    every: float | None = None
    break_at: float | None = None
    policy: Policy = field(default_factory=lambda: preset("swift"))
    faults: FaultPlan = field(default_factory=mild)
    workers: int = 2
    keep: bool = False
    predicts: bool = True
    slows: bool = False

    def within(self, pace: Pace) -> Options:
        """The options at a rate that leaves room for a backlog to drain, if they allow another rate."""
        return replace(self, rate=min(self.rate, ROOM * pace.orders_per_s)) if self.slows else self

    @property
    def plan(self) -> FaultPlan:
        """The faults, drawn with the seed."""
        return replace(self.faults, seed=self.seed)

    @property
    def span(self) -> float:
        """How long orders arrive [s]."""
        return self.orders / self.rate

    def check(self) -> Options:
        """The options themselves. Raises BadInput."""
        after = self.span * (1 - LAST) if self.break_at is None else self.span - self.break_at
        if self.seconds is not None and not 0 <= self.seconds < after:
            raise BadInput(
                f"An outage of {self.seconds:g} s does not fit a run of {self.span:g} s ({self.orders} orders at "
                f"{self.rate:g}/s): it must end while orders still arrive. Give more orders, or a shorter outage."
            )
        if self.every is not None and self.every >= self.span:
            raise BadInput(
                f"A break every {self.every:g} s does not fit a run of {self.span:g} s. Give more orders or minutes."
            )
        return self

    def lasts(self, nemesis: type[Nemesis]) -> float:
        """How long this fault lasts [s]."""
        return min(nemesis.seconds, self.span * LONGEST) if self.seconds is None else self.seconds

    def schedule(self, name: str) -> list[float]:
        """When the breaks come, in seconds after the first order was due."""
        first = self.break_at
        if first is None:
            first = random.Random(f"break {self.seed} {name}").uniform(FIRST, LAST) * self.span
        if self.every is None:
            return [first]
        first = min(first, self.every / 2)
        return [first + self.every * number for number in range(math.ceil((self.span - first) / self.every))]


@dataclass
class Scenario:
    """What one scenario showed. Times `*_s` are seconds; None: not measured, or never.

    drained_s: see `recovery.drained`; predicted_s: the same, before the run. moves: see `moves.after_kill`.
    memory: see `memory.Memory`. ended_workers: processes that ended without being killed. folder: what was kept.
    trouble: why it did not come to its end, "" if it did.
    """

    name: str
    orders: int
    acknowledged: int
    verdict: Verdict
    drained_s: float | None
    predicted_s: float | None
    states: Counter[str]
    breaks: list[Break]
    moves: Moves
    memory: dict[str, dict[str, float]]
    ended_workers: list[str]
    began: float
    curve: list[tuple[float, int]]
    folder: Path | None = None
    trouble: str = ""

    @classmethod
    def failed(cls, name: str, orders: int, why: str) -> Scenario:
        """A scenario that could not be played to its end. It proves nothing."""
        return cls(
            name=name, orders=orders, acknowledged=0, verdict=Verdict(0, Report()), drained_s=None, predicted_s=None,
            states=Counter(), breaks=[], moves=Moves(), memory={}, ended_workers=[], began=0.0, curve=[], trouble=why,
        )  # fmt: skip

    @property
    def sentence(self) -> str:
        """The verdict with its numbers, or why there is none."""
        return f"VOID: it did not come to its end. {self.trouble}" if self.trouble else self.verdict.sentence

    @property
    def backlog(self) -> int:
        """The most orders that were due and had not ended."""
        return max((waiting for _, waiting in self.curve), default=0)

    def since(self, moment: datetime) -> float:
        """Seconds after the first order was due."""
        return moment.timestamp() - self.began

    def to_json(self) -> dict[str, Any]:
        def short(seconds: float | None) -> float | None:
            return None if seconds is None else round(seconds, 2)

        return {
            "name": self.name,
            "orders": self.orders,
            "acknowledged": self.acknowledged,
            "landed": self.verdict.landed,
            "violations": self.verdict.violations,
            "void": self.verdict.void,
            "drained_s": short(self.drained_s),
            "predicted_s": short(self.predicted_s),
            "states": dict(self.states),
            "backlog": self.backlog,
            "moved_s": short(self.moves.others_s),
            "after_heartbeat_s": short(self.moves.in_flight_s),
            "after_task_timeout_s": short(self.moves.task_s),
            "breaks": [
                {"began_s": short(self.since(one.began)), "healed_s": short(self.since(one.until))}
                for one in self.breaks
            ],
            "memory_mb": self.memory,
            "ended_workers": self.ended_workers,
            "found": self.verdict.listed(),
            "trouble": self.trouble,
            "kept": None if self.folder is None else str(self.folder),
        }


@dataclass(frozen=True)
class Skipped:
    """A scenario that this machine cannot stage. It is neither a pass nor a scenario."""

    name: str
    why: str


@dataclass
class Result:
    """pace: what was measured before the first scenario. rate: how many orders arrived a second."""

    scenarios: list[Scenario] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    pace: Pace | None = None
    rate: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "scenarios": [one.to_json() for one in self.scenarios],
            "skipped": [{"name": one.name, "why": one.why} for one in self.skipped],
        }

"""What an audit found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

KEPT = 1000
"""So many violations are kept. More are only counted."""


@dataclass(frozen=True)
class Violation:
    """One order, the invariant it breaks (1 to 11), what is wrong in words, and the figures behind it.

    Of an invariant of somebody's own: the id that its answer names, and the invariant's name.
    """

    order_id: str
    invariant: int | str
    sentence: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """An invariant of somebody's own that could not be checked, and why."""

    invariant: str
    error: str


@dataclass
class Report:
    """What an audit found. `void`: it found no order, or no history although it looked for some, so it proves nothing.

    `looked_at` counts the orders of the histories. At most 1,000 violations are kept; `found` counts them all.

    `own`: how many invariants of somebody's own were checked. `nothing_to_check`: those of them whose frames were all
    empty. `broken`: those that could not be checked. Where there are own invariants, they decide whether the audit is
    void: somebody else's workflows need no orders.
    """

    asked_for_histories: bool = True
    orders: int = 0
    charges: int = 0
    faults: int = 0
    histories: int = 0
    looked_at: int = 0
    violations: list[Violation] = field(default_factory=list)
    found: Counter[int | str] = field(default_factory=Counter)
    own: int = 0
    nothing_to_check: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)

    @property
    def void(self) -> bool:
        if self.own:
            return bool(self.nothing_to_check)
        return self.orders == 0 or (self.asked_for_histories and self.histories == 0)

    @property
    def without_history(self) -> int:
        """How many orders had no history to check: Temporal has deleted it, or the query left it out."""
        return max(0, self.orders - self.looked_at) if self.asked_for_histories else self.orders

    @property
    def clean(self) -> bool:
        return not self.void and not self.found and not self.broken

    def add(self, findings: list[Violation]) -> None:
        for violation in findings:
            self.found[violation.invariant] += 1
            if len(self.violations) < KEPT:
                self.violations.append(violation)

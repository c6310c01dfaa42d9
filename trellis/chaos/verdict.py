"""What a fault proved: clean, violated, or void because it never landed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trellis.audit import GRACE, Report, Violation, audit
from trellis.chaos.arrivals import Arrival
from trellis.chaos.house import House
from trellis.policies import Policy

LOST, LATE = 0, 8
"""The invariant that a finding of the run itself breaks. 0: what was acknowledged is lost; 8 is the audit's own."""


@dataclass(frozen=True)
class Verdict:
    """`landed`: how many faults landed. `report`: the audit of the workspace. `findings`: what the run itself saw."""

    landed: int
    report: Report
    findings: tuple[Violation, ...] = ()

    @property
    def violations(self) -> int:
        return sum(self.report.found.values()) + len(self.findings)

    @property
    def void(self) -> bool:
        """Nothing was proved: no fault landed, or there was nothing to audit."""
        return self.landed == 0 or self.report.void

    @property
    def word(self) -> str:
        """VIOLATED, VOID or CLEAN. A violation counts even if no fault landed."""
        return "VIOLATED" if self.violations else "VOID" if self.void else "CLEAN"

    @property
    def sentence(self) -> str:
        """The verdict with its numbers, for people."""
        seen = f"{self.report.orders} orders, {self.report.charges} charges, {self.report.histories} histories"
        if self.violations:
            first = [*self.findings, *self.report.violations][0]
            return f"VIOLATED: {self.violations} violations in {seen}. Order {first.order_id}: {first.sentence}."
        if self.landed == 0:
            return f"VOID: no fault landed, so this proves nothing ({seen})."
        if self.report.void:
            return f"VOID: there was nothing to audit ({seen})."
        return f"CLEAN: 0 violations in {seen}; {self.landed} faults landed."

    def listed(self, most: int = 20) -> list[dict[str, Any]]:
        """The first violations as JSON."""
        return [asdict(one) for one in [*self.findings, *self.report.violations][:most]]


async def judge(
    house: House,
    landed: int,
    acknowledged: Sequence[Arrival] = (),
    *,
    policy: Policy | None = None,
    outage_s: float = 0.0,
    query: str = "",
) -> Verdict:
    """Audit the workspace of `house`, and check that every acknowledged order ended in its time.

    policy, outage_s: an order may take its budget, plus all outages, plus its compensation. query: narrows the
    histories, as for `audit`. Raises TemporalUnavailable, DatabaseUnavailable.
    """
    report = await audit(house.runtime.desk.client, house.runtime.pool, query=query)
    return Verdict(landed, report, tuple(_unkept(acknowledged, policy, outage_s)))


def _unkept(acknowledged: Sequence[Arrival], policy: Policy | None, outage_s: float) -> list[Violation]:
    """Acknowledged orders that were lost, never ended, or ended too late."""
    found = []
    for one in acknowledged:
        assert one.acknowledged is not None
        id_ = one.order.order_id
        if one.state is None:
            found.append(Violation(id_, LOST, "it was acknowledged, and the ledger does not have it", {}))
        elif one.ended is None:
            found.append(Violation(id_, LATE, "it was acknowledged, and it has not ended", {"state": str(one.state)}))
        elif policy is not None and one.ended - one.acknowledged > policy.budget + outage_s + GRACE:
            took = {"seconds": round(one.ended - one.acknowledged, 1), "budget": policy.budget, "outage": outage_s}
            found.append(Violation(id_, LATE, "it ended later than its budget, the outage and its compensation", took))
    return found

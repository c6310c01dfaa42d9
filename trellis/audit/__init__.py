"""The audit: eleven invariants over the two books (the ledger and the provider's records) and Temporal's histories.

 1 at most one charge per order at the provider
 2 the provider kept the order's total if it shipped, and nothing if it did not
 3 nothing ships unpaid, twice, or to another address than the order's
 4 the provider's charges and our payments agree, both ways
 5 events follow legal edges, are unique, and none is missing for a completed activity
 6 the ledger's terminal state is the workflow's close status
 7 one workflow per order
 8 nothing is open past its budget
 9 every acknowledged request left a trace in the ledger
10 every history can be read, and replays
11 one worker at a time tries a step, and only while it may: a refused call is not made again, a worker from which
   Temporal took the step stops, and Temporal watches every step, so that another worker takes over a lost one

It streams: a batch of orders, then one history at a time, so memory does not grow with their number.

Two successful executions of one step are no violation. If a worker's answer is late, Temporal gives the step to another
one, and both may succeed: the idempotency key and the ledger's functions let the second change nothing.

Invariants of your own, about orders or any other workflows, are functions with `@invariant` (see `trellis.audit.own`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from temporalio.client import Client

from trellis.audit.histories import Histories
from trellis.audit.own import Frames, Invariant, check_own, invariant, invariants_of
from trellis.audit.report import Broken, Report, Violation
from trellis.db.audit import AuditBooks
from trellis.db.pool import Pool
from trellis.db.rows import FindingRow

__all__ = ["GRACE", "Broken", "Invariant", "Report", "Violation", "audit", "invariant", "invariants_of"]

GRACE = 15.0
"""How long past its budget an order may need to begin its compensation on a busy machine [s]."""


async def audit(
    client: Client,
    pool: Pool,
    *,
    histories: bool = True,
    query: str = "",
    grace: float = GRACE,
    tick: Callable[[int], None] = lambda orders: None,
    own: Sequence[Invariant] = (),
) -> Report:
    """Check all invariants. Without `histories`, check only those of the two books (1 to 5, 8, and tries of 11).

    `query` narrows the histories by a visibility query, such as `StartTime > "2026-01-01T00:00:00Z"`.

    `own`: further invariants (`invariants_of(module)`). Their frames of histories hold what `query` finds, or all.

    `tick` gets the number of orders or histories just checked. Orders may run meanwhile: what looks wrong is checked
    again after a second. Raises TemporalUnavailable, DatabaseUnavailable.
    """
    books = AuditBooks(pool, grace=grace)
    report = Report(asked_for_histories=histories)
    report.orders, report.charges, report.faults = await books.counts()
    async for number, findings in books.batches():
        report.add(_violations(findings))
        tick(number)
    report.add(_violations(await books.strays()))
    if histories:
        await Histories(client, books, report, tick, query, grace).run()
    if own:
        await check_own(own, Frames(client, str(pool.conninfo), query), report, tick)
    return report


def _violations(findings: list[FindingRow]) -> list[Violation]:
    return [Violation(f.order_id, f.invariant, f.sentence, f.evidence) for f in findings]

"""How events, durations and audits look in a terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from trellis.cli.common import out

if TYPE_CHECKING:
    from trellis.audit import Report


_MARKS = {
    "ATTEMPT_FAILED": "red",
    "ATTEMPT_TIMED_OUT": "yellow",
    "ATTEMPT_ABANDONED": "dim",
    "ORDER_COMPLETED": "bold green",
}


def print_event(event: dict[str, Any], since: datetime) -> None:
    after = (when(event["ts"]) - since).total_seconds()
    attempt = f"attempt {event['attempt']}" if event["attempt"] else ""
    payload = event["payload_json"]
    note = payload.get("error") or payload.get("tracking") or payload.get("reason") or ""
    if note and "request" in payload:
        note = f"{payload['request']}: {note}"
    out.print(
        f"  {after:6.2f} s  [{_MARKS.get(event['type'], 'default')}]{event['type']:<20}[/]  "
        f"{event['step'] or '':<9} {attempt:<11} {escape(str(note))}",
        highlight=False,
        markup=True,
        soft_wrap=True,
    )


def when(ts: datetime | str) -> datetime:
    return datetime.fromisoformat(ts) if isinstance(ts, str) else ts


def spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        "max": round(ordered[-1], 3),
    }


def report_json(report: Report) -> dict[str, Any]:
    return {
        "verdict": _verdict(report),
        "orders": report.orders,
        "charges": report.charges,
        "faults": report.faults,
        "histories": report.histories,
        "orders_without_history": report.without_history,
        "violations": [asdict(violation) for violation in report.violations],
        "violations_by_invariant": {
            str(number): count
            for number, count in sorted(report.found.items(), key=lambda one: (isinstance(one[0], str), one[0]))
        },
        "own": {
            "checked": report.own, "nothing_to_check": report.nothing_to_check,
            "broken": [asdict(broken) for broken in report.broken],
        },
    }  # fmt: skip


def _verdict(report: Report) -> str:
    if report.found:
        return "VIOLATED"
    return "BROKEN" if report.broken else "VOID" if report.void else "CLEAN"


def print_report(report: Report) -> None:
    seen = (
        f"{report.orders} orders, {report.charges} charges, {report.faults} tries that failed, "
        f"{report.histories} histories"
    )
    if report.asked_for_histories and report.without_history:
        seen += f"; {report.without_history} orders have no history that was checked"
    for broken in report.broken:
        out.print(f"BROKEN: {broken.invariant}: {broken.error}", highlight=False, soft_wrap=True)
    if report.own:
        seen += f"; {report.own} invariants of your own"
        for name in report.nothing_to_check:
            out.print(f"VOID: there was nothing to check for {name!r}.", highlight=False, soft_wrap=True)
    elif report.void and not report.found:
        missing, what_to_do = ("order", "Run some with `trellis load`.")
        if report.orders:
            missing, what_to_do = ("history", "Correct --query, or the address of Temporal, or give --no-histories.")
        out.print(f"VOID: there was no {missing} to check, so the audit proves nothing. {what_to_do} ({seen})")
        return
    if report.violations:
        table = Table("order", "invariant", "what is wrong", "evidence")
        for violation in report.violations[:50]:
            table.add_row(violation.order_id, str(violation.invariant), violation.sentence, str(violation.evidence))
        out.print(table)
    total = sum(report.found.values())
    out.print(f"{_verdict(report)}: {total} violation{'s' * (total != 1)} in {seen}.", highlight=False, soft_wrap=True)

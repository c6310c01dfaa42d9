"""How often the doctor is right: planted misconfigurations among sound apps, on a real server.

Thresholds were set on seeds below 100, of made frames and of this benchmark. Seeds from 100 on were not looked at for
that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trellis import runtime
from trellis.bench.clinic import running
from trellis.bench.clinic.cases import LASTS, Case, cases
from trellis.config import Settings
from trellis.doctor import examine
from trellis.insight.doctor import Report


async def run(
    settings: Settings, seed: int, each: int | None, tick: Callable[[int], None], *, lasts: float = LASTS
) -> dict[str, Any]:
    """Run all cases of a seed, or `each` of each kind, let the doctor judge them, and count."""
    all_ = cases(seed, each)
    with runtime.workspace(settings, own_servers=True) as own, _silent("temporalio"):
        async with runtime.opened(own, start=True) as opened:
            client = opened.desk.client
            async with running.workers(client, all_):
                await running.run(client, all_, seed, lasts, tick)
                began = time.perf_counter()
                report = await examine(client, limit=10_000, read_book=False)
                took = time.perf_counter() - began
                await running.end(client)
    return judged(all_, report) | {
        "workflows": report.workflows,
        "attempts": report.attempts,
        "seconds": round(took, 1),
    }


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Log nothing under this name in the block: hundreds of failures are planted."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def judged(all_: list[Case], report: Report) -> dict[str, Any]:
    """Compare a report with what was planted. A finding is right if its case was planted with that rule; a second
    finding about a case is false, even if it can be argued for."""
    planted = {number: case.rule for number, case in enumerate(all_) if case.rule is not None}
    said: dict[int | None, list[str]] = {}
    for finding in report.findings:
        said.setdefault(running.case_of(finding.subject), []).append(finding.rule)
    found = [number for number, rule in planted.items() if rule in said.get(number, [])]
    wrong = [
        {"case": number, "planted": planted.get(number) if number is not None else None, "said": rule}
        for number, rules in said.items()
        for rule in rules
        if number is None or planted.get(number) != rule
    ]
    missed = [{"case": number, "planted": rule} for number, rule in planted.items() if number not in found]
    right = len(found)
    return {
        "planted": len(planted), "found": right, "sound": len(all_) - len(planted), "false": len(wrong),
        "precision": round(right / max(1, right + len(wrong)), 4), "recall": round(right / max(1, len(planted)), 4),
        "missed": missed, "wrong": wrong,
    }  # fmt: skip

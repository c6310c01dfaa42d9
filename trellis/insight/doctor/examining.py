"""All rules over the evidence: one finding for a cause, the costliest first."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from trellis.insight.doctor.evidence import evidence
from trellis.insight.doctor.finding import Finding, Report


def doctor(
    history: pd.DataFrame | None = None,
    book: pd.DataFrame | None = None,
    queues: pd.DataFrame | None = None,
    *,
    now: datetime | None = None,
) -> Report:
    """What these frames say about the timeouts, retry policies and workers of the activities in them.

    `history`: a frame of `insight.history`. `book`: a frame of `insight.flights`; where it has a run's activities, they
    are read from it, because a history does not hold every attempt. `queues`: what is known about task queues, as
    `trellis.doctor.examine` collects it; without it no queue is said to be unpolled. `now`: when the frames were read
    [with a time zone]; None: now.

    Raises BadInput for frames of another kind. The rules are in `trellis.insight.doctor.rules`. Each says in its
    docstring what evidence it needs, and is silent without it.
    """
    # The rules need scipy, which takes half a second to import, and most who import `trellis.insight` need no doctor.
    from trellis.insight.doctor.rules import RULES

    found = evidence(history, book, queues, now)
    findings: dict[tuple[str, str], Finding] = {}
    for rule in RULES:
        mine: dict[tuple[str, str], Finding] = {}
        for one in rule.judge(found):
            key = rule.cause, one.subject
            if key in findings or (key in mine and mine[key].cost >= one.cost):
                continue
            mine[key] = one
        findings |= mine
    notes = list(found.notes)
    if book is None:
        notes.append(
            "There is no book of attempts: attempts before the last one were judged by their number and by the failure "
            "of the one before the last."
        )
    if queues is None:
        notes.append("Nobody asked who polls the queues, so no queue was judged.")
    return Report(
        findings=tuple(sorted(findings.values(), key=lambda one: (-one.cost, one.subject))),
        workflows=int(pd.concat([found.workflows["run_id"], found.attempts["run_id"]]).nunique()),
        attempts=len(found.attempts),
        judged=tuple(sorted(set(found.attempts["activity_type"]))),
        notes=tuple(notes),
    )

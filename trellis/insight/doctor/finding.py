"""What the doctor says: one finding, and the report of all."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

AN_HOUR = 3600.0
"""In the ranking, a workflow that fails or stands still counts as so many lost seconds."""


@dataclass(frozen=True)
class Predicted:
    """What the change would do: `measure` names a quantity, `now` is its value as things are, `then` with the option
    set. Infinite: never; None where nothing can be computed."""

    measure: str
    now: float | None
    then: float | None

    def words(self) -> str:
        if self.now is None and self.then is None:
            return self.measure
        return f"{self.measure}: {_number(self.now)} now, {_number(self.then)} then"


@dataclass(frozen=True)
class Finding:
    """One cause of lost time or of failures, and what to set.

    `rule`: the rule's name. `activity_type`: None where the finding is about a workflow type (`workflow_type`) or
    about a queue that serves several types. `evidence`: numbers by name, and `says`, a sentence that holds them.
    `option`: the option's name in the SDK. `set`: what to set it to, as Python code or in words. `hurt`: the share of
    the workflows read that fail or stand still by it. `seconds`: the seconds that it costs a workflow on average.
    """

    rule: str
    activity_type: str | None
    workflow_type: str | None
    evidence: dict[str, Any]
    option: str
    set: str
    predicted: Predicted
    hurt: float = 0.0
    seconds: float = 0.0

    @property
    def cost(self) -> float:
        """Seconds lost per workflow, by which findings are ranked."""
        return self.hurt * AN_HOUR + self.seconds

    @property
    def subject(self) -> str:
        return self.activity_type or self.workflow_type or str(self.evidence.get("queue", ""))

    def to_json(self) -> dict[str, Any]:
        return {
            "activity_type": self.activity_type, "workflow_type": self.workflow_type, "rule": self.rule,
            "evidence": self.evidence, "option": self.option, "set": self.set,
            "predicted": {
                "measure": self.predicted.measure, "now": _finite(self.predicted.now),
                "then": _finite(self.predicted.then),
            },
            "cost": round(self.cost, 3),
        }  # fmt: skip

    def words(self) -> str:
        return (
            f"{self.subject}: {self.evidence['says']} Set {self.option}: {self.set}. "
            f"Predicted: {self.predicted.words()}."
        )


@dataclass(frozen=True)
class Report:
    """The findings, the costliest first. `notes`: what was not read, and what could not be judged.

    `workflows`, `attempts`: how many runs and attempts were judged. `judged`: the activity types among them.
    """

    findings: tuple[Finding, ...]
    workflows: int
    attempts: int
    judged: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def frame(self) -> pd.DataFrame:
        """One row per finding: activity_type, workflow_type, rule, says, option, set, predicted, cost [s/workflow]."""
        rows = [
            {
                "activity_type": one.activity_type, "workflow_type": one.workflow_type, "rule": one.rule,
                "says": one.evidence["says"], "option": one.option, "set": one.set,
                "predicted": one.predicted.words(), "cost": one.cost,
            }
            for one in self.findings
        ]  # fmt: skip
        columns = ["activity_type", "workflow_type", "rule", "says", "option", "set", "predicted", "cost"]
        return pd.DataFrame(rows, columns=columns)

    def to_json(self) -> dict[str, Any]:
        return {
            "findings": [one.to_json() for one in self.findings], "workflows": self.workflows,
            "attempts": self.attempts, "activity_types": list(self.judged), "notes": list(self.notes),
        }  # fmt: skip

    def words(self) -> str:
        of = (
            f"{_counted(self.workflows, 'workflow')} with {_counted(self.attempts, 'attempt')} of "
            f"{_counted(len(self.judged), 'activity type')}"
        )
        head = f"{_counted(len(self.findings), 'finding')} in {of}."
        lines = [f"{number}. {one.words()}" for number, one in enumerate(self.findings, 1)]
        return "\n".join([head, *lines, *self.notes])

    def __str__(self) -> str:
        return self.words()

    def _repr_html_(self) -> str:
        head, *rest = self.words().split("\n")
        notes = rest[len(self.findings) :]
        rows = "".join(
            f"<tr><td>{html.escape(one.subject)}</td><td>{html.escape(one.rule)}</td>"
            f"<td>{html.escape(one.evidence['says'])}</td><td><code>{html.escape(one.option)}</code></td>"
            f"<td><code>{html.escape(one.set)}</code></td><td>{html.escape(one.predicted.words())}</td></tr>"
            for one in self.findings
        )
        titles = _cells(["", "rule", "evidence", "option", "set", "predicted"])
        table = f"<table><thead>{titles}</thead><tbody>{rows}</tbody></table>" if rows else ""
        return f"<p>{html.escape(head)}</p>{table}" + "".join(f"<p>{html.escape(one)}</p>" for one in notes)


def _cells(titles: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<th>{one}</th>" for one in titles) + "</tr>"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _number(value: float | None) -> str:
    if value is None:
        return "not known"
    return "never" if math.isinf(value) else f"{value:,.3g}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value

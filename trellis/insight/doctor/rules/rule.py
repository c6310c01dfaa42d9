"""What a rule is: a class that looks at evidence and says what it found, or nothing."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from trellis.insight.doctor.evidence import Evidence, Group
from trellis.insight.doctor.finding import Finding, Predicted


class Rule(ABC):
    """`name`: what the finding is called. `cause`: rules with the same cause explain the same observations, and only
    the first of them in the table speaks about an activity type."""

    name: ClassVar[str]
    cause: ClassVar[str]

    @abstractmethod
    def judge(self, evidence: Evidence) -> Iterator[Finding]:
        """The findings. Nothing where the evidence is thin."""


class ActivityRule(Rule):
    """A rule that looks at one activity type at a time."""

    local: ClassVar[bool] = False
    """Whether it judges local activities too. The worker times them, not the server."""

    def judge(self, evidence: Evidence) -> Iterator[Finding]:
        for group in evidence.groups:
            if (self.local or not group.local) and (found := self.of(group)) is not None:
                yield found

    @abstractmethod
    def of(self, group: Group) -> Finding | None:
        """The finding about one activity type and its options."""

    def finding(
        self, group: Group, option: str, value: str, predicted: Predicted, *, says: str, hurt: float = 0.0,
        seconds: float = 0.0, **numbers: Any,
    ) -> Finding:  # fmt: skip
        """`hurt`: the number of workflows; `seconds`: seconds lost, in all of them together."""
        plain = {name: _plain(value) for name, value in numbers.items()}
        return Finding(
            rule=self.name, activity_type=group.name, workflow_type=group.workflow_type, option=option, set=value,
            evidence={"says": says, **plain}, predicted=predicted, hurt=min(1.0, hurt / group.workflows),
            seconds=seconds / group.workflows,
        )  # fmt: skip


def _plain(value: Any) -> Any:
    """A number as JSON has it, with few digits."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.4g}")


def per_cent(share: float) -> str:
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.0f} %"


def several(number: int, noun: str) -> str:
    """A number with its noun, which gets an s where it needs one."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"

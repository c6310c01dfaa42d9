"""An experiment: one fault that was staged on purpose, and the verdict of the audit on it, as a card shows it."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pandas as pd

from trellis.lab.control_room.rows import millis

if TYPE_CHECKING:
    from trellis.audit import Report
    from trellis.chaos.verdict import Verdict

_WORDS = {"CLEAN": "clean", "VIOLATED": "violations", "VOID": "void"}


class Phase(StrEnum):
    BREAKING = "breaking"
    BROKEN = "broken"
    HEALING = "healing"
    RECOVERING = "recovering"
    AUDITING = "auditing"
    OVER = "over"


@dataclass(eq=False)
class Experiment:
    """One fault, and what became of the orders. Times are UTC.

    open_orders: orders that were under way when it was healed, without those that wait for a person's approval.
    still_open: how many of them had not ended when the audit began. recovered_s: seconds from the heal until the last
    of them ended. judged: the verdict of the audit, None where there was none. trouble: what did not work.
    """

    name: str
    says: str
    number: int = 0
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    phase: Phase = Phase.BREAKING
    broken: datetime | None = None
    healed: datetime | None = None
    open_orders: int = 0
    still_open: int = 0
    recovered_s: float | None = None
    judged: Verdict | None = None
    trouble: str = ""

    @property
    def title(self) -> str:
        return self.name.replace("-", " ").capitalize()

    @property
    def verdict(self) -> str:
        """clean, violations or void; "" until the experiment is over. Void: no fault landed, or nothing was audited."""
        if self.phase is not Phase.OVER:
            return ""
        return "void" if self.judged is None else _WORDS[self.judged.word]

    @property
    def landed(self) -> int:
        """How many faults demonstrably landed. 0 until the audit."""
        return 0 if self.judged is None else self.judged.landed

    @property
    def report(self) -> Report | None:
        """What the audit found. None until it has ended, or if there was none."""
        return None if self.judged is None else self.judged.report

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, or what happens now."""
        report = self.report
        if self.phase is not Phase.OVER:
            return {
                Phase.BREAKING: "It is being broken.",
                Phase.BROKEN: self.says,
                Phase.HEALING: "It is being healed.",
                Phase.RECOVERING: f"Healed. Waiting for {_orders(self.still_open)} that {_were(self.still_open)} open.",
                Phase.AUDITING: "Healed. The audit compares both books and the histories.",
            }[self.phase]
        if self.verdict == "violations":
            assert report is not None
            return f"The audit found {report.found.total()} violations of {len(report.found)} invariants."
        if report is None:
            return f"There was no audit: {self.trouble}"
        if not self.landed:
            return "No fault landed, so this proves nothing. Start orders, and break it while they run."
        if report.void:
            return "No order ran meanwhile, so this proves nothing. Start orders, and break it while they run."
        rest = f" {_orders(self.still_open)} still open." if self.still_open else ""
        return f"No invariant is broken: both books and the histories agree.{rest}"

    @property
    def numbers(self) -> list[tuple[str, str]]:
        """The figures of the card: (what, how much)."""
        found = [("broken for", f"{self.broken_s:.1f} s"), ("faults that landed", f"{self.landed:,}")]
        found.append(("orders open when healed", f"{self.open_orders:,}"))
        if self.recovered_s is not None:
            found.append(("the last of them ended after", f"{self.recovered_s:.1f} s"))
        if self.still_open:
            found.append(("orders still open", f"{self.still_open:,}"))
        if self.report is not None:
            found += [
                ("orders in the books", f"{self.report.orders:,}"),
                ("charges at the provider", f"{self.report.charges:,}"),
                ("histories replayed", f"{self.report.histories:,}"),
                ("violations", f"{self.report.found.total():,}"),
            ]
        return found

    @property
    def broken_s(self) -> float:
        return ((self.healed or datetime.now(UTC)) - self.began).total_seconds()

    @property
    def violations(self) -> list[str]:
        """The first violations in words."""
        kept = self.report.violations if self.report is not None else []
        return [f"Order {one.order_id}, invariant {one.invariant}: {one.sentence}" for one in kept[:3]]

    def to_json(self) -> dict[str, Any]:
        """What the page draws. Times are milliseconds since the epoch, or None."""
        began = millis(self.began) or 0
        return {
            "id": self.number, "name": self.name, "title": self.title, "phase": str(self.phase), "began": began,
            "until": began + int(self.seconds * 1000), "healed": millis(self.healed), "verdict": self.verdict,
            "sentence": self.sentence, "numbers": self.numbers, "violations": self.violations,
            "trouble": self.trouble,
        }  # fmt: skip

    def __repr__(self) -> str:
        lines = [f"{self.title}: {self.verdict or self.phase}", self.sentence]
        lines += [f"  {what}: {how_much}" for what, how_much in self.numbers] + self.violations
        return "\n".join(lines + [self.trouble] * bool(self.trouble))

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><td style="text-align:left">{html.escape(what)}</td><td>{how_much}</td></tr>'
            for what, how_much in self.numbers
        )
        more = "".join(f"<div>{html.escape(line)}</div>" for line in [*self.violations, self.trouble] if line)
        head = f"<b>{html.escape(self.title)}: {self.verdict or self.phase}</b>"
        return f"{head}<div>{html.escape(self.sentence)}</div><table>{cells}</table>{more}"


def frame(experiments: Iterable[Experiment]) -> pd.DataFrame:
    """One row for each. Columns: name [string], began, healed [UTC], landed [int], verdict [string]."""
    rows = [(one.name, one.began, one.healed, one.landed, one.verdict) for one in experiments]
    found = pd.DataFrame(rows, columns=["name", "began", "healed", "landed", "verdict"])
    kinds = {"name": "string", "landed": "int64", "verdict": "string"}
    return found.astype(kinds | dict.fromkeys(("began", "healed"), "datetime64[us, UTC]"))


def _orders(number: int) -> str:
    return f"{number:,} order" + "s" * (number != 1)


def _were(number: int) -> str:
    return "was" if number == 1 else "were"

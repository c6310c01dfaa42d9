"""What a check found, as an object, as sentences and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["fits", "breaks", "other input"]

FITS: Verdict = "fits"
BREAKS: Verdict = "breaks"
OTHER_INPUT: Verdict = "other input"


@dataclass(frozen=True)
class Finding:
    """What a replay of one history said. `event`, `history` (what the history has there) and `code` (what the new code
    asked for) are of the first difference; `file` and `line` of the line that asked, where it is known."""

    verdict: Verdict
    event: int | None = None
    history: str | None = None
    code: str | None = None
    file: str | None = None
    line: int | None = None

    @property
    def at(self) -> str:
        """The line as `order.py:150`, or nothing."""
        return "" if self.file is None else f"{Path(self.file).name}:{self.line}"


@dataclass(frozen=True)
class Checked:
    """One path. `histories`: how many histories went this way, `open` of them still running. `example`: the workflow id
    of one of them."""

    workflow_type: str
    histories: int
    open: int
    example: str
    finding: Finding

    def words(self) -> str:
        one = f"{self.workflow_type}, {_count(self.histories, 'history', 'histories')} like {self.example}"
        if self.open:
            one += f" ({self.open:,} open)"
        found = self.finding
        if found.verdict == FITS:
            return f"fits: {one}"
        asked = f", {found.at}" if found.at else ""
        begin = "breaks" if found.verdict == BREAKS else "other input"
        at = f" at event {found.event}" if found.event else ""
        return f"{begin}{at}: {one}\n  history: {found.history}\n  new code: {found.code}{asked}"


@dataclass(frozen=True)
class Proposal:
    """A change to the new code that keeps old histories: a unified diff, never applied.

    old: how many old histories were replayed with it, all without a break. new: what the new code did with it on a
    throw-away server.
    """

    diff: str
    old: int
    new: str


@dataclass(frozen=True)
class Report:
    """What a check of a module found.

    skipped: histories of workflow types that the module does not define. open_breaking: how many open workflows would
    break if the code was deployed now, among those that were replayed. unrun_lines: changed lines that no history ran,
    (file, line); None without the old source. notes: what the reader must know besides, such as that only a sample was
    replayed.
    """

    module: str
    skipped: int
    paths: tuple[Checked, ...]
    open_breaking: int
    unrun_lines: tuple[tuple[str, int], ...] | None = None
    proposal: Proposal | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def breaks(self) -> bool:
        """Whether any history breaks."""
        return any(path.finding.verdict == BREAKS for path in self.paths)

    def to_json(self) -> dict[str, Any]:
        """The form of `trellis check --json`. `proposal` is the diff, or None."""
        return {
            "module": self.module,
            "skipped": self.skipped,
            "paths": [
                {
                    "workflow_type": path.workflow_type, "histories": path.histories, "open": path.open,
                    "example": path.example, "verdict": path.finding.verdict, "event": path.finding.event,
                    "history": path.finding.history, "code": path.finding.code, "file": path.finding.file,
                    "line": path.finding.line,
                }
                for path in self.paths
            ],
            "open_breaking": self.open_breaking,
            "unrun_lines": None if self.unrun_lines is None else [
                {"file": file, "line": line} for file, line in self.unrun_lines
            ],
            "proposal": None if self.proposal is None else self.proposal.diff,
            "notes": list(self.notes),
        }  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """One row per path, those that break first. Columns: workflow_type, verdict, histories, open [how many], event
        [Int64: of the first difference], history, code [what each side has there], at [the line that asked], example
        [a workflow id]."""
        import pandas as pd

        rows = [
            {
                "workflow_type": path.workflow_type, "verdict": path.finding.verdict, "histories": path.histories,
                "open": path.open, "event": path.finding.event, "history": path.finding.history,
                "code": path.finding.code, "at": path.finding.at or None, "example": path.example,
            }
            for path in self._ordered()
        ]  # fmt: skip
        return pd.DataFrame(rows).astype({"event": "Int64"})

    def _ordered(self) -> list[Checked]:
        order = {BREAKS: 0, OTHER_INPUT: 1, FITS: 2}
        return sorted(self.paths, key=lambda one: order[one.finding.verdict])

    def __str__(self) -> str:
        told = sum(path.histories for path in self.paths)
        lines = [
            f"{self.module}: {_count(told, 'history', 'histories')} of {_count(len(self.paths), 'path', 'paths')}."
            + (f" {self.skipped:,} of other types were skipped." if self.skipped else "")
        ]
        lines += [path.words() for path in self._ordered()]
        if self.breaks:
            broken = _count(self.open_breaking, "open workflow", "open workflows")
            lines.append(f"If it was deployed now, {broken} would break.")
        if self.unrun_lines:
            where = ", ".join(f"{Path(file).name}:{line}" for file, line in self.unrun_lines)
            lines.append(f"No history ran these changed lines, so the replays say nothing about them: {where}.")
        lines += self.notes
        if self.proposal is not None:
            old = _count(self.proposal.old, "old history", "old histories")
            lines.append(f"Proposed, and not applied. With it {old} replayed without a break, and {self.proposal.new}.")
            lines.append(self.proposal.diff.rstrip("\n"))
        return "\n".join(lines)

    __repr__ = __str__


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"

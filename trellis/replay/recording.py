"""A recording: the history of one run, replayed, with what each step did and the variables after it.

The variables are kept as differences, with a whole copy at every fiftieth step. So a long history costs what changed in
it, and the variables of any step cost at most fifty small changes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from trellis.errors import BadInput
from trellis.replay import explain, forms
from trellis.replay.changes import apply, changes, same
from trellis.replay.steps import Broken, Command, Event, Line, Step, Wait, Woken
from trellis.replay.values import Gone, Tree

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Broken", "Command", "Event", "Line", "Recorder", "Recording", "Step", "Wait", "Woken"]

_WHOLE = 50
"""Every so many steps the variables are kept whole."""

_LINES = 1_000_000
"""So many executed lines are kept in all (8 MB). After that a step keeps its first hundred."""

_FEW_LINES = 100

_T = TypeVar("_T")


@dataclass(eq=False, repr=False)
class Recording:
    """One run of one workflow, replayed. Whoever finds its family sets `children`, `before` and `after`.

    `sources` holds the text of each user file that has executed or waiting lines, by the name in `Line.file`. `trouble`
    is "" or one sentence that says why the replay stopped early; `broken` is there if the code no longer fits the
    history.
    """

    workflow_id: str
    run_id: str
    workflow_type: str
    events: tuple[Event, ...]
    steps: tuple[Step, ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""
    broken: Broken | None = None
    children: tuple[Recording, ...] = ()
    before: Recording | None = None
    """The run that continued as this one."""
    after: Recording | None = None
    """The run as which this one continued."""
    whole: Sequence[Mapping[str, Tree]] = ()
    """The variables after steps 1, 51, 101 and so on."""

    def __repr__(self) -> str:
        return f"<Recording of {self.workflow_type} {self.workflow_id}: {len(self.steps)} steps, {self._events}>"

    def variables(self, step: Step | int) -> Mapping[str, Tree]:
        """All variables of the workflow at the end of a step, given as such or by its number. Raises BadInput."""
        number = self._step(step).number
        nearest = (number - 1) // _WHOLE
        found = self.whole[nearest]
        for between in self.steps[nearest * _WHOLE + 1 : number]:
            found = _applied(found, between)
        return found

    def snapshots(self) -> Iterator[tuple[Step, Mapping[str, Tree]]]:
        """Each step with the variables at its end, in order."""
        found: Mapping[str, Tree] = {}
        for step in self.steps:
            found = _applied(found, step)
            yield step, found

    def at(self, event: int) -> Step:
        """The step after which the workflow stood when its history ended with this event: the last one up to there.

        Raises BadInput if the history has no such event, or if the workflow had not run at it.
        """
        if not self.events or not self.events[0].id <= event <= self.events[-1].id:
            raise BadInput(f"The history of {self.workflow_id} has {self._events}: there is no event {event}.")
        found = next((step for step in reversed(self.steps) if step.event <= event), None)
        if found is None:
            first = f"Its first step is at event {self.steps[0].event}." if self.steps else "It has no step."
            raise BadInput(f"{self.workflow_id} had not run at event {event}. {first}")
        return found

    def frame(self) -> pd.DataFrame:
        """One row for each step.

        Columns: step (from 1), event (the last one taken in) [int64]; at [datetime64, UTC]; seconds since the first
        event [float64]; woken_by [string]; lines, how many ran [Int64, NA if they were not traced]; file, line and
        function where the workflow's run method waits, innermost [string, Int64, string; NA if it does not wait];
        waits, the number of tasks that wait [int64]; waiting, where each of them does; commands; changed, the paths of
        the variables that changed; trouble [all string].
        """
        import pandas as pd

        started = self.events[0].at if self.events else None
        rows = [forms.row(step, started or step.at) for step in self.steps]
        frame = pd.DataFrame(rows, columns=list(forms.COLUMNS))
        text = pd.StringDtype("pyarrow")
        return frame.astype({name: text if kind == "string" else kind for name, kind in forms.COLUMNS.items()})

    def explain(self, step: Step | int | None = None) -> str:
        """What happened, in sentences: one for each step, or only that of the given step. Raises BadInput."""
        if step is not None:
            return explain.sentence(self._step(step), self.events[0].at if self.events else None)
        return explain.story(self)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: the form of `trellis replay --json`, with the children and the chain of runs."""
        found = self._json()
        found["before"] = self._chain("before")
        found["after"] = self._chain("after")
        return found

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        redact: Iterable[str | re.Pattern[str]] = (),
        books: Mapping[str, Any] | None = None,
        beside: Recording | None = None,
    ) -> Path:
        """Write the recording as one HTML file that opens without a kernel and without a network; returns its path.

        redact: names of fields whose values are replaced, as "line1", "address.*" or a compiled expression, see
            `trellis.replay.redact`. The source code in the file is as it is.
        books: what was kept outside the workflow, by name: rows with their time under "at".
        beside: a second recording, laid beside this one.
        Raises BadInput, and writes nothing.
        """
        # Here, because a page draws recordings and imports this module.
        from trellis.replay.saving import save

        return save(self, path, redact=redact, books=books, beside=beside)

    @property
    def _events(self) -> str:
        return f"{len(self.events):,} event{'s' * (len(self.events) != 1)}"

    def _step(self, step: Step | int) -> Step:
        number = step if isinstance(step, int) else step.number
        if not 1 <= number <= len(self.steps):
            raise BadInput(f"The recording of {self.workflow_id} has steps 1 to {len(self.steps)}, not {number}.")
        return self.steps[number - 1]

    def _chain(self, way: str) -> dict[str, Any] | None:
        """The run before or after this one, and so on in that direction."""
        other: Recording | None = getattr(self, way)
        return None if other is None else {**other._json(), way: other._chain(way)}

    def _json(self) -> dict[str, Any]:
        return {
            "workflow_id": self.workflow_id,
            "run_id": self.run_id,
            "workflow_type": self.workflow_type,
            "steps": [forms.step_json(step, variables) for step, variables in self.snapshots()],
            "trouble": self.trouble,
            "broken": self.broken and forms.broken_json(self.broken),
            "children": [child.to_json() for child in self.children],
        }


class Recorder:
    """What the engine writes to while it replays. Another thread may read `recording` at any time.

    `sources` may be filled on the way, so that the first pages show code.
    """

    def __init__(self, workflow_id: str, run_id: str, workflow_type: str, events: Iterable[Event]) -> None:
        self.sources: dict[str, str] = {}
        self._about = workflow_id, run_id, workflow_type, tuple(events)
        self._steps: list[Step] = []
        self._whole: list[Mapping[str, Tree]] = []
        self._variables: Mapping[str, Tree] = {}
        self._lines_left = _LINES
        self._pool: dict[Any, Any] = {}
        self._items: dict[int, Tree] = {}

    def step(
        self,
        *,
        event: int,
        at: datetime,
        woken_by: Iterable[Woken],
        lines: Iterable[Line] | None,
        lines_cut: int = 0,
        waits: Iterable[Wait],
        commands: Iterable[Command],
        variables: Mapping[str, Tree],
        trouble: str = "",
    ) -> Step:
        """The next step. `variables` is the whole snapshot after it; what changed since the last one is found here."""
        kept = None if lines is None else tuple(lines)
        if kept is not None:
            room = max(self._lines_left, _FEW_LINES)
            lines_cut += max(0, len(kept) - room)
            kept = self._pooled(tuple(map(self._pool.setdefault, kept[:room], kept[:room])))
            self._lines_left -= len(kept)
        step = Step(
            number=len(self._steps) + 1,
            event=event,
            at=at,
            woken_by=tuple(woken_by),
            lines=kept,
            lines_cut=lines_cut,
            waits=self._pooled(tuple(map(self._pooled, waits))),
            commands=tuple(commands),
            changed={
                path: self._items_once(value)
                for path, value in changes(cast(Tree, self._variables), dict(variables)).items()
            },
            trouble=trouble,
        )
        # Not the snapshot itself: this one shares with the last what did not change.
        self._variables = _applied(self._variables, step)
        if len(self._steps) % _WHOLE == 0:
            self._whole.append(self._variables)
        self._steps.append(step)
        return step

    def finish(self, sources: Mapping[str, str], trouble: str = "", broken: Broken | None = None) -> Recording:
        """The recording. `trouble` says in one sentence why the replay stopped early."""
        self.sources.update(sources)
        recording = self.recording
        recording.trouble, recording.broken = trouble, broken
        return recording

    @property
    def recording(self) -> Recording:
        """What is there so far."""
        steps = tuple(self._steps)
        return Recording(*self._about, steps, sources=dict(self.sources), whole=tuple(self._whole))

    def _items_once(self, value: Tree | Gone) -> Tree | Gone:
        """A list whose items moved, made of the items that are kept already: a queue would be copied at each step."""
        return [self._item_once(item) for item in value] if isinstance(value, list) else value

    def _item_once(self, item: Tree) -> Tree:
        if not isinstance(item, list | dict):
            return item
        # Trees hold built-in values only, so that their text is quick and calls nobody's code.
        known = self._items.setdefault(hash(repr(item)), item)
        return known if same(known, item) else item

    def _pooled(self, value: _T) -> _T:
        """The same value, kept once."""
        return cast(_T, self._pool.setdefault(value, value))


def _applied(variables: Mapping[str, Tree], step: Step) -> Mapping[str, Tree]:
    return cast(Mapping[str, Tree], apply(cast(Tree, variables), step.changed))

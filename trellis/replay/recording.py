"""A recording: a workflow's history, replayed, with what each step did and the variables after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trellis.replay.steps import Broken, Command, Event, Line, Step, Wait, Woken
from trellis.replay.values import Tree

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Broken", "Command", "Event", "Line", "Recorder", "Recording", "Step", "Wait", "Woken"]


@dataclass(eq=False)
class Recording:
    """One run of one workflow, replayed. `children`, `before` and `after` are set by whoever links recordings."""

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
    after: Recording | None = None

    def variables(self, step: Step | int) -> Mapping[str, Tree]:
        raise NotImplementedError

    def at(self, event: int) -> Step:
        raise NotImplementedError

    def frame(self) -> pd.DataFrame:
        raise NotImplementedError

    def explain(self, step: Step | int | None = None) -> str:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        raise NotImplementedError


class Recorder:
    """What the engine writes to while it replays. Another thread may read `recording` at any time."""

    def __init__(self, workflow_id: str, run_id: str, workflow_type: str, events: Sequence[Event]) -> None: ...

    def step(
        self,
        *,
        event: int,
        at: datetime,
        woken_by: Iterable[Woken],
        lines: Sequence[Line] | None,
        lines_cut: int = 0,
        waits: Iterable[Wait],
        commands: Iterable[Command],
        variables: Mapping[str, Tree],
        trouble: str = "",
    ) -> Step:
        """The next step. Works out what changed since the step before."""
        raise NotImplementedError

    def finish(self, sources: Mapping[str, str], trouble: str = "", broken: Broken | None = None) -> Recording:
        raise NotImplementedError

    @property
    def recording(self) -> Recording:
        """What is there so far."""
        raise NotImplementedError

"""The attempt that runs here, for other code of the same worker: `trellis.retrying` notes its tries with it.

Async and threaded activities know their attempt. An activity in a process pool does not, and notes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import datetime

from temporalio.exceptions import ApplicationError

from trellis.flaky import Marks
from trellis.flights import FlightRow
from trellis.plugin.rows import LONGEST, Attempt

CURRENT: ContextVar[Attempt | None] = ContextVar("trellis_attempt", default=None)

LOOPS = "__trellis_loops__"
"""A function with this attribute makes its own tries. Faults then act on each try, and not on the whole attempt."""

Faults = Callable[[int, int, Marks], Awaitable[ApplicationError | None]]
"""Fails, hangs or passes try n of a lane, as the plan says. What it returns is raised after the call: a lost reply."""

FAULTS: ContextVar[Faults | None] = ContextVar("trellis_faults", default=None)


def attempt() -> FlightRow | None:
    """The attempt that this code belongs to, as the book holds it. None if no plugin notes it."""
    found = CURRENT.get()
    return None if found is None else FlightRow.from_columns(found.row)


def note_try(
    try_: int, lane: int, started_at: datetime, ended_at: datetime | None, outcome: str, *,
    failure_type: str | None = None, error: str | None = None, marks: Marks | None = None,
    limits: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Note one try of a loop inside the current attempt. `try_` counts from 1 in its `lane`, `outcome` is a word of
    `trellis.flights.OUTCOMES`, `marks` say what was injected,
    `limits` are the timeouts and the retry policy of the loop, by the names of the columns.
    Nothing happens if no plugin notes attempts here."""
    found = CURRENT.get()
    if found is None:
        return
    found.note_try(
        **{"try": try_}, lane=lane, started_at=started_at.isoformat(),
        ended_at=ended_at.isoformat() if ended_at else None, outcome=outcome, failure_type=failure_type,
        error=error[:LONGEST] if error else None, heartbeats=0, **vars(marks or Marks()), **(limits or {}),
    )  # fmt: skip

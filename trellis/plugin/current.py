"""The attempt that runs here, for other code of the same worker: `trellis.retrying` notes its tries with it.

Async and threaded activities know their attempt. An activity in a process pool does not, and notes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, TypeVar

from trellis.flights import FlightRow
from trellis.plugin.rows import LONGEST, Attempt

T = TypeVar("T")

Faults = Callable[[int, int, Callable[[], Awaitable[Any]], dict[str, Any]], Awaitable[Any]]

TRIES = "__trellis_tries__"
"""The attribute of an activity's function that has a loop of tries around it (`trellis.retrying`)."""

FAULTS: ContextVar[Faults | None] = ContextVar("trellis_faults", default=None)
"""Makes the call of one try with its fault, in an attempt that has a loop of tries."""

CURRENT: ContextVar[Attempt | None] = ContextVar("trellis_attempt", default=None)


def attempt() -> FlightRow | None:
    """The attempt that this code belongs to, as the book holds it. None if no plugin notes it."""
    found = CURRENT.get()
    return None if found is None else FlightRow.from_columns(found.row)


def note_try(
    try_: int, lane: int, started_at: datetime, ended_at: datetime | None, outcome: str, *,
    failure_type: str | None = None, error: str | None = None, injected: str | None = None,
    outage: str | None = None, queued: float | None = None, limits: Mapping[str, float] | None = None,
) -> None:  # fmt: skip
    """Note one try of a loop inside the current attempt. `try_` counts from 1 in its `lane`, `outcome` is a word of
    `trellis.flights.OUTCOMES`, `limits` are the timeouts and the retry policy of the loop, by the names of the columns.
    Nothing happens if no plugin notes attempts here."""
    found = CURRENT.get()
    if found is None:
        return
    found.note_try(
        **{"try": try_}, lane=lane, started_at=started_at.isoformat(),
        ended_at=ended_at.isoformat() if ended_at else None, outcome=outcome, failure_type=failure_type,
        error=error[:LONGEST] if error else None, injected=injected, outage=outage,
        queued=queued, heartbeats=0, **(limits or {}),
    )  # fmt: skip


async def call_with_faults(try_: int, lane: int, call: Callable[[], Awaitable[T]], said: dict[str, Any]) -> T:
    """The value of a try's call, with the fault that the plan in force has for it. `said` gets what was done to the
    call, as arguments of `note_try`. Without a plugin that injects faults it is the call alone."""
    faults = FAULTS.get()
    if faults is None:
        return await call()
    value: T = await faults(try_, lane, call, said)
    return value

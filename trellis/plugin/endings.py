"""How an attempt ended: one of the words of `trellis.flights.OUTCOMES`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from temporalio.activity import ActivityCancellationDetails, Info
from temporalio.exceptions import ApplicationError
from temporalio.exceptions import CancelledError as TemporalCancelled

from trellis.flights import ABANDONED, FAILED, SUCCEEDED, TIMED_OUT
from trellis.plugin.rows import LONGEST, Attempt

SERVER_TIMERS = 1.0
"""How late a server's timer can fire [s]. An answer that comes in this time after the deadline can still be taken. A
local activity has no such margin: the worker's own timers decide."""


@dataclass(frozen=True)
class Ending:
    """`outcome`: "open" if only the server knows, because the answer came within the margin of its timers."""

    outcome: str
    failure_type: str | None = None
    error: str | None = None


def deadline(info: Info) -> float | None:
    """Seconds after its start at which the attempt times out, whatever it does. None: never."""
    found = [] if info.start_to_close_timeout is None else [info.start_to_close_timeout]
    if info.schedule_to_close_timeout is not None:
        # Both times are the server's, so that a wrong clock here does not matter.
        found.append(info.schedule_to_close_timeout - (info.started_time - info.scheduled_time))
    return min(found).total_seconds() if found else None


def hangs_at_most(info: Info) -> float | None:
    """Seconds after its start at which an attempt times out that neither ends nor sends a heartbeat. None: never."""
    until = deadline(info)
    if info.heartbeat_timeout is None or info.is_local:
        return until
    beat = info.heartbeat_timeout.total_seconds()
    return beat if until is None else min(beat, until)


def ending(
    attempt: Attempt, info: Info, error: BaseException | None, details: ActivityCancellationDetails | None
) -> Ending:
    """What became of an attempt that returned, or raised `error`. `details`: why the SDK cancelled it, if it did."""
    kind, text = (None, None) if error is None else (failure_type(error), message(error))
    if attempt.hung:
        return Ending(TIMED_OUT, error="hung on purpose until it timed out")
    if details is not None and details.timed_out:
        return Ending(TIMED_OUT, kind, text)
    late = _late_by(attempt, info)
    # If the server knows the attempt no longer, it was not waiting for a timer of its own.
    gone = details is not None and details.not_found
    if late >= (0.0 if gone or info.is_local else SERVER_TIMERS):
        return Ending(TIMED_OUT, kind, text)
    # The server's clock for the attempt began earlier than ours, by the way of its task to the worker.
    if late >= (-SERVER_TIMERS if gone else 0.0):
        return Ending("open", kind, text)
    if isinstance(error, asyncio.CancelledError | TemporalCancelled) and details is not None:
        if details.paused or details.reset:
            return Ending(FAILED, "ActivityPause" if details.paused else "ActivityReset", text)
        return Ending(ABANDONED, kind, text or _why(details))
    return Ending(SUCCEEDED) if error is None else Ending(FAILED, kind, text)


def _late_by(attempt: Attempt, info: Info) -> float:
    """Seconds since the attempt's deadline; negative if it was in time."""
    until = deadline(info)
    late = float("-inf") if until is None else time.monotonic() - attempt.began - until
    if info.heartbeat_timeout is not None and not info.is_local:
        late = max(late, attempt.silent - info.heartbeat_timeout.total_seconds())
    return late


def _why(details: ActivityCancellationDetails) -> str:
    if details.worker_shutdown:
        return "the worker was shut down"
    return "cancel was requested" if details.cancel_requested else "the server knows it no longer"


def failure_type(error: BaseException) -> str:
    """As Temporal names it: the ApplicationError's own type, or the exception's class."""
    if isinstance(error, ApplicationError) and error.type:
        return str(error.type)[:LONGEST]
    return type(error).__name__


def message(error: BaseException) -> str:
    try:
        return str(error)[:LONGEST]
    except Exception:
        return f"a {type(error).__name__} without words"

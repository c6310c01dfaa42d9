"""The columns and dtypes of a frame of the book."""

from __future__ import annotations

import pandas as pd

from trellis.errors import BadInput
from trellis.insight.frames import restored
from trellis.insight.history.frames import POLICY

TIMES = ["scheduled_at", "attempt_scheduled_at", "started_at", "ended_at"]

LIMITS = [
    "start_to_close_timeout", "schedule_to_close_timeout", "schedule_to_start_timeout", "heartbeat_timeout",
    "initial_interval", "backoff_coefficient", "maximum_interval", "maximum_attempts",
]  # fmt: skip

_NAMES = [
    "workflow_id", "run_id", "workflow_type", "activity_id", "activity_type", "attempt", "outcome", "worker", "queue",
    "local", *TIMES, "failure_type", "error", "injected", "outage", "queued", *LIMITS, "heartbeats", "namespace",
]  # fmt: skip

_TRIES = ["try", "lane"]

_PAYLOADS = ["input", "result"]

IDENTITY = [
    "namespace", "workflow_id", "run_id", "activity_id", "scheduled_at", "attempt", "attempt_scheduled_at", *_TRIES,
]  # fmt: skip
"""What tells two rows of the book apart."""

_NEEDED = ["workflow_id", "run_id", "activity_id", "activity_type", "attempt", "outcome", *TIMES]

assert set(POLICY) <= set(LIMITS)


def named(*, tries: bool, payloads: bool) -> list[str]:
    """The columns of a frame, in order."""
    return [*_NAMES, *(_TRIES if tries else []), *(_PAYLOADS if payloads else [])]


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the book's dtypes."""
    return restored(
        frame, times=TIMES,
        categories=[
            "workflow_type", "activity_type", "worker", "queue", "failure_type", "injected", "outage", "namespace",
        ],
        strings=["workflow_id", "run_id", "activity_id", "error", *_PAYLOADS], flags=["local"],
        integers=dict.fromkeys(["attempt", "maximum_attempts", "heartbeats", *_TRIES], "Int32"),
        numbers=["queued", *(name for name in LIMITS if name != "maximum_attempts")],
    )  # fmt: skip


def is_of_the_book(frame: pd.DataFrame) -> bool:
    """Whether this is a frame that `insight.flights` returned."""
    return {"activity_type", "activity_id"} <= set(frame.columns)


def whole_flights(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of the book with all its columns and dtypes and each row once, after `pd.concat` or from a file.

    Raises BadInput for another kind of frame.
    """
    if missing := [name for name in _NEEDED if name not in frame.columns]:
        raise BadInput(f"This frame has no {', '.join(missing)}: give a frame that insight.flights returned.")
    all_ = named(tries=True, payloads=False)
    whole = frame.reset_index(drop=True).reindex(columns=all_)
    whole[_TRIES] = whole[_TRIES].fillna(0)
    made = typed(whole)
    # The same row may have been read again later, with its end.
    return made[~made.duplicated(IDENTITY, keep="last")].reset_index(drop=True)

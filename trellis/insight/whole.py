"""Frames that people hand in, with their columns and dtypes: whatever source they come from."""

from __future__ import annotations

import pandas as pd

from trellis.errors import BadInput
from trellis.insight.flights.attempts import flight_attempts
from trellis.insight.flights.columns import is_of_the_book
from trellis.insight.frames import restored

_TIMES = ["started_at", "ended_at", "scheduled_at"]


def whole_attempts(frame: pd.DataFrame, *needed: str) -> pd.DataFrame:
    """A frame of attempts with its dtypes and an index of its own, after `pd.concat` or from a file.

    A frame of `insight.flights` becomes one. Raises BadInput where a `needed` column is missing.
    """
    if is_of_the_book(frame):
        frame = flight_attempts(frame)
    if missing := [name for name in needed if name not in frame.columns]:
        raise BadInput(
            f"This frame has no {', '.join(missing)}: give a frame that insight.attempts, history_attempts or "
            f"insight.flights returned."
        )
    counts = ["attempt", "round", "execution", "try", "lane", "maximum_attempts"]
    return restored(
        frame.reset_index(drop=True), times=_TIMES, categories=["step", "worker", "queue", "outage"],
        strings=["order_id", "error"], flags=["skewed"], integers=dict.fromkeys(counts, "Int32"),
        numbers=["duration_ms", "queued"],
    )  # fmt: skip


def whole_orders(frame: pd.DataFrame, *needed: str) -> pd.DataFrame:
    """A frame of orders or workflows with its dtypes, each of them once, after `pd.concat` or from a file.

    Raises BadInput where a `needed` column is missing.
    """
    if missing := [name for name in needed if name not in frame]:
        raise BadInput(
            f"This frame has no {', '.join(missing)}: give a frame that insight.orders or insight.history_workflows "
            f"returned."
        )
    typed = restored(
        frame, times=["created_at", "began_at", "claimed_at", "closing_at", "ended_at"], categories=["state", "policy"],
        strings=["order_id", "last_error"], numbers=["seconds"],
    )  # fmt: skip
    return typed.drop_duplicates("order_id", keep="last") if "order_id" in typed else typed

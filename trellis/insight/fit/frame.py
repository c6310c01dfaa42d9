"""Frames that people hand in: checked, and brought into one form."""

from __future__ import annotations

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.flights.attempts import flight_attempts
from trellis.insight.flights.columns import is_of_the_book
from trellis.insight.frames import OUTCOMES
from trellis.insight.history.frames import in_order, whole
from trellis.insight.whole import whole_attempts

_NEEDED = ("step", "outcome", "duration_ms")
_TRY = ["order_id", "step", "round", "execution", "try", "lane", "attempt", "outcome", "started_at", "ended_at"]


def one_namespace(frame: pd.DataFrame) -> None:
    """Raises BadInput where the rows are of several namespaces. The same workflow id may occur in both, and their calls
    need have nothing in common."""
    names = sorted(frame["namespace"].dropna().astype(str).unique()) if "namespace" in frame else []
    if len(names) > 1:
        raise BadInput(
            f"This frame holds workflows of several namespaces ({', '.join(names)}): learn from one at a time."
        )


def whole_history(frame: pd.DataFrame) -> pd.DataFrame:
    """A history with its dtypes and each row once. Activities without a name are left out: nothing can be learned from
    them. Raises BadInput with a sentence."""
    one_namespace(frame)
    made = in_order(whole(frame))
    activity = made["kind"].isin(["activity", "local activity"]).to_numpy(dtype=bool)
    return made[~activity | made["name"].notna().to_numpy()].reset_index(drop=True)


def usable(attempts: pd.DataFrame) -> pd.DataFrame:
    """The attempts with times in UTC, numbers as floats and each try once. Raises BadInput with a sentence.

    A frame of `insight.flights` becomes attempts first. A frame that was read again from a file may hold its times as
    text, and frames that were put together may hold a try twice. Where a clock was wrong the duration is taken as not
    known; how the try ended still counts.
    """
    if is_of_the_book(attempts):
        attempts = flight_attempts(attempts)
    if missing := [name for name in _NEEDED if name not in attempts]:
        raise BadInput(
            f"This frame has no {', '.join(missing)}: give a frame of insight.attempts, insight.flights, "
            f"history_attempts or insight.history."
        )
    one_namespace(attempts)
    made = attempts.reset_index(drop=True)
    if made.empty:
        raise BadInput("There are no attempts to learn from: the frame is empty.")
    strange = sorted(set(made["outcome"].dropna().astype(str)) - set(OUTCOMES))
    if strange:
        raise BadInput(f"The outcome of an attempt cannot be {strange[0]!r}: it is one of {', '.join(OUTCOMES)}.")
    if set(_TRY) <= set(made.columns):
        made = made[~made.duplicated(_TRY)]
    made = whole_attempts(made[made["step"].notna().to_numpy()])
    took = pd.to_numeric(made["duration_ms"], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    wrong = ~np.isfinite(took) | (took < 0)
    if "skewed" in made:
        wrong |= made["skewed"].fillna(False).to_numpy(dtype=bool)
    return made.assign(duration_ms=np.where(wrong, np.nan, took))

"""Tries as arrays: how each ended, and after how long."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.fit.risks import CUT, ERROR, OK, TIMED_OUT

_KINDS = {"succeeded": OK, "failed": ERROR, "timed out": TIMED_OUT, "abandoned": CUT}
_CLUSTER = 1.25


def read(attempts: pd.DataFrame) -> tuple[Any, Any, Any, int]:
    """(kind, seconds, weight) of each try that carries information, and the number of failures whose kind is known."""
    outcome = attempts["outcome"].astype("string").fillna("unknown")
    unknown = int((outcome == "unknown").sum())
    kinds = outcome.map(_KINDS)
    known = attempts[kinds.notna().to_numpy()]
    kind = kinds.dropna().to_numpy(dtype=int)
    seconds = known["duration_ms"].to_numpy(dtype="float64", na_value=np.nan) / 1000
    cut_by_clock = kind == TIMED_OUT
    # Timeouts fire late, each by a different amount. A good call just before a late timeout would seem to have outlived
    # all hung calls, and would count for all of them. So the times of timeouts are rounded up to common values.
    seconds = np.where(
        cut_by_clock & (seconds > 0),
        _CLUSTER ** np.ceil(np.log(np.maximum(seconds, 1e-6)) / math.log(_CLUSTER)),
        seconds,
    )
    # Tries without times. Assume that one which raised took no time, that one which was cut off waited as long as the
    # longest, and that one which worked took as long as the others that worked.
    longest = np.nanmax(seconds, initial=0.0)
    good = seconds[(kind == OK) & np.isfinite(seconds)]
    usual = float(np.median(good)) if len(good) else 0.0
    fill = np.select([kind == OK, kind == ERROR], [usual, 0.0], longest)
    seconds = np.maximum(np.where(np.isfinite(seconds), seconds, fill), 0.0)
    failed = (kind == ERROR) | cut_by_clock
    weight = np.ones(len(kind))
    if unknown and failed.any():
        weight[failed] += unknown / failed.sum()
    elif unknown:
        raise BadInput("These histories hold failures without their kind: there is nothing to learn from.")
    return kind, seconds, weight, int(failed.sum())

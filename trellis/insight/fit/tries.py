"""Tries as arrays: how each ended, and after how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.fit.risks import CUT, ERROR, OK, TIMED_OUT

_KINDS = {"succeeded": OK, "failed": ERROR, "timed out": TIMED_OUT, "abandoned": CUT}
_CLUSTER = 1.25


@dataclass(frozen=True)
class Tries:
    """The tries that carry information, as arrays: `kind`, `seconds` and `weight` of each. `timed_good`: the known
    durations [s] of those that worked. `cut`: the known durations [s] of those that were cut off."""

    kind: Any
    seconds: Any
    weight: Any
    timed_good: Any
    cut: Any
    known_failures: int
    """The failures whose kind is known: those that raised and those that timed out."""

    kinds_unknown: bool = False
    """Whether no failure's kind is known, so that each may have raised or timed out."""

    @property
    def worked(self) -> int:
        return int((self.kind == OK).sum())

    @property
    def timed(self) -> bool:
        return len(self.timed_good) > 0

    def longest_until(self, end: float) -> float:
        """The longest time [s] after which a try was cut off, not after `end`. 0 where none was."""
        return float(self.cut[self.cut <= end].max(initial=0.0))

    @classmethod
    def together(cls, several: Sequence[Tries]) -> Tries:
        """All tries of several steps."""

        def joined(name: str) -> Any:
            return np.concatenate([getattr(one, name) for one in several])

        arrays = (joined("kind"), joined("seconds"), joined("weight"), joined("timed_good"), joined("cut"))
        return cls(*arrays, sum(one.known_failures for one in several), any(one.kinds_unknown for one in several))

    @classmethod
    def read(cls, attempts: pd.DataFrame) -> Tries:
        """From a frame with the columns `outcome` and `duration_ms`. Lost tries and open ones are left out.

        Failures of unknown kind are shared out like the known ones. Where no failure is known they count as raised.
        """
        outcome = attempts["outcome"].astype("string").fillna("unknown")
        unknown = int((outcome == "unknown").sum())
        kinds_unknown = unknown > 0 and not outcome.isin(["failed", "timed out"]).any()
        if kinds_unknown:
            # A local activity's marker counts the tries before the last one, and does not say how they ended.
            outcome, unknown = outcome.replace("unknown", "failed"), 0
        kinds = outcome.map(_KINDS)
        kind = kinds.dropna().to_numpy(dtype=int)
        known = attempts.loc[kinds.notna().to_numpy(), "duration_ms"]
        took = known.to_numpy(dtype="float64", na_value=np.nan) / 1000
        by_clock = kind == TIMED_OUT
        # Timeouts fire late, each by a different amount. A good call just before a late timeout would seem to have
        # outlived all hung calls, and would count for all of them. So the times of timeouts are rounded up to common
        # values.
        seconds = np.where(
            by_clock & (took > 0),
            _CLUSTER ** np.ceil(np.log(np.maximum(took, 1e-6)) / math.log(_CLUSTER)),
            took,
        )
        # Tries without times. Assume that one which raised took no time, that one which was cut off waited as long as
        # the longest, and that one which worked took as long as the others that worked.
        longest = np.nanmax(seconds, initial=0.0)
        good = took[(kind == OK) & np.isfinite(took)]
        usual = float(np.median(good)) if len(good) else 0.0
        fill = np.select([kind == OK, kind == ERROR], [usual, 0.0], longest)
        seconds = np.maximum(np.where(np.isfinite(seconds), seconds, fill), 0.0)
        failed = (kind == ERROR) | by_clock
        weight = np.ones(len(kind))
        if unknown:
            weight[failed] += unknown / failed.sum()
        cut = took[((kind == CUT) | by_clock) & np.isfinite(took)]
        return cls(kind, seconds, weight, np.maximum(good, 0.0), cut, int(failed.sum()), kinds_unknown)

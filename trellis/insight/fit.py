"""How calls behave, learned from the attempts that were made: the mix of faults and the latency of good calls.

A call that was cut off says only that it would have taken longer. A timeout therefore counts as a hang: whether the
call would have answered a second later nobody knows, and under that timeout it makes no difference. A try that another
lane's success abandoned is shared out between "hangs" and "would have worked later" in proportion (the EM of Dempster,
Laird and Rubin, 1977). Tries that a killed worker lost, and those that a history does not hold, say nothing.

That a step stops at its first success biases nothing: each try was a draw of its own, whenever one stops drawing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from trellis.errors import BadInput
from trellis.faults import Mix


@dataclass(frozen=True)
class Fit:
    """Shares of `error`, `hang` and `ok` with intervals that hold all three at once at 95 % (Clopper and Pearson,
    Bonferroni); latency [s] of the calls that worked."""

    tries: int
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    latency_p50: float
    latency_p99: float

    @property
    def mix(self) -> Mix:
        """As a plan's mix. The latency is the 99th percentile of good calls: a timeout below it cuts them off."""
        return Mix(self.shares["error"], self.shares["hang"], latency=self.latency_p99)

    def words(self) -> str:
        told = [
            f"{self.shares[name]:.1%} {what} ({self.intervals[name][0]:.1%} to {self.intervals[name][1]:.1%})"
            for name, what in (("ok", "work"), ("error", "raise"), ("hang", "hang"))
        ]
        return f"Of {self.tries:,} tries {', '.join(told)}; good calls take {self.latency_p50 * 1000:.0f} ms."


def fit(attempts: pd.DataFrame) -> Fit:
    """Learn from attempts as `trellis.insight.attempts` or `history_attempts` gives them.

    Raises BadInput where there are none, or none that worked.
    """
    known = attempts[attempts["outcome"].isin(["succeeded", "failed", "timed out", "abandoned"])]
    outcome = known["outcome"].astype(str)
    seconds = known["duration_ms"].to_numpy(dtype="float64") / 1000
    good = np.sort(seconds[(outcome == "succeeded").to_numpy()])
    if len(good) == 0:
        raise BadInput("There are no attempts that worked to learn from. Run some orders first (`trellis load`).")
    ok, error, hang = len(good), int((outcome == "failed").sum()), int((outcome == "timed out").sum())
    cut = seconds[(outcome == "abandoned").to_numpy()]
    cut = cut[np.isfinite(cut)]
    # The share of good calls that would still have been under way when each of these was cut off.
    later = 1.0 - np.searchsorted(good, cut, side="right") / len(good)
    total = ok + error + hang + len(cut)
    share_ok, share_hang = ok / total, max(hang, 1) / total
    for _ in range(200):
        weight = share_ok * later + share_hang
        would = float(np.sum(share_ok * later / weight)) if len(cut) else 0.0
        share_ok, share_hang = (ok + would) / total, (hang + len(cut) - would) / total
        share_hang = max(share_hang, 1e-12)
    counts = {"ok": share_ok * total, "error": float(error), "hang": share_hang * total if hang or len(cut) else 0.0}
    return Fit(
        tries=total,
        shares={name: count / total for name, count in counts.items()},
        intervals={name: _interval(count, total) for name, count in counts.items()},
        latency_p50=float(np.quantile(good, 0.5)),
        latency_p99=float(np.quantile(good, 0.99)),
    )


def _interval(count: float, total: int, miss: float = 0.05 / 3) -> tuple[float, float]:
    low = stats.beta.ppf(miss / 2, count, total - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(1 - miss / 2, count + 1, total - count) if count < total else 1.0
    return float(low), float(high)

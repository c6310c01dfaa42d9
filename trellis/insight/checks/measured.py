"""What the runs in the data measured by themselves, without any model: how many missed a deadline, and what that
proves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from trellis.insight.fit import Learned

_BY_A_PERSON = ("CANCELLED", "APPROVAL_TIMEOUT", "TERMINATED", "CONTINUED_AS_NEW")
"""States of runs whose end says nothing about retries."""

_ENDED_WELL = ("COMPLETED",)


@dataclass(frozen=True)
class Missed:
    """`missed` of `runs` runs took longer than the deadline, or failed."""

    missed: int
    runs: int

    @property
    def share(self) -> float:
        return self.missed / self.runs if self.runs else math.nan

    @property
    def limit(self) -> float:
        """The upper 95 % limit of the share (Clopper and Pearson, Biometrika 26, 1934). With no miss in n runs it is
        about 3/n. 1 where there are no runs."""
        return upper_limit(self.missed, self.runs)


def upper_limit(count: int, of: int, level: float = 0.95) -> float:
    """The one-sided upper limit of a share (Clopper and Pearson)."""
    return 1.0 if count >= of else float(stats.beta.ppf(level, count + 1, of - count))


def per_cent(share: float) -> str:
    """A share as per cent with two or three digits."""
    return f"{share * 100:.3g} %" if share >= 0.1 else f"{share * 100:.2g} %"


def counted(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that count, with `took` [s]: the run's seconds, or infinite where it failed. Runs that a person ended
    are left out."""
    state = runs["state"].astype(object).where(runs["state"].notna(), "COMPLETED").astype(str)
    kept: pd.DataFrame = runs[~state.isin(_BY_A_PERSON).to_numpy()]
    state = state[kept.index]
    seconds = kept["seconds"].to_numpy(dtype=float, na_value=np.nan)
    took = np.where(state.isin(_ENDED_WELL).to_numpy(), seconds, np.inf)
    made: pd.DataFrame = kept.assign(took=took)[np.isfinite(seconds)]
    return made


def missed(runs: pd.DataFrame, deadline: float) -> Missed:
    """How many of `runs` (as `counted` returns them) missed the deadline [s]."""
    return Missed(int((runs["took"] > deadline).sum()), len(runs))


def percentile_limit(took: Any, share: float, level: float = 0.95) -> float:
    """The upper limit of a percentile [s], from order statistics (David and Nagaraja, "Order Statistics", 2003, section
    7.1). Infinite where there are too few runs."""
    n = len(took)
    rank = int(stats.binom.ppf(level, n, share)) if n else 0
    return float(np.sort(took)[rank]) if rank < n else math.inf


@dataclass(frozen=True)
class MeasuredRuns:
    """What the runs measured. `today`: misses under the policy in force, which is that of the latest runs. `every`:
    misses under all policies. `p50`, `p99`: upper limits of the percentiles [s], infinite where there are too few runs.
    `lanes`: the most lanes of any policy in force."""

    today: Missed
    every: Missed
    p50: float
    p99: float
    lanes: int

    @classmethod
    def of(cls, learned: Learned, deadline: float) -> MeasuredRuns:
        """What the runs of `learned` measured for a deadline [s]."""
        runs = counted(learned.runs)
        latest = _latest(runs)
        policies = [policy for policy in dict.fromkeys(learned.runs["policy"]) if policy is not None]
        rules = [rule for policy in policies for rule in (policy.retry, *policy.steps.values())]
        seen = [int(learned.attempts["lane"].max()) + 1] if "lane" in learned.attempts and len(learned.attempts) else []
        return cls(
            missed(latest, deadline),
            missed(runs, deadline),
            max(percentile_limit(one["took"], 0.5) for one in (latest, runs)),
            max(percentile_limit(one["took"], 0.99) for one in (latest, runs)),
            max([rule.hedge for rule in rules] + seen, default=1),
        )

    @property
    def limit(self) -> float:
        """The upper 95 % limit of the share that misses. The larger one, of today's runs and of all runs."""
        return max(self.today.limit, self.every.limit)

    def words(self, deadline: float, noun: str) -> str:
        """Today's misses, in a sentence."""
        if not self.today.runs:
            return f"No {noun}'s duration was measured."
        found = self.today
        return (
            f"Today {per_cent(found.share)} miss {deadline:g} s: {found.missed:,} of {found.runs:,} {noun}s, so the "
            f"true share is at most {per_cent(found.limit)} (95 % limit)."
        )


def _latest(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs under the policy of the last run. All, where no policy is known."""
    known = [policy for policy in runs["policy"] if policy is not None]
    if not known:
        return runs
    return runs[[policy == known[-1] for policy in runs["policy"]]]

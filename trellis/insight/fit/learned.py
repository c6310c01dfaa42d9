"""What a frame of attempts says about the steps of a chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from trellis.errors import BadInput
from trellis.insight.calls import Calls
from trellis.insight.chain import Part, Series, Step
from trellis.insight.fit.runs import measured_runs
from trellis.insight.fit.step import Fit, fit, with_latencies_of
from trellis.insight.history.frames import history_attempts, history_workflows
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import Policy

_ALIKE = 0.01


@dataclass(frozen=True)
class Learned:
    """What was learned from a frame of attempts. `steps`: each step's calls, in the order of the chain.

    `chain`: what a run does. `runs`: columns as `measured_runs`, one row per run that ended. `attempts`: the attempts
    that it was learned from. `noun`: what a run is called, "order" or "workflow". `remainder`: the time [s] of a run
    that neither its steps nor its waits explain, as equally likely values; empty where it was not measured. `alike`:
    the steps' shares differ by no more than chance explains (chi-squared at 1 %), so each step has the shares of all
    tries together.
    """

    steps: dict[str, Fit]
    alike: bool
    chain: Part
    runs: pd.DataFrame
    attempts: pd.DataFrame
    noun: str = "order"
    remainder: tuple[float, ...] = ()

    @property
    def tries(self) -> int:
        found = [fit.tries for fit in self.steps.values()]
        return found[0] if self.alike else sum(found)

    @property
    def calls(self) -> Mapping[str, Calls]:
        return {step: fit.calls for step, fit in self.steps.items()}

    @property
    def at_worst(self) -> Mapping[str, Calls]:
        return {step: fit.at_worst for step, fit in self.steps.items()}

    @property
    def in_force(self) -> Policy | None:
        """The policy that most of the runs were under, None where none is known."""
        known = [policy for policy in self.runs["policy"] if policy is not None]
        return Counter(known).most_common(1)[0][0] if known else None

    def words(self) -> str:
        if self.alike:
            return next(iter(self.steps.values())).words()
        return "The steps differ. " + " ".join(f"{step}: {fit.words()}" for step, fit in self.steps.items())


def learn(frame: pd.DataFrame, steps: Sequence[str] | None = None, *, runs: pd.DataFrame | None = None) -> Learned:
    """Learn each step's calls from a frame of `insight.attempts`, of `history_attempts` or of `insight.history`.

    `steps`: the chain, in order. None: the six steps of an order where the frame has them, else every step of the
    frame, by its first appearance. `runs`: the measured durations, as a frame of `insight.orders` or of
    `history_workflows`. Where the steps differ by no more than chance, each gets the shares of all tries, and keeps its
    own latencies. Raises BadInput where a step has no tries, or none that worked.
    """
    whole_history = "kind" in frame
    attempts = history_attempts(frame) if whole_history else frame
    if whole_history and runs is None:
        runs = history_workflows(frame)
    names = attempts["step"].astype(str)
    there = list(dict.fromkeys(names))
    chain = list(steps) if steps is not None else [str(one) for one in FORWARD_OUTSIDE_STEPS if one in there] or there
    missing = sorted(set(chain) - set(there))
    if missing and there:
        raise BadInput(f"There are no attempts of {', '.join(missing)} to learn from.")
    mine = attempts[names.isin(chain)]
    by = {step: mine[names[mine.index] == step] for step in chain}
    alike = len(chain) < 2 or _alike(list(by.values()))
    if alike:
        whole = fit(mine)
        fits = {step: with_latencies_of(whole, frame) for step, frame in by.items()}
    else:
        fits = {step: fit(frame, step) for step, frame in by.items()}
    return Learned(
        fits,
        alike,
        chain=Series(tuple(Step(step) for step in chain)),
        runs=measured_runs(attempts, runs),
        attempts=attempts,
        # Only Temporal's histories know the task queue.
        noun="workflow" if "queue" in attempts else "order",
    )


def _alike(frames: Sequence[pd.DataFrame]) -> bool:
    """Whether the outcomes of several steps differ by no more than chance."""
    rows = []
    for frame in frames:
        outcome = frame["outcome"].astype("string").fillna("unknown")
        ok = int((outcome == "succeeded").sum())
        rows.append([ok, int((outcome == "failed").sum()), int(outcome.isin(["timed out", "abandoned"]).sum())])
        if ok == 0:
            return False
        unknown = int((outcome == "unknown").sum())
        failed = sum(rows[-1][1:])
        rows[-1][1:] = [count + (round(unknown * count / failed) if failed else 0) for count in rows[-1][1:]]
    table = np.array(rows)
    table = table[:, table.sum(axis=0) > 0]
    return table.shape[1] < 2 or float(stats.chi2_contingency(table).pvalue) >= _ALIKE

"""What a frame of attempts says about the steps of a chain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.insight.calls import Calls, Overhead
from trellis.insight.chain import Part, in_a_row, steps_of
from trellis.insight.fit.frame import usable, whole_history
from trellis.insight.fit.pooling import ENOUGH, alike_in_latency, in_words, toward_common
from trellis.insight.fit.risks import OK, Risks
from trellis.insight.fit.runs import measured_runs
from trellis.insight.fit.step import UNKNOWN, Fit, fitted
from trellis.insight.fit.tries import Tries
from trellis.insight.flights.attempts import flight_attempts
from trellis.insight.flights.columns import is_of_the_book
from trellis.insight.frames import noun_of
from trellis.insight.history.frames import history_attempts, history_workflows
from trellis.insight.load import Load
from trellis.insight.retries import Prediction, predict
from trellis.insight.structure import Structure, structure_of
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import Policy

_TIMED = {"order_id", "step", "round", "started_at", "ended_at", "outcome", "duration_ms"}
"""The columns from which the order of steps is learned."""


@dataclass(frozen=True)
class Learned:
    """What was learned from a frame of attempts. `steps`: each step's calls, in the order of the chain.

    `chain`: what a run does. `runs`: one row per run that ended, with the columns of `measured_runs`. `attempts`: what
    it was learned from. `noun`: what a run is called, "order" or "workflow". `remainder`: the time [s] of a run that
    neither its steps nor its waits explain, as equally likely values; empty where it was not measured.
    `structure`: how the chain was learned; None where it was given, or the frame has no times. `load`: how many runs
    share the server, which decides how early its timers fire. None: each run is alone, where timers fire latest. No
    frame shows how many history shards a server has.
    """

    steps: dict[str, Fit]
    chain: Part
    runs: pd.DataFrame
    attempts: pd.DataFrame
    noun: str = "order"
    remainder: tuple[float, ...] = ()
    structure: Structure | None = None
    load: Load | None = None

    @property
    def overhead(self) -> Overhead | None:
        """What a prediction of the chain adds; None where it was not measured. A learned chain holds it as a part."""
        learned = self.structure is not None and self.chain == self.structure.chain
        return self.structure.overhead if self.structure is not None and learned else None

    @property
    def tries(self) -> int:
        return sum(one.tries for one in self.steps.values())

    @property
    def needed(self) -> list[str]:
        """The steps of the chain, each once."""
        return list(dict.fromkeys(step.name for step in steps_of(self.chain)))

    @property
    def calls(self) -> Mapping[str, Calls]:
        """The calls of each step of the chain."""
        return {step: self.steps[step].calls for step in self.needed}

    @property
    def at_worst(self) -> Mapping[str, Calls]:
        """The worst calls that each step's interval allows. All steps are never so unlucky at once: see `worst`."""
        return {step: self.steps[step].at_worst for step in self.needed}

    def worst(self, judge: Callable[[Mapping[str, Calls]], float]) -> float:
        """The largest value of `judge` (such as P(missed) under a policy) that the data allow, at 95 %.

        The steps' shares are independent estimates. The calls that are worst for `judge` and lie inside their joint
        region are one step at its own limit, or several steps part of the way: in proportion to what each alone does to
        the logarithm of `judge`, with squares that add up to 1. That is the limit of one quantity to first order (the
        delta method), so it does not grow looser with the number of steps.
        """
        names, middle = self.needed, self.calls
        alone = {step: judge({**middle, step: self.steps[step].at_worst}) for step in names}
        likely = judge(middle)
        effect = np.array([max(0.0, math.log(max(alone[step], 1e-300) / max(likely, 1e-300))) for step in names])
        length = float(np.sqrt((effect**2).sum()))
        if length <= 0.0:
            return max(likely, *alone.values())
        joint = {step: self.steps[step].toward_worst(far) for step, far in zip(names, effect / length, strict=True)}
        return max(likely, judge(joint), *alone.values())

    @property
    def in_force(self) -> Policy | None:
        """The policy that most of the runs were under, None where none is known."""
        known = [policy for policy in self.runs["policy"] if policy is not None]
        return Counter(known).most_common(1)[0][0] if known else None

    @property
    def setting(self) -> dict[str, Any]:
        """What `predict` and `sweep` need besides the policy and the calls: the chain, the overhead where it was
        measured, and the load where it was given."""
        known = {"steps": self.chain, "overhead": self.overhead, "load": self.load}
        return {name: value for name, value in known.items() if value is not None}

    def predicted(self, policy: Policy, *, deadline: float | None = None) -> Prediction:
        """The prediction of what was learned, under another policy. `deadline` [s] and errors as for `predict`."""
        return predict(policy, self.calls, deadline=deadline, **self.setting)

    def check(self) -> Learned:
        """Return itself. Raises BadInput where no policy can be judged: the chain needs a step that never worked, or
        one of whose good calls no duration is known, or it needs no step at all."""
        if not self.needed:
            raise BadInput(
                f"No retry rule changes how long these {self.noun}s take: they run no activity that is tried."
            )
        for step in self.needed:
            found = self.steps[step]
            if not found.tries:
                raise BadInput(f"No attempt of `{step}` has ended yet: nothing is known about its calls.")
            if not found.worked:
                raise BadInput(
                    f"`{step}` never worked in {found.tries} attempt{'s' * (found.tries != 1)}: no policy helps before "
                    f"it does."
                )
            if not found.timed:
                raise BadInput(
                    f"No attempt of `{step}` that worked has both a start and an end: without its durations no timeout "
                    f"can be judged."
                )
        return self

    def words(self) -> str:
        if len(self.steps) == 1:
            return next(iter(self.steps.values())).words()
        lent = [found.lent for found in self.steps.values() if found.worked]
        each = " ".join(f"{step}: {found.words()}" for step, found in self.steps.items())
        return f"{each} {in_words(lent)}"


def learn(
    frame: pd.DataFrame,
    steps: Sequence[str] | None = None,
    *,
    runs: pd.DataFrame | None = None,
    book: pd.DataFrame | None = None,
) -> Learned:
    """Learn each step's calls from a frame of `insight.attempts`, of `insight.flights`, of `history_attempts` or of
    `insight.history`.

    `book`: a frame of `insight.flights`, beside a whole `insight.history`. The history shows what the workflows do, and
    the book fills its gaps: for the activities in both, every attempt counts with its own end and times.
    `steps`: the chain, in order. None: the chain is learned (`trellis.insight.structure`): an order's where the frame
    has its steps, else what the workflows' times show. A frame without times gives every step once, in the order in
    which the steps first appear. `runs`: the measured durations, as a frame of `insight.orders` or `history_workflows`.
    The steps lend each other evidence (see `pooling`). A step that never worked is learned too, as far as its tries
    say; `Learned.check` refuses a chain that needs it.

    Attempts of runs that are still open count like all others, except those that have not ended. An attempt of a run
    that was cancelled counts as cut off. Raises BadInput with a sentence where the frame cannot be used, where a step
    has no attempts, and where no attempt at all worked.
    """
    if not isinstance(frame, pd.DataFrame):
        raise BadInput(f"A frame is learned from, not {type(frame).__name__}: give what insight.attempts returned.")
    frame, attempts, runs = _read(frame, runs, book)
    names = attempts["step"].astype("string")
    there = list(dict.fromkeys(names))
    noun = noun_of(attempts)
    # A stranger's activity may have the name of an order's step.
    of_an_order = [str(one) for one in FORWARD_OUTSIDE_STEPS if noun == "order" and one in there]
    chain = list(steps) if steps is not None else of_an_order or there
    missing = sorted(set(chain) - set(there))
    if missing:
        raise BadInput(f"There are no attempts of {', '.join(missing)} to learn from.")
    of = {step: Tries.read(rows) for step, rows in attempts.groupby(names, observed=True)[["outcome", "duration_ms"]]}
    fits = _steps({step: of[step] for step in dict.fromkeys(chain)})
    measured = measured_runs(attempts, runs)
    known = "order_id" not in attempts or measured["order_id"].isin(attempts["order_id"].dropna().unique()).any()
    if runs is not None and len(measured) and not known:
        raise BadInput(f"None of these {noun}s has an attempt in the frame: give {noun}s and attempts of one period.")
    if steps is not None or not set(attempts.columns) >= _TIMED:
        return Learned(fits, chain=in_a_row(chain), runs=measured, attempts=attempts, noun=noun)
    structure = structure_of(frame, attempts, runs)
    # The structure knows which runs are children of others, and how long each waited for a person.
    timed = structure.runs.drop_duplicates("order_id").set_index("order_id")
    measured = measured[measured["order_id"].isin(timed.index)].reset_index(drop=True)
    for name in ("seconds", "waited"):
        measured[name] = timed[name].reindex(measured["order_id"]).to_numpy()
    return Learned(
        fits, chain=structure.chain, runs=measured, attempts=attempts, noun=noun, remainder=structure.remainder,
        structure=structure,
    )  # fmt: skip


def _read(
    frame: pd.DataFrame, runs: pd.DataFrame | None, book: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    """(what shows the chain, the attempts, the runs). A whole history holds its runs itself, and shows the chain better
    than its attempts do."""
    if "kind" not in frame:
        if book is not None:
            raise BadInput("book= fills the gaps of a history: give a frame of insight.history, or the book alone.")
        attempts = usable(frame)
        return attempts, attempts, runs
    frame = whole_history(frame)
    attempts = usable(history_attempts(frame) if book is None else _filled(frame, book))
    if not (frame["kind"] == "workflow").any():
        return attempts, attempts, runs
    return frame, attempts, history_workflows(frame) if runs is None else runs


def _filled(history: pd.DataFrame, book: pd.DataFrame) -> pd.DataFrame:
    """The attempts of a history, with those of the book in its gaps. Of other runs in the book nothing is taken."""
    if not is_of_the_book(book):
        raise BadInput("book= is a frame that insight.flights returned.")
    mine = book[book["run_id"].isin(history["run_id"].dropna().unique()).to_numpy()]
    return flight_attempts(mine, history) if len(mine) else history_attempts(history)


def _steps(tries: Mapping[str, Tries]) -> dict[str, Fit]:
    """The calls of each step, with what the steps lend each other."""
    ended = {step: one for step, one in tries.items() if len(one.kind)}
    if not ended:
        raise BadInput("There are no attempts that ended to learn from.")
    if not any(one.worked for one in ended.values()):
        number = sum(len(one.kind) for one in ended.values())
        raise BadInput(f"None of the {number} attempts worked: no policy helps before one does.")
    found = {step: fitted(one) for step, one in ended.items()}
    fits = {step: found[step][0] if step in found else UNKNOWN for step in tries}
    working = [step for step, one in fits.items() if one.worked]
    lent = toward_common({step: fits[step].shares for step in working}, {step: found[step][1] for step in working})
    weights = np.array([found[step][1] for step in working])
    common = {
        name: float(np.average([fits[step].shares[name] for step in working], weights=weights))
        for name in ("ok", "error", "hang")
    }
    together = alike_in_latency({step: ended[step].timed_good for step in working if ended[step].timed})
    for step in working:
        fits[step] = _with_latencies(fits[step].moved(common, lent[step]), step, ended, together.get(step, ()))
    return fits


def _with_latencies(fit: Fit, step: str, tries: Mapping[str, Tries], together: Sequence[str]) -> Fit:
    """The fit with the latencies of all steps in `together`, where the step has too few good calls of its own."""
    own = tries[step].timed_good
    if len(own) >= ENOUGH or len(together) < 2:
        return fit
    all_ = Tries.together([tries[one] for one in together])
    latency = Risks(all_.kind, all_.seconds, all_.weight).values(OK)
    # The slowest good call that this step has seen stays possible, however few of the others' are so slow.
    latency = (*latency[:-1], max(latency[-1], float(own.max())))
    return replace(fit, latency=latency, latency_of=tuple(one for one in together if one != step))

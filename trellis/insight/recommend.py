"""Which policy gets orders done in time, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Overhead
from trellis.insight.candidates import BACKOFFS, LANES, candidates, quick_rules
from trellis.insight.chain import Part, steps_of
from trellis.insight.checks import Check, checked
from trellis.insight.checks.load import beyond
from trellis.insight.checks.measured import MeasuredRuns
from trellis.insight.fit import Learned
from trellis.insight.load import Load
from trellis.insight.per_step import WORTH, cheapest_mix
from trellis.insight.policy_words import as_options, misses, one_in, rules
from trellis.insight.retries import RESOLUTION, Prediction, predict, sweep
from trellis.insight.storms import calls_while_out
from trellis.insight.stress import Stress, Stressed, Trial, arrival_rate, surviving
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import Placement, Policy, Retry

OUT = 10.0
"""The length of the outage for which every recommendation says how many calls it costs [s]."""

_GIVEN = Check("given", True, "The faults were given, not learned, so there are no data to check them against.")


@dataclass(frozen=True)
class Recommendation:
    """A policy, its predicted results, the frontier from which it was chosen, and the checks of what it assumes.

    `p_miss_at_worst`: P(missed) at the bad ends of the intervals of the learned faults; None where the faults were
    given, not learned. `frontier`: columns as `trellis.insight.retries.sweep`, and `pareto` (no other policy is better
    in both P(missed) and calls). `measured`: how many runs of the data missed the deadline, under the policy in force
    and under all policies; None where the faults were given. `steps`: the steps of the chain. `doubt`: how precisely
    `p_miss` was computed, where that is not precise. `outage_calls`: how many times its usual calls a step's provider
    gets while it is out for `OUT` seconds and its calls raise. `stressed`: the outage and the capacity that the policy
    was tried under, where that was asked for.

    Where a check failed, no number here is better than the upper 95 % limit of what was measured: not `p_miss`, `p50`,
    `p99`, nor those of the frontier. Percentiles are then infinite where the data are too few to limit them.
    """

    policy: Policy
    deadline: float
    p_miss: float
    p50: float
    p99: float
    calls_per_step: float
    frontier: pd.DataFrame
    p_miss_at_worst: float | None = None
    checks: tuple[Check, ...] = ()
    noun: str = "order"
    measured: MeasuredRuns | None = None
    steps: tuple[str, ...] = ()
    doubt: str = ""
    outage_calls: float = math.nan
    stressed: Stressed | None = None

    @property
    def trust(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    @property
    def today(self) -> float | None:
        """The share of the measured runs that missed the deadline under the policy in force. None: not measured."""
        return self.measured.today.share if self.measured and self.measured.today.runs else None

    def words(self) -> str:
        """The advice in a few sentences. Checks that failed come first, and what it costs in an outage last."""
        tried = "" if self.stressed is None else f" {self.stressed.words(self.noun)}"
        return (
            f"{self._advice()} While a step's provider is out for {OUT:g} s, it gets about {self.outage_calls:.3g} "
            f"times its usual calls.{tried}"
        )

    def _advice(self) -> str:
        now = "" if self.measured is None else f" {self.measured.words(self.deadline, self.noun)}"
        advice = f"{rules(self.policy)}: "
        cost = f"costs {self.calls_per_step:.1f} calls a step"
        doubt = f" ({self.doubt})" if self.doubt else ""
        if not self.trust:
            failed = " ".join(check.words for check in self.checks if not check.ok)
            return (
                f"Do not rely on this advice. {failed}{now} No better figure can be given for {advice}"
                f"up to {one_in(self.p_miss, self.noun)} may miss {self.deadline:g} s; {cost}."
            )
        if self.p_miss_at_worst is None:
            return (
                f"{advice}{misses(self.p_miss, self.noun)} {self.deadline:g} s{doubt}; {cost}. "
                "This assumes that each call fails independently of the others."
            )
        return (
            f"{advice}at worst {misses(self.p_miss_at_worst, self.noun)} {self.deadline:g} s (by the estimate "
            f"{one_in(self.p_miss, self.noun)}{doubt}); {cost}.{now}"
        )

    def paste(self) -> str:
        """The policy as Temporal's options for each step, in Python."""
        return as_options(self.policy, self.steps)


def recommend(
    deadline: float,
    epsilon: float,
    faults: FaultPlan | Mapping[str, Calls] | Learned | None = None,
    *,
    max_calls: float | None = None,
    steps: Part | None = None,
    overhead: Overhead | None = None,
    load: Load | None = None,
    stress: Stress | None = None,
) -> Recommendation:
    """The cheapest policy under which at most a share `epsilon` of orders misses `deadline` [s]. Of policies that cost
    the same it takes the gentlest.

    The policy has one retry rule for all steps, unless rules for single steps save at least a twentieth of the calls,
    or reach `epsilon` where one rule cannot. `faults`: None for the canonical faults; a mapping or the result of
    `fit.learn` sets the chain of steps. `max_calls`: the most calls a step may take on average. `steps`: what a run
    does, in place of the chain that `faults` sets. `overhead`: None for the measured one, or for an order's in
    proportion to the number of steps. `load`: how many runs share the server, which decides how early its timers fire;
    None: each is alone, where they fire latest. Raises BadInput when no policy is good enough; the message names the
    best policy with one rule.

    What was learned is checked (`trellis.insight.checks`). Where a check fails, no policy with more lanes than those in
    force is considered, because failures may come from load. Where every check passes and the best policy makes more
    calls at once than the data show, the best one without further lanes is taken. If that makes too many as well, the
    check `independent` fails.
    """
    if not 0 < epsilon < 1 or not 0 < deadline < 86_400:
        raise BadInput("The deadline must be more than 0 s and less than a day, epsilon between 0 and 1.")
    if epsilon < RESOLUTION:
        raise BadInput(f"An epsilon of {epsilon:g} is below what can be computed: give {RESOLUTION:g} or more.")
    if max_calls is not None and not max_calls >= 1:
        raise BadInput("A step takes at least one call: give a limit of 1 or more calls a step.")
    if isinstance(faults, Learned) and load is not None:
        faults = replace(faults, load=load)
    world = _world(faults, steps, overhead, load)
    if stress:
        world = replace(world, calls=stress.served(world.calls))
    learned = faults if isinstance(faults, Learned) else None
    if learned is not None:
        learned = (learned if steps is None else replace(learned, chain=steps)).check()
    checks = (_GIVEN,) if learned is None else checked(learned, deadline)
    measured = None if learned is None else MeasuredRuns.of(learned, deadline)
    trust = all(check.ok for check in checks)
    goal = _Goal(deadline, epsilon, math.inf if max_calls is None else max_calls, world)
    arriving = None if learned is None else arrival_rate(learned.attempts)
    trial = Trial(stress, world.calls, world.known.get("steps"), world.known["overhead"], arriving) if stress else None
    lanes = max(LANES) if trust or measured is None else measured.lanes
    try:
        found, table = _chosen(goal, lanes) if learned is None else _gentlest(goal, lanes)
    except BadInput as error:
        if trust:
            raise
        failed = " ".join(check.words for check in checks if not check.ok)
        raise BadInput(f"No policy can be advised. {failed}") from error
    if learned is not None and measured is not None and trust:
        found, table, heavy = _within_load(goal, learned, measured.lanes, (found, table))
        if heavy is not None:
            trust = False
            checks = tuple(heavy if check.name == heavy.name else check for check in checks)
    stressed = None
    if trial is not None:
        found, stressed = surviving(trial, goal.rivals(found.policy, table, lanes), goal.predicted_if_met)
        if found.policy.name not in set(table["name"]):
            table = goal.with_row(table, found.policy)
    worst = None
    if learned is not None:
        worst = learned.worst(lambda calls: predict(found.policy, calls, **goal.fine).p_miss(deadline))
    answer = Recommendation(
        found.policy, deadline, found.p_miss(deadline), found.percentile(0.5), found.percentile(0.99),
        found.calls_per_step, table, worst, checks, world.noun, measured,
        tuple(world.calls), found.doubt(deadline), calls_while_out(found.policy, world.calls, seconds=OUT), stressed,
    )  # fmt: skip
    return answer if trust or measured is None else _no_better_than(measured, answer)


def _within_load(
    goal: _Goal, learned: Learned, lanes: int, chosen: tuple[Prediction, pd.DataFrame]
) -> tuple[Prediction, pd.DataFrame, Check | None]:
    """`chosen`, if it makes no more calls at once than the data show. Else the best choice with at most `lanes`, if
    that one does not. Else `chosen` with a failed check."""
    heavy = beyond(learned, chosen[0].tries)
    if heavy is not None and any(rule.hedge > lanes for rule in _rules(chosen[0].policy)):
        try:
            gentler = _chosen(goal, lanes)
        except BadInput:
            return *chosen, heavy
        if beyond(learned, gentler[0].tries) is None:
            return *gentler, None
    return *chosen, heavy


def _rules(policy: Policy) -> Iterator[Retry]:
    yield policy.retry
    yield from policy.steps.values()


def _no_better_than(measured: MeasuredRuns, answer: Recommendation) -> Recommendation:
    """`answer` with every figure at least the upper 95 % limit of what was measured."""
    least = measured.limit
    frontier = answer.frontier.assign(
        p_miss=answer.frontier["p_miss"].clip(lower=least),
        p50=answer.frontier["p50"].clip(lower=measured.p50),
        p99=answer.frontier["p99"].clip(lower=measured.p99),
    )
    return replace(
        answer,
        p_miss=max(answer.p_miss, least),
        p_miss_at_worst=None if answer.p_miss_at_worst is None else max(answer.p_miss_at_worst, least),
        p50=max(answer.p50, measured.p50),
        p99=max(answer.p99, measured.p99),
        frontier=frontier,
    )


def _gentlest(goal: _Goal, lanes: int) -> tuple[Prediction, pd.DataFrame]:
    """As `_chosen`. More than two lanes are considered only where two do not reach the goal, which takes half the
    time."""
    try:
        return _chosen(goal, min(lanes, 2))
    except BadInput:
        if lanes <= 2:
            raise
        return _chosen(goal, lanes)


def _chosen(goal: _Goal, lanes: int) -> tuple[Prediction, pd.DataFrame]:
    """The cheapest policy that reaches the goal with at most `lanes`, and the table of those considered."""
    deadline, epsilon, chain = goal.deadline, goal.epsilon, goal.world.calls
    policies = {policy.name: policy for policy in candidates(deadline, chain.values(), lanes)}
    table = sweep(policies.values(), chain, deadline=deadline, **goal.world.known)
    affordable = table[table["calls_per_step"] <= goal.ceiling + 1e-9]
    ranked = _ranked(affordable)
    likely = ranked.loc[ranked["p_miss"] <= epsilon * 3, "name"]
    found = next(filter(None, (goal.predicted_if_met(policies[name]) for name in likely)), None)
    least = float(table["calls_per_step"].min())
    if found is None or found.calls_per_step * (1 - WORTH) > least:
        base = found.policy if found else policies[str(table.sort_values("p_miss")["name"].iloc[0])]
        mixed = goal.met_by_mixing(base, lanes)
        if mixed is not None and (found is None or mixed.calls_per_step <= found.calls_per_step * (1 - WORTH)):
            found = mixed
            table = goal.with_row(table, mixed.policy)
    if found is None and affordable.empty:
        raise BadInput(f"No policy manages with {goal.ceiling:g} calls a step: these faults need {least:.2f}.")
    if found is None:
        best = affordable.sort_values("p_miss").iloc[0]
        raise BadInput(
            f"No policy reaches {epsilon:g} in {deadline:g} s"
            + ("" if goal.ceiling == math.inf else f" with {goal.ceiling:g} calls a step")
            + f"; the best is {best['name']}: {misses(float(best['p_miss']), goal.world.noun)}."
        )
    table["pareto"] = _pareto(table)
    return found, table


@dataclass(frozen=True)
class _World:
    """How calls behave, and what `predict` needs to know besides: the chain and the overhead. `noun`: what a run is
    called, "order" or "workflow"."""

    calls: Mapping[str, Calls]
    known: Mapping[str, Any]
    noun: str


def _world(
    faults: FaultPlan | Mapping[str, Calls] | Learned | None,
    steps: Part | None,
    overhead: Overhead | None,
    load: Load | None,
) -> _World:
    if isinstance(faults, Learned):
        calls = faults.calls if steps is None else {step: one.calls for step, one in faults.steps.items()}
        known = faults.setting
    else:
        calls, known = _planned(faults, steps), {} if load is None else {"load": load}
    if steps is not None:
        names = dict.fromkeys(step.name for step in steps_of(steps))
        if missing := [name for name in names if name not in calls]:
            raise BadInput(f"Nothing is known of {', '.join(missing)}. Known are {', '.join(calls)}.")
        calls, known = {name: calls[name] for name in names}, {**known, "steps": steps}
    if overhead is not None or "overhead" not in known:
        usual = Overhead(order=Overhead().order * len(calls) / len(FORWARD_OUTSIDE_STEPS))
        known = {**known, "overhead": overhead or usual}
    order = {str(step) for step in FORWARD_OUTSIDE_STEPS}
    noun = faults.noun if isinstance(faults, Learned) else "order" if order >= set(map(str, calls)) else "workflow"
    return _World(calls, known, noun)


def _planned(faults: FaultPlan | Mapping[str, Calls] | None, steps: Part | None) -> Mapping[str, Calls]:
    """Each step's calls, where they were given."""
    if isinstance(faults, Mapping):
        return faults
    plan = FaultPlan.canonical() if faults is None else faults
    names = FORWARD_OUTSIDE_STEPS if steps is None else [step.name for step in steps_of(steps)]
    return {str(step): Calls.planned(plan, step) for step in names}


@dataclass(frozen=True)
class _Goal:
    """What a policy must reach: P(missed `deadline` [s]) <= `epsilon`, with at most `ceiling` calls a step."""

    deadline: float
    epsilon: float
    ceiling: float
    world: _World

    @property
    def fine(self) -> dict[str, Any]:
        """What is known, and the time at which the prediction must be precise."""
        return {**self.world.known, "deadline": self.deadline}

    def predicted_if_met(self, policy: Policy) -> Prediction | None:
        """The prediction for `policy`, or None where it is not good enough."""
        found = predict(policy, self.world.calls, **self.fine)
        good = found.p_miss(self.deadline) <= self.epsilon and found.calls_per_step <= self.ceiling + 1e-9
        return found if good else None

    def with_row(self, table: pd.DataFrame, policy: Policy) -> pd.DataFrame:
        """`table` with a row for one more policy."""
        row = sweep([policy], self.world.calls, deadline=self.deadline, **self.world.known)
        table = pd.concat([table.drop(columns="pareto", errors="ignore"), row], ignore_index=True)
        return table.assign(pareto=_pareto(table))

    def rivals(self, chosen: Policy, table: pd.DataFrame, lanes: int) -> Iterator[Policy]:
        """`chosen`, and then the cheapest policy of each longer timeout that is good enough."""
        yield chosen
        policies = {policy.name: policy for policy in candidates(self.deadline, self.world.calls.values(), lanes)}
        good = _ranked(table[(table["p_miss"] <= self.epsilon) & (table["calls_per_step"] <= self.ceiling + 1e-9)])
        longer = good[good["try_timeout"] > chosen.retry.try_timeout].drop_duplicates("try_timeout")
        for name in longer["name"]:
            if name in policies and policies[name] != chosen:
                yield policies[name]

    def met_by_mixing(self, base: Policy, lanes: int) -> Prediction | None:
        """The prediction for a policy with rules for single steps that is good enough, or None."""
        backoffs = [(base.retry.first_backoff, base.retry.max_backoff), BACKOFFS[0]]
        rules = {
            step: list(dict.fromkeys([base.retry, *quick_rules(self.deadline, [calls], backoffs, lanes)]))
            for step, calls in self.world.calls.items()
        }
        found: Prediction | None = None

        def good_enough(mix: Policy) -> bool:
            nonlocal found
            found = self.predicted_if_met(mix)
            return found is not None

        cheapest_mix(
            base, self.world.calls, rules, self.world.known["overhead"], self.deadline, self.epsilon,
            steps=self.world.known.get("steps"), good_enough=good_enough,
        )  # fmt: skip
        # The last mix that was asked about is the answer.
        return found


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Sorted by cost. At equal cost the gentlest comes first: retries by the server (they need no code), then long
    timeouts, then long backoffs."""
    return table.assign(
        cost=table["calls_per_step"].round(2), quick=table["placement"] != Placement.SERVER
    ).sort_values(["cost", "quick", "try_timeout", "max_backoff"], ascending=[True, True, False, False])


def _pareto(table: pd.DataFrame) -> list[bool]:
    """Which rows no other row beats in both P(missed) and calls."""
    miss, calls = table["p_miss"].to_numpy(), table["calls_per_step"].round(2).to_numpy()
    return [
        not bool(np.any((miss <= m) & (calls <= c) & ((miss < m) | (calls < c))))
        for m, c in zip(miss, calls, strict=True)
    ]

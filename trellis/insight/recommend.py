"""Which policy gets orders done in time, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Overhead
from trellis.insight.fit import Learned
from trellis.insight.per_step import WORTH, cheapest_mix, short
from trellis.insight.retries import RESOLUTION, Prediction, predict, sweep
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import Jitter, Placement, Policy, Retry

_TIMEOUTS = (0.06, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Timeouts to consider [s]. None is shorter than what a call over a network may take, even if a plan says less."""

_OF_LATENCY = (1.5, 3.0, 6.0)
"""Further timeouts, in multiples of the time that slow good calls take."""

_BACKOFFS = ((0.005, 0.05), (0.01, 0.2), (0.05, 0.5), (0.2, 1.0))
_LANES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Recommendation:
    """A policy for the desk, its predicted results, and the frontier from which it was chosen.

    `p_miss_at_worst`: P(missed) at the bad ends of the intervals of the learned faults; None where the faults were
    given, not learned. `frontier`: columns as `trellis.insight.retries.sweep`, and `pareto` (no other policy is better
    in both P(missed) and calls).
    """

    policy: Policy
    deadline: float
    p_miss: float
    p50: float
    p99: float
    calls_per_step: float
    frontier: pd.DataFrame
    p_miss_at_worst: float | None = None

    def words(self) -> str:
        worst = "" if self.p_miss_at_worst is None else f" (at worst {one_in(self.p_miss_at_worst)})"
        apart = "".join(f"; for {step} {_rule(rule)}" for step, rule in self.policy.steps.items())
        return (
            f"{_rule(self.policy.retry)}{apart}: {one_in(self.p_miss)} misses {self.deadline:g} s{worst}; "
            f"costs {self.calls_per_step:.1f} calls a step"
        )


def _rule(retry: Retry) -> str:
    lanes = f", {retry.hedge} lanes" if retry.hedge > 1 else ""
    where = " by the server" if retry.placement is Placement.SERVER else ""
    backoff = f"{retry.first_backoff * 1000:g}-{retry.max_backoff * 1000:g} ms"
    return f"timeout {retry.try_timeout:.3g} s, backoff {backoff}{where}{lanes}"


def recommend(
    deadline: float,
    epsilon: float,
    faults: FaultPlan | Mapping[str, Calls] | Learned | None = None,
    *,
    max_calls: float | None = None,
    overhead: Overhead | None = None,
) -> Recommendation:
    """The cheapest policy under which at most a share `epsilon` of orders misses `deadline` [s]. Of policies that cost
    the same it takes the gentlest.

    The policy has one retry rule for all steps, unless rules for single steps save at least a twentieth of the calls,
    or reach `epsilon` where one rule cannot. `faults`: None for the canonical faults; a mapping or the result of
    `fit.learn` sets the chain of steps. `max_calls`: the most calls a step may take on average. `overhead`: None for
    an order's, in proportion to the number of steps. Raises BadInput when no policy is good enough; the message names
    the best policy with one rule.
    """
    if not 0 < epsilon < 1 or not 0 < deadline < 86_400:
        raise BadInput("The deadline must be more than 0 s and less than a day, epsilon between 0 and 1.")
    if epsilon < RESOLUTION:
        raise BadInput(f"An epsilon of {epsilon:g} is below what can be computed: give {RESOLUTION:g} or more.")
    if max_calls is not None and not max_calls >= 1:
        raise BadInput("A step takes at least one call: give a limit of 1 or more calls a step.")
    chain = _chain(faults)
    timing = overhead or Overhead(order=Overhead().order * len(chain) / len(FORWARD_OUTSIDE_STEPS))
    goal = _Goal(deadline, epsilon, math.inf if max_calls is None else max_calls, chain, timing)
    policies = {policy.name: policy for policy in _candidates(deadline, chain.values())}
    table = sweep(policies.values(), chain, deadline=deadline, overhead=timing)
    affordable = table[table["calls_per_step"] <= goal.ceiling + 1e-9]
    ranked = _ranked(affordable)
    likely = ranked.loc[ranked["p_miss"] <= epsilon * 3, "name"]
    found = next(filter(None, (goal.predicted_if_met(policies[name]) for name in likely)), None)
    least = float(table["calls_per_step"].min())
    # Only the steps of an order can have rules of their own.
    if set(chain) <= set(FORWARD_OUTSIDE_STEPS) and (found is None or found.calls_per_step * (1 - WORTH) > least):
        base = found.policy if found else policies[str(table.sort_values("p_miss")["name"].iloc[0])]
        mixed = goal.met_by_mixing(base)
        if mixed is not None and (found is None or mixed.calls_per_step <= found.calls_per_step * (1 - WORTH)):
            found = mixed
            row = sweep([mixed.policy], chain, deadline=deadline, overhead=timing)
            table = pd.concat([table, row], ignore_index=True)
    if found is None and affordable.empty:
        raise BadInput(f"No policy manages with {goal.ceiling:g} calls a step: these faults need {least:.2f}.")
    if found is None:
        best = affordable.sort_values("p_miss").iloc[0]
        raise BadInput(
            f"No policy reaches {epsilon:g} in {deadline:g} s"
            + ("" if max_calls is None else f" with {max_calls:g} calls a step")
            + f"; the best is {best['name']}: {one_in(float(best['p_miss']))} misses."
        )
    table["pareto"] = _pareto(table)
    worst = None
    if isinstance(faults, Learned):
        worst = predict(found.policy, faults.at_worst, **goal.fine).p_miss(deadline)
    return Recommendation(
        found.policy, deadline, found.p_miss(deadline), found.percentile(0.5), found.percentile(0.99),
        found.calls_per_step, table, worst,
    )  # fmt: skip


@dataclass(frozen=True)
class _Goal:
    """What a policy must reach: P(missed `deadline` [s]) <= `epsilon`, with at most `ceiling` calls a step."""

    deadline: float
    epsilon: float
    ceiling: float
    chain: Mapping[str, Calls]
    timing: Overhead

    @property
    def fine(self) -> dict[str, Any]:
        """The grid on which a policy is checked."""
        return {"overhead": self.timing, "dt": max(0.002, self.deadline / 8000)}

    def predicted_if_met(self, policy: Policy) -> Prediction | None:
        """The prediction for `policy`, or None where it is not good enough."""
        found = predict(policy, self.chain, **self.fine)
        good = found.p_miss(self.deadline) <= self.epsilon and found.calls_per_step <= self.ceiling + 1e-9
        return found if good else None

    def met_by_mixing(self, base: Policy) -> Prediction | None:
        """The prediction for a policy with rules for single steps that is good enough, or None."""
        backoffs = [(base.retry.first_backoff, base.retry.max_backoff), _BACKOFFS[0]]
        rules = {
            step: list(dict.fromkeys([base.retry, *_quick_rules(self.deadline, [calls], backoffs)]))
            for step, calls in self.chain.items()
        }
        # A policy that is good enough on the coarse grid may not be on the fine one.
        for margin in (1.0, 0.7, 0.4):
            policy = cheapest_mix(base, self.chain, rules, self.timing, self.deadline, self.epsilon * margin)
            found = None if policy is None else self.predicted_if_met(policy)
            if found is not None:
                return found
        return None


def _chain(faults: FaultPlan | Mapping[str, Calls] | Learned | None) -> Mapping[str, Calls]:
    """Each step's calls."""
    if isinstance(faults, Learned):
        return faults.check().calls
    if isinstance(faults, Mapping):
        return faults
    plan = FaultPlan.canonical() if faults is None else faults
    return {str(step): Calls.planned(plan, step) for step in FORWARD_OUTSIDE_STEPS}


def _candidates(deadline: float, chain: Collection[Calls]) -> Iterator[Policy]:
    """Policies with one retry rule for all steps."""
    budget = max(deadline, 1.0)
    for rule in _quick_rules(deadline, chain, _BACKOFFS):
        yield Policy(short(rule), budget=budget, retry=rule)
        if rule.hedge == 1:
            server = Retry(rule.try_timeout, rule.first_backoff, rule.max_backoff)
            yield Policy(short(server), budget=budget, retry=server)


def _quick_rules(deadline: float, chain: Collection[Calls], backoffs: Sequence[tuple[float, float]]) -> Iterator[Retry]:
    """Retry rules inside the activity. No timeout is shorter than the slow good calls of `chain`."""
    slow = max(float(np.quantile(calls.latency, 0.99)) for calls in chain)
    budget = max(deadline, 1.0)
    timeouts = {timeout for timeout in _TIMEOUTS if timeout >= slow}
    timeouts |= {float(f"{slow * factor:.2g}") for factor in _OF_LATENCY if slow * factor > _TIMEOUTS[0]}
    timeouts = {timeout for timeout in timeouts if timeout < budget} or {budget / 2}
    for timeout in sorted(timeouts):
        for first, most in backoffs:
            for lanes in _LANES:
                yield Retry(timeout, first, most, jitter=Jitter.FULL, placement=Placement.ACTIVITY, hedge=lanes)


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


def one_in(share: float) -> str:
    """A small share in words: "1 in 1.6 million orders"."""
    if share <= RESOLUTION:
        return "fewer than 1 in a trillion orders"
    if share > 0.05:
        return f"{share:.0%} of orders"
    number = 1 / share
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"1 in {number / size:.1f} {word} orders"
    return f"1 in {number:,.0f} orders"

"""Which policy gets orders done in time, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.retries import predict, sweep
from trellis.policies import Jitter, Placement, Policy, Retry

_TIMEOUTS = (0.02, 0.05, 0.1, 0.15, 0.25, 0.4, 0.6, 1.0, 1.5, 2.0, 3.0, 5.0)
_BACKOFFS = ((0.005, 0.05), (0.01, 0.2), (0.05, 0.5), (0.2, 1.0))
_LANES = (1, 2, 3, 4)

_ROOM = 3.0
"""A timeout is at least so many times the latency of slow good calls, so that it cuts hangs off and not them."""

_LEAST_LATENCY = 0.02
"""Seconds that any call over a network may take, whatever a plan or a fit says."""


@dataclass(frozen=True)
class Recommendation:
    """A policy for the desk, what it does, and the frontier it was chosen from.

    `frontier`: columns as `trellis.insight.retries.sweep`, and `pareto`: no other policy is better in both P(missed)
    and calls.
    """

    policy: Policy
    deadline: float
    p_miss: float
    p50: float
    p99: float
    calls_per_step: float
    frontier: pd.DataFrame

    def words(self) -> str:
        retry = self.policy.retry
        lanes = f", {retry.hedge} lanes" if retry.hedge > 1 else ""
        where = " by the server" if retry.placement is Placement.SERVER else ""
        return (
            f"timeout {retry.try_timeout:g} s, backoff {retry.first_backoff * 1000:g}-{retry.max_backoff * 1000:g} ms"
            f"{where}{lanes}: {one_in(self.p_miss)} misses {self.deadline:g} s; "
            f"costs {self.calls_per_step:.1f} calls a step"
        )


def recommend(
    deadline: float, epsilon: float, faults: FaultPlan | None = None, *, max_calls: float | None = None
) -> Recommendation:
    """The cheapest policy that misses `deadline` [s] in at most a share `epsilon` of orders, the gentlest of those.

    `faults` None: the canonical thirds. `max_calls`: at most so many calls a step. Raises BadInput when no policy does
    it, and names the best one.
    """
    if not 0 < epsilon < 1 or not 0 < deadline < 86_400:
        raise BadInput("A deadline is more than 0 s and less than a day; epsilon is between 0 and 1.")
    plan = FaultPlan.canonical() if faults is None else faults
    policies = {policy.name: policy for policy in _candidates(deadline, plan)}
    horizon = max(4 * deadline, 10.0)
    table = sweep(policies.values(), plan, deadline=deadline, dt=horizon / 4096, horizon=horizon)
    table["pareto"] = _pareto(table)
    affordable = table[table["calls_per_step"] <= (max_calls or np.inf) + 1e-9]
    if affordable.empty:
        raise BadInput(
            f"No policy makes do with {max_calls:g} calls a step: "
            f"these faults need {table['calls_per_step'].min():.2f}."
        )
    # Of equal cost the gentlest: retries by the server, which need no code; then long timeouts and long backoffs.
    ranked = affordable.assign(
        cost=affordable["calls_per_step"].round(2), quick=affordable["placement"] != Placement.SERVER
    ).sort_values(["cost", "quick", "try_timeout", "max_backoff"], ascending=[True, True, False, False])
    for name in ranked.loc[ranked["p_miss"] <= epsilon * 3, "name"]:
        found = predict(policies[name], plan, horizon=max(60.0, horizon))
        if found.p_miss(deadline) <= epsilon:
            return Recommendation(
                policies[name], deadline, found.p_miss(deadline), found.percentile(0.5), found.percentile(0.99),
                found.calls_per_step, table,
            )  # fmt: skip
    best = affordable.sort_values("p_miss").iloc[0]
    raise BadInput(
        f"No policy reaches {epsilon:g} in {deadline:g} s"
        + (f" with {max_calls:g} calls a step" if max_calls else "")
        + f"; the best is {best['name']}: {one_in(float(best['p_miss']))} misses."
    )


def _candidates(deadline: float, plan: FaultPlan) -> Iterator[Policy]:
    slowest = max([_LEAST_LATENCY, plan.mix.latency, *(mix.latency for mix in plan.steps.values())])
    budget = max(deadline, 1.0)
    for timeout in _TIMEOUTS:
        if timeout < _ROOM * slowest or timeout >= budget:
            continue
        for first, most in _BACKOFFS:
            for lanes in _LANES:
                name = f"{timeout:g} s, {first * 1000:g}-{most * 1000:g} ms, {lanes} lane{'s' * (lanes > 1)}"
                retry = Retry(timeout, first, most, jitter=Jitter.FULL, placement=Placement.ACTIVITY, hedge=lanes)
                yield Policy(name, budget=budget, retry=retry)
            name = f"{timeout:g} s, {first * 1000:g}-{most * 1000:g} ms, by the server"
            yield Policy(name, budget=budget, retry=Retry(timeout, first, most))


def _pareto(table: pd.DataFrame) -> list[bool]:
    """Which rows no other row beats in both P(missed) and calls."""
    miss, calls = table["p_miss"].to_numpy(), table["calls_per_step"].to_numpy()
    return [
        not bool(np.any((miss <= m) & (calls <= c) & ((miss < m) | (calls < c - 1e-9))))
        for m, c in zip(miss, calls, strict=True)
    ]


def one_in(share: float) -> str:
    """A small share in words: "1 in 1.6 million orders"."""
    if share <= 1e-12:
        return "fewer than 1 in a trillion orders"
    if share > 0.05:
        return f"{share:.0%} of orders"
    number = 1 / share
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"1 in {number / size:.1f} {word} orders"
    return f"1 in {number:,.0f} orders"

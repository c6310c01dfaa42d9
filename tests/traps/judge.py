"""Judges advice: learned from one run of a world, and tried in the same world with many more runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from tests.traps.frames import history, ledger
from tests.traps.world import Calls, Program, Rule, World
from trellis.errors import BadInput
from trellis.insight.fit import learn
from trellis.insight.recommend import recommend
from trellis.policies import Jitter, Placement, Retry

DOUBT = 1e-3
"""A promise is broken where what was seen had a smaller chance than this, if the promise were true."""

ROOM = 0.15
"""The share by which a promised median may be wrong; a 99 % point may be wrong by twice as much. To it comes what
chance explains. Where the server retries, both have twice that room: here its timers have a floor of 1 s, and those of
a real server fire earlier at times."""


@dataclass(frozen=True)
class Scenario:
    """A world, the rules in force in it, and what is wanted. `view`: what is learned from, ledger or history.
    `until`: the data are as they are so many seconds after the start."""

    program: Program
    calls: Calls
    rule: Rule
    deadline: float
    epsilon: float = 1e-3
    rules: Mapping[str, Rule] = field(default_factory=dict)
    view: str = "ledger"
    runs: int = 300
    at_once: int | None = 10
    rate: float | None = None
    gap: float = 0.02
    until: float = math.inf
    trials: int = 1500

    def lived(self, seed: int) -> World:
        """The world under the rules in force."""
        return self._lived(seed, self.runs, self.rule, self.rules)

    def under(self, policy: Any, seed: int) -> World:
        """The same world under an advised policy."""
        steps = {name: translated(rule) for name, rule in policy.steps.items()}
        return self._lived(seed, self.trials, translated(policy.retry), steps)

    def _lived(self, seed: int, runs: int, rule: Rule, rules: Mapping[str, Rule]) -> World:
        world = World(self.program, self.calls, rule, dict(rules), seed=seed, gap=self.gap)
        return world.simulate(runs, at_once=self.at_once, rate=self.rate)

    def advice(self, world: World) -> Any:
        """What the package recommends from the frames of this world. Raises BadInput where it refuses in words."""
        if self.view == "history":
            learned = learn(history(world, until=self.until))
        else:
            seen = ledger(world, until=self.until)
            learned = learn(seen.attempts, runs=seen.orders)
        return recommend(self.deadline, self.epsilon, learned)


@dataclass(frozen=True)
class Verdict:
    """`kind`: refused (in words, or by a failed check), right, or wrong. `trust`: whether the checks passed."""

    kind: str
    why: str
    advised: Any = None

    @property
    def refused(self) -> bool:
        return self.kind == "refused"


def translated(retry: Retry) -> Rule:
    return Rule(
        retry.try_timeout, retry.first_backoff, retry.max_backoff, retry.multiplier, retry.jitter is Jitter.FULL,
        retry.max_tries, retry.placement is Placement.SERVER, retry.hedge,
    )  # fmt: skip


def few_candidates(patch: pytest.MonkeyPatch) -> None:
    """Let `recommend` choose among fewer policies, which is quicker."""
    patch.setattr("trellis.insight.candidates._TIMEOUTS", (0.1, 0.4, 1.5, 5.0))
    for module in ("candidates", "recommend"):
        patch.setattr(f"trellis.insight.{module}.BACKOFFS", ((0.005, 0.05), (0.2, 1.0)))
        patch.setattr(f"trellis.insight.{module}.LANES", (1, 2))


def judged(scenario: Scenario, seed: int = 0) -> Verdict:
    world = scenario.lived(seed)
    try:
        found = scenario.advice(world)
    except BadInput as refusal:
        return Verdict("refused" if len(str(refusal)) > 20 else "wrong", str(refusal))
    if not found.trust:
        return _refused(scenario, world, found)
    return _promise(scenario, world, found, seed)


def _top(world: World) -> list[Any]:
    return [run for run in world.runs if run.parent is None]


def misses(world: World, deadline: float) -> tuple[int, int]:
    """(runs that did not succeed within the deadline, runs)."""
    runs = _top(world)
    return sum(run.outcome != "succeeded" or run.seconds > deadline for run in runs), len(runs)


def _refused(scenario: Scenario, world: World, found: Any) -> Verdict:
    """A failed check: the words begin with it, and no number is better than what was measured."""
    words = found.words()
    failed = [check for check in found.checks if not check.ok]
    late, runs = _seen(scenario, world)
    limit = float(stats.beta.ppf(0.95, late + 1, runs - late)) if late < runs else 1.0
    printed = [found.p_miss, found.p_miss_at_worst, *_shares(words)]
    better = [share for share in printed if share is not None and share < limit * 0.98 - 1e-9]
    if not failed:
        return Verdict("wrong", f"no trust, and no check failed: {words}", found)
    if better:
        return Verdict("wrong", f"no trust, yet better than {limit:.2g} ({late} of {runs}): {better}; {words}", found)
    return Verdict("refused", "; ".join(f"{check.name}: {check.words}" for check in failed), found)


def _seen(scenario: Scenario, world: World) -> tuple[int, int]:
    runs = [run for run in _top(world) if run.ended <= min(scenario.until, world.now)]
    return sum(run.outcome != "succeeded" or run.seconds > scenario.deadline for run in runs), len(runs)


def _shares(words: str) -> list[float]:
    """The shares that the sentence promises: "1 in 1.6 million orders", "fewer than 1 in a trillion"."""
    sizes = {"million": 1e6, "billion": 1e9, "trillion": 1e12, None: 1.0}
    found = [1 / (float(number.replace(",", "")) * sizes[size or None])
             for number, size in re.findall(r"1 in ([\d.,]*\d) ?(million|billion|trillion)?", words)]  # fmt: skip
    return found + [1e-12] * ("1 in a trillion" in words)


def _promise(scenario: Scenario, world: World, found: Any, seed: int) -> Verdict:
    """Trusted: the promise must hold in the same world.

    Where a timeout or another lane cut off calls that would have ended, the data do not say when. They count as
    endless, so the times that are promised may be longer than the true ones.
    """
    tries = [one for run in world.runs for one in run.tries]
    hidden = any(math.isfinite(one.needed) and one.outcome in ("timed out", "abandoned") for one in tries)
    trial = scenario.under(found.policy, seed + 10_000)
    late, runs = misses(trial, scenario.deadline)
    worst = max(found.p_miss_at_worst if found.p_miss_at_worst is not None else found.p_miss, found.p_miss)
    chance = float(stats.binom.sf(late - 1, runs, worst)) if late else 1.0
    seconds = pd.Series([run.seconds for run in _top(trial)])
    promise = f"{found.words()} [worst {worst:.2g}; p50 {found.p50:.2f}, p99 {found.p99:.2f}]"
    if chance < DOUBT:
        return Verdict("wrong", f"{late} of {runs} miss: {promise}", found)
    by_server = any(rule.placement is Placement.SERVER for rule in (found.policy.retry, *found.policy.steps.values()))
    for share, promised, plain in ((0.5, found.p50, ROOM), (0.99, found.p99, 2 * ROOM)):
        room = plain * (1 + by_server)
        low, high = _quantile(seconds, share)
        too_long = promised > high * (1 + room) + 0.03
        if (too_long and not hidden) or promised < low * (1 - room) - 0.03:
            return Verdict("wrong", f"p{share * 100:g} is {low:.2f} to {high:.2f} s: {promise}", found)
    return Verdict("right", f"{late} of {runs} miss: {promise}", found)


def _quantile(seconds: Any, share: float) -> tuple[float, float]:
    """An interval of the quantile from order statistics, at 99.8 %; and a tenth of the share wider, because a small
    error of a share moves a quantile far where few runs lie: between those without and with a retry."""
    slack = 0.1 * min(share, 1.0 - share)
    ordered = sorted(seconds)
    n = len(ordered)
    low = int(stats.binom.ppf(0.001, n, share - slack))
    high = int(stats.binom.ppf(0.999, n, share + slack))
    return ordered[max(0, low - 1)], ordered[min(n - 1, high)]

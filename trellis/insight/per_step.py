"""Retry rules for single steps. They save calls, because not every step of a chain needs the same effort."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from trellis.insight.calls import Calls, Overhead
from trellis.insight.chain import Part, in_a_row, steps_of
from trellis.insight.chain_time import ChainTime, chain_length
from trellis.insight.grid import Grid
from trellis.policies import Policy, Retry

WORTH = 0.05
"""Rules for single steps must save this share of the calls. Else one rule is chosen, which is easier to understand."""

_MOST_POINTS = 2**15
_TILT = 1e-5
_MOST_CHANGES = 60
_MARGINS = (1.0, 0.7, 0.4)


def cheapest_mix(
    policy: Policy,
    calls: Mapping[str, Calls],
    rules: Mapping[str, Sequence[Retry]],
    overhead: Overhead,
    deadline: float,
    epsilon: float,
    *,
    steps: Part | None = None,
    good_enough: Callable[[Policy], bool] = lambda _mix: True,
) -> Policy | None:
    """`policy` with rules for single steps: at most a share `epsilon` misses `deadline` [s], with few calls.

    `rules`: for each step, the rules that it may have. `steps`: the chain; None for the steps of `calls` in a row.

    The search changes one step at a time. First it makes the change that lowers P(missed) most per additional call,
    until P(missed) is low enough. Then it makes the change that saves most calls, as long as P(missed) stays low
    enough. The result need not be the best mix. P(missed) is computed on a coarse grid, so `good_enough` should check
    it on a fine one. Where that says no, the search goes on with 0.7 and 0.4 of `epsilon`. None where no mix is good
    enough.
    """
    chain = in_a_row(calls) if steps is None else steps
    rules = {step.name: rules[step.name] for step in steps_of(chain)}
    search = _Search(policy, calls, rules, overhead, deadline, chain)
    for margin in _MARGINS:
        mix = _cheapest(search, dict.fromkeys(rules, policy.retry), epsilon * margin)
        if mix is None:
            # A smaller share is harder to reach.
            return None
        if good_enough(named := _named(policy, mix)):
            return named
    return None


def _cheapest(search: _Search, current: dict[str, Retry], epsilon: float) -> dict[str, Retry] | None:
    """A rule for each step, beginning with those of `current`."""
    miss, cost = search.judged(current)
    for _ in range(_MOST_CHANGES):
        if miss <= epsilon:
            break
        better = [(m, c, mix) for m, c, mix in search.changes(current) if m < miss * 0.98]
        if not better:
            return None
        old, paid = miss, cost
        miss, cost, current = max(better, key=lambda one: math.log(old / one[0]) / max(one[1] - paid, 1e-3))
    for _ in range(_MOST_CHANGES):
        cheaper = [(m, c, mix) for m, c, mix in search.changes(current) if m <= epsilon and c < cost * 0.99]
        if not cheaper:
            break
        miss, cost, current = min(cheaper, key=lambda one: one[1])
    return current if miss <= epsilon else None


def _named(policy: Policy, mix: Mapping[str, Retry]) -> Policy:
    """The rule that most steps have becomes the policy's own; the other steps are named."""
    general = Counter(mix.values()).most_common(1)[0][0]
    steps = {step: rule for step, rule in mix.items() if rule != general}
    others = f", {', '.join(steps)} apart" if steps else ""
    return replace(policy, name=f"{short(general)}{others}", retry=general, steps=steps)


def short(retry: Retry) -> str:
    """A retry rule as a name: "0.25 s, 5-50 ms, 2 lanes"."""
    where = f"{retry.hedge} lane{'s' * (retry.hedge > 1)}" if retry.placement.value == "activity" else "by the server"
    return f"{retry.try_timeout:g} s, {retry.first_backoff * 1000:g}-{retry.max_backoff * 1000:g} ms, {where}"


class _Search:
    """P(missed) and calls of a mix of rules, on a coarse grid; each step's time under each rule is computed once."""

    def __init__(
        self,
        policy: Policy,
        calls: Mapping[str, Calls],
        rules: Mapping[str, Sequence[Retry]],
        overhead: Overhead,
        deadline: float,
        chain: Part,
    ) -> None:
        dt = max(0.01, deadline / 4000)
        needed = chain_length(chain, dict.fromkeys(calls, policy.retry), calls, overhead)
        points = max(2 * deadline, needed) / dt
        self._grid = Grid(min(_MOST_POINTS, 1 << math.ceil(math.log2(max(points, 4096)))), dt, "mid", _TILT)
        self._policy, self._chain, self._rules = policy, chain, rules
        self._before = self._grid.at(overhead.order)
        self._points = int(deadline / dt + 1e-9) + 1
        self._times = ChainTime(self._grid, calls, overhead)

    def judged(self, mix: Mapping[str, Retry]) -> tuple[float, float]:
        """(P(missed), calls in an order)."""
        whole = self._times.of(self._chain, replace(self._policy, steps=dict(mix)))
        by_deadline = float(self._grid.back(self._before * whole.works)[: self._points].sum())
        return max(1e-15, 1.0 - by_deadline), sum(whole.tries.values())

    def changes(self, mix: dict[str, Retry]) -> Iterator[tuple[float, float, dict[str, Retry]]]:
        """(P(missed), calls, the mix) for each other rule of each single step."""
        for step, rules in self._rules.items():
            for rule in rules:
                if rule != mix[step]:
                    changed = {**mix, step: rule}
                    yield *self.judged(changed), changed

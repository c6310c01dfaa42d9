"""How long a chain takes on a grid: the times of its steps, put together as its parts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trellis.insight.calls import Calls, Overhead
from trellis.insight.chain import Choice, Measured, Parallel, Part, Repeat, Rounds, Series, Step
from trellis.insight.grid import Array, Grid, powers, total
from trellis.insight.server_timers import MAX_TIME_SHIFT
from trellis.insight.step_time import StepTime, step_time
from trellis.policies import Placement, Policy, Retry

_MOST_TIMES = 50
"""A `Repeat` with more numbers of rounds than this is computed with this many quantiles of them."""


@dataclass(frozen=True)
class PartTime:
    """`works` and `gives_up`: transforms of the time at which the part ends well, and at which it fails.

    `tries`: the expected calls of each step. `succeeds` and `fails`: the shares that end so. `rounds_used_up`: the
    share that fails because rounds of shipping are used up.
    """

    works: Any = 1.0
    gives_up: Any = 0.0
    tries: Mapping[str, float] = field(default_factory=dict)
    succeeds: float = 1.0
    fails: float = 0.0
    rounds_used_up: float = 0.0


class ChainTime:
    """The times of parts on one grid. Each part, and each step under each rule, is computed once."""

    def __init__(self, grid: Grid, calls: Mapping[str, Calls], overhead: Overhead) -> None:
        self._grid, self._calls, self._overhead = grid, calls, overhead
        self._steps: dict[tuple[Retry, Calls, bool], StepTime] = {}

    def of(self, part: Part, policy: Policy) -> PartTime:
        """The time of a part, without the order's own overhead.

        `policy` gives each step's retry rule, and says how often and how long rounds of shipping run.
        """
        return self._of(part, policy, {})

    def _of(self, part: Part, policy: Policy, known: dict[Part, PartTime]) -> PartTime:
        if part not in known:
            known[part] = self._computed(part, policy, known)
        return known[part]

    def _computed(self, part: Part, policy: Policy, known: dict[Part, PartTime]) -> PartTime:
        match part:
            case Step():
                return self._step(part, policy)
            case Measured(_, seconds):
                return PartTime(self._grid.of_pieces([(1 / len(seconds), one) for one in seconds]))
            case Series(parts):
                return in_series(self._of(one, policy, known) for one in parts)
            case Parallel(branches):
                return self._side_by_side([self._of(one, policy, known) for one in branches])
            case Repeat(body, times):
                return _repeated(self._of(body, policy, known), _few(times, self._grid))
            case Choice(options, shares):
                return _one_of([self._of(one, policy, known) for one in options], shares)
            case Rounds(body):
                return self._rounds(self._of(body, policy, known), policy)

    def _step(self, step: Step, policy: Policy) -> PartTime:
        key = (policy.retry_of(step.name), self._calls[step.name], step.only_retries)
        if key not in self._steps:
            self._steps[key] = step_time(self._grid, key[0], key[1], self._overhead, only_retries=step.only_retries)
        one = self._steps[key]
        return PartTime(one.works, one.gives_up, {step.name: one.tries}, one.succeeds, one.fails)

    def _side_by_side(self, branches: list[PartTime]) -> PartTime:
        """The last branch to succeed ends the part, the first to fail makes it fail. Calls of the other branches after
        that are counted."""
        works = np.ones(self._grid.size)
        nothing_failed = np.ones(self._grid.size)
        # Equal branches are one object, because each part is computed once.
        counts = Counter(map(id, branches))
        for one in {id(one): one for one in branches}.values():
            works = works * np.cumsum(self._grid.back(one.works)) ** counts[id(one)]
            if one.fails > 0.0:
                not_failed = np.clip(1.0 - np.cumsum(self._grid.back(one.gives_up)), 0.0, 1.0)
                nothing_failed = nothing_failed * not_failed ** counts[id(one)]
        succeeds = float(np.prod([one.succeeds for one in branches]))
        fails = 1.0 - float(np.prod([1.0 - one.fails for one in branches]))
        return PartTime(
            self._grid.of(np.diff(np.minimum(works, 1.0), prepend=0.0)),
            self._grid.of(np.diff(1.0 - nothing_failed, prepend=0.0)) if fails > 0.0 else 0.0,
            _added((one.tries, 1.0) for one in branches),
            succeeds,
            fails,
            1.0 - float(np.prod([1.0 - one.rounds_used_up for one in branches])),
        )

    def _rounds(self, one: PartTime, policy: Policy) -> PartTime:
        """As many rounds as the policy allows. `one`: a single round."""
        if policy.child_run_timeout is not None:
            one = self._cut_off(one, policy.child_run_timeout)
        if one.fails <= 0.0:
            return one
        # begun: the expected number of rounds; starts: the transform of "a round begins at", summed over all rounds.
        again = one.gives_up * self._grid.at(self._overhead.round)
        begun, failed = 1.0, one.fails
        starts: Any = 1.0
        last: Any = 1.0
        for _ in range(policy.dispatch_retries):
            last = last * again
            starts = starts + last
            begun += failed
            failed *= one.fails
        return PartTime(
            one.works * starts, last * one.gives_up, _added([(one.tries, begun)]), one.succeeds * begun, failed, failed
        )

    def _cut_off(self, one: PartTime, timeout: float) -> PartTime:
        """A round that fails where it has not ended after `timeout` [s]."""
        first_late = self._grid.cells_before(timeout)
        if first_late >= self._grid.size:
            return one
        works, gives_up = self._grid.back(one.works), self._grid.back(one.gives_up)
        works[first_late:] = gives_up[first_late:] = 0.0
        succeeds = min(1.0, float(works.sum()))
        cut = max(0.0, 1.0 - succeeds - float(gives_up.sum()))
        return replace(
            one,
            works=self._grid.of(works),
            gives_up=self._grid.of(gives_up) + cut * self._grid.at(timeout),
            succeeds=succeeds,
            fails=1.0 - succeeds,
        )


def in_series(parts: Iterable[PartTime]) -> PartTime:
    """Parts one after another. A part that is not reached makes no calls."""
    whole = PartTime()
    for one in parts:
        reached = whole.succeeds
        whole = PartTime(
            whole.works * one.works,
            whole.gives_up + whole.works * one.gives_up if one.fails > 0.0 else whole.gives_up,
            _added([(whole.tries, 1.0), (one.tries, reached)]),
            reached * one.succeeds,
            whole.fails + reached * one.fails,
            whole.rounds_used_up + reached * one.rounds_used_up,
        )
    return whole


def _repeated(body: PartTime, times: list[int]) -> PartTime:
    """The body as often as one of `times` says, each equally likely: a mixture of powers."""
    works: Any = 0.0
    starts: Any = 0.0
    done: Any = 1.0
    begins: Any = 0.0
    succeeds = begun = 0.0
    before = 0
    for number in sorted(times):
        more, last = powers(body.works, number - before)
        begins, done = begins + done * more, done * last
        works = works + done / len(times)
        starts = starts + begins / len(times)
        succeeds += body.succeeds**number / len(times)
        begun += float(powers(body.succeeds, number)[0]) / len(times)
        before = number
    return PartTime(
        works, starts * body.gives_up, _added([(body.tries, begun)]), succeeds, begun * body.fails,
        begun * body.rounds_used_up,
    )  # fmt: skip


def _one_of(options: list[PartTime], shares: Iterable[float]) -> PartTime:
    works: Any = 0.0
    gives_up: Any = 0.0
    succeeds = fails = used_up = 0.0
    both = list(zip(options, shares, strict=True))
    for one, share in both:
        works = works + share * one.works
        gives_up = gives_up + share * one.gives_up
        succeeds += share * one.succeeds
        fails += share * one.fails
        used_up += share * one.rounds_used_up
    return PartTime(works, gives_up, _added((one.tries, share) for one, share in both), succeeds, fails, used_up)


def _added(tries: Iterable[tuple[Mapping[str, float], float]]) -> dict[str, float]:
    """The sum of the calls of each step, each mapping times its factor. What is never reached makes no calls."""
    whole: dict[str, float] = {}
    for one, factor in tries:
        for step, count in one.items():
            whole[step] = whole.get(step, 0.0) + (factor * count if factor else 0.0)
    return whole


def _few(times: tuple[int, ...], grid: Grid) -> list[int]:
    """Numbers of rounds, or quantiles of them, rounded as the grid rounds."""
    every = sorted(times)
    if len(set(every)) == 1:
        return every[:1]
    if len(every) <= _MOST_TIMES:
        return every
    groups: list[Array] = np.array_split(np.array(every, dtype=np.float64), _MOST_TIMES)
    # Groups differ in size by one at most, so the mean changes little.
    if grid.side == "mid":
        return [round(float(group.mean())) for group in groups]
    return [round(float(group.min() if grid.side == "down" else group.max())) for group in groups]


def chain_length(part: Part, rules: Mapping[str, Retry], calls: Mapping[str, Calls], overhead: Overhead) -> float:
    """A good length for the grid [s], from the means: a geometric tail falls to a billionth after about 25 means."""
    whole, longest = _lengths(part, rules, calls, overhead)
    return overhead.order + whole + 22 * longest


def _lengths(
    part: Part, rules: Mapping[str, Retry], calls: Mapping[str, Calls], overhead: Overhead
) -> tuple[float, float]:
    """(the mean time of a part, the longest mean time of one of its steps), roughly [s]."""
    match part:
        case Step(name):
            mean = _mean_time(rules[name], calls[name], overhead)
            return mean, mean
        case Measured(_, seconds):
            return max(seconds), 0.0
        case Repeat(body, times):
            whole, longest = _lengths(body, rules, calls, overhead)
            return whole * max(times), longest
        case Rounds(body):
            return _lengths(body, rules, calls, overhead)
        case Series(parts) | Parallel(parts) | Choice(parts):
            both = [_lengths(one, rules, calls, overhead) for one in parts]
            wholes = [whole for whole, _ in both]
            whole = sum(wholes) if isinstance(part, Series) else max(wholes, default=0.0)
            return whole, max((longest for _, longest in both), default=0.0)


def _mean_time(retry: Retry, calls: Calls, overhead: Overhead) -> float:
    """The mean time of a step if every backoff were the longest [s]."""
    server = retry.placement is Placement.SERVER
    pause = max(retry.max_backoff, MAX_TIME_SHIFT) if server else retry.max_backoff
    lost = max(retry.try_timeout, MAX_TIME_SHIFT) if server else retry.try_timeout
    works, raises, cut = calls.under(retry.try_timeout)
    good = max(total(works), 1e-3)
    most = max(seconds for _, seconds in (*works, *raises, (0.0, 0.0)))
    return (cut * lost + (1 - good) * (pause + overhead.execution)) / good + most

"""Advice under stress: which policy recovers from an outage, at a provider of finite capacity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls, Overhead
from trellis.insight.chain import Part, in_a_row, steps_of
from trellis.insight.policy_words import rules
from trellis.insight.retries import Prediction
from trellis.insight.storms import Storm, Usual, need_room, outage, storm, usually
from trellis.outages import Capacity
from trellis.policies import Jitter, Placement, Policy, Retry

_SHORTEST_SERVICE = 0.001
_RARELY = 1e-6
"""P(as many failures in a row as make pauses longer, while nothing is wrong)."""

_PAUSES = (1 / 15, 1 / 5, 2 / 5)
"""Longer pauses to consider, as shares of the order's budget."""

_LEAST_SHARE, _LARGEST_SHARE = 0.05, 10.0
_SLOWER = 1.15
_MOST = 6


@dataclass(frozen=True)
class Stress:
    """What orders must survive. `outage`: seconds that a provider is out; None: it is never out. `capacity`: how many
    calls each step's provider serves at once; None: any number. `service`: seconds that it works on a call; None: as
    long as good calls take. `rate`: orders a second; None: as in the data. `step`: whose provider is out; None: the
    busiest one. `how`: what calls do then, "error" or "hang"."""

    outage: float | None = None
    capacity: int | None = None
    service: float | None = None
    rate: float | None = None
    step: str | None = None
    how: str = "error"

    def __bool__(self) -> bool:
        """Whether there is anything to survive."""
        return self.outage is not None or self.capacity is not None

    def served(self, calls: Mapping[str, Calls]) -> Mapping[str, Calls]:
        """The calls, where no good one is quicker than `service`."""
        if self.service is None:
            return calls
        least = _known(self.service, "each step")
        return {
            step: replace(one, latency=tuple(max(least, each) for each in one.latency)) for step, one in calls.items()
        }


@dataclass(frozen=True)
class Stressed:
    """The storm of the advised policy, and what it was chosen over. `step`: whose provider was out. `refused`: cheaper
    policies that do not recover, each with its rules in words. `limited`: the provider had a capacity. The prediction
    of the share that misses the deadline does not know its queue, nor a retry budget."""

    storm: Storm
    step: str
    refused: tuple[str, ...]
    limited: bool = False

    def words(self, noun: str = "order") -> str:
        """What was refused, and how long the advised policy needs."""
        found = self.storm
        out = found.healed - found.broken
        queue = " The share that misses leaves out the wait in a provider's queue." if self.limited else ""
        no = "".join(f"Refused, because its {noun}s never recover: {one}. " for one in self.refused[:1])
        if not out:
            return f"{no}At {found.rate:.3g} {noun}s/s its {noun}s keep up with the capacity.{queue}"
        assert found.drained_s is not None
        return (
            f"{no}At {found.rate:.3g} {noun}s/s, {out:g} s without the provider of {self.step} cost "
            f"{found.times_normal:.3g} times its usual calls, and the {noun}s recover {found.drained_s:.1f} s "
            f"afterwards{f'; {found.failed} {noun}s used up their budget' if found.failed else ''}.{queue}"
        )

    def result(self) -> dict[str, Any]:
        """The same as JSON. `times_usual`: calls in the outage as a multiple of the usual ones."""
        found = self.storm
        return {
            "rate": found.rate, "outage_s": found.healed - found.broken, "step": self.step,
            "times_usual": round(found.times_normal, 2), "drained_s": found.drained_s, "refused": list(self.refused),
        }  # fmt: skip


def arrival_rate(attempts: pd.DataFrame) -> float | None:
    """Orders a second in a frame of attempts; None where it does not say."""
    if not {"order_id", "started_at"} <= set(attempts.columns):
        return None
    began = attempts.groupby("order_id", observed=True)["started_at"].min().dropna()
    span = (began.max() - began.min()).total_seconds() if len(began) > 1 else 0.0
    return (len(began) - 1) / span if span > 0 else None


class Trial:
    """Tries policies under stress: `storm_of` plays one. Raises BadInput where no policy can pass."""

    def __init__(
        self, stress: Stress, calls: Mapping[str, Calls], chain: Part | None, overhead: Overhead, known: float | None
    ) -> None:
        """`known`: the rate in the data, None where there are none."""
        self._stress, self._overhead = stress, overhead
        self._chain = in_a_row(calls) if chain is None else chain
        self.rate = _rate(stress, known)
        needed = [step.name for step in steps_of(self._chain)]
        if stress.step is not None and stress.step not in needed:
            raise BadInput(f"There is no step {stress.step!r}. Known are {', '.join(dict.fromkeys(needed))}.")
        capacity: dict[str, Capacity] = {}
        if stress.capacity is not None:
            if stress.capacity < 1:
                raise BadInput("A provider serves at least one call at once: give a capacity of 1 or more.")
            service = {step: float(np.mean(calls[step].latency)) for step in needed}
            if stress.service is not None:
                service = dict.fromkeys(needed, stress.service)
            capacity = {step: Capacity(stress.capacity, _known(service[step], step)) for step in needed}
            calls = {step: _without(one, capacity[step].seconds) if step in capacity else one
                     for step, one in calls.items()}  # fmt: skip
        self._calls = calls

        def busy(step: str) -> float:
            works, _, _ = calls[step].under(math.inf)
            service = capacity[step].seconds if step in capacity else float(np.mean(calls[step].latency))
            return needed.count(step) * service / max(sum(share for share, _ in works), 1e-9)

        self.step = stress.step or max(needed, key=busy)
        out = () if stress.outage is None else (
            outage(stress.outage, how=stress.how, step=self.step, rate=self.rate),)  # fmt: skip
        self._plan = FaultPlan(outages=out, capacity=capacity)
        self.limited = bool(capacity)
        need_room(self._plan, self.rate, self._calls, self._chain)

    def storm_of(self, policy: Policy, beside: Usual | None = None) -> tuple[Storm | None, Usual]:
        """The storm of a policy that recovers, else None; and what is usual under it. `beside`: what is usual under the
        policy that it varies. Its orders must not be notably slower while nothing is wrong."""
        more: dict[str, Any] = {"calls": self._calls, "steps": self._chain, "overhead": self._overhead}
        usual = usually(policy, self._plan, rate=self.rate, **more)
        if beside is not None and usual.seconds > _SLOWER * beside.seconds:
            return None, usual
        if self._plan.outages:
            found = storm(policy, self._plan, rate=self.rate, usual=usual, **more)
            return (found if found.recovers else None), usual
        kept = math.isfinite(usual.seconds)
        return (Storm.calm(policy, self.rate, usual) if kept else None), usual

    def governed(self, policy: Policy) -> Iterator[Policy]:
        """`policy` with what helps in an outage: a retry budget, longer pauses after many failures in a row, both."""
        for part, share in [*((pause, False) for pause in _PAUSES), (0.0, True), (_PAUSES[0], True)]:
            slow = part * policy.budget
            limited = {step: self._limited(step, policy.retry_of(step), slow, share=share) for step in self._calls}
            rule = self._limited(None, policy.retry, slow, share=share)
            apart = {step: one for step, one in limited.items() if one != rule}
            yield replace(policy, name=f"{policy.name}, governed", retry=rule, steps=apart)

    def _limited(self, step: str | None, rule: Retry, slow: float, *, share: bool) -> Retry:
        names = list(self._calls) if step is None else [step]
        good = min(sum(part for part, _ in self._calls[name].under(rule.try_timeout)[0]) for name in names)
        changes: dict[str, float | int] = {}
        if slow:
            failing = min(max(1.0 - good, 1e-3), 0.999)
            after = max(5, math.ceil(math.log(_RARELY) / math.log(failing)))
            changes |= {"slow_after": after, "slow_backoff": max(slow, rule.max_backoff)}
        # Between two successes there are `retries`. Those pay for each other that succeed; for the others the shares of
        # a first call and of a success must pay, with room, or calls that fail as usual would wait.
        retries = rule.hedge / max(good, 1e-3) - 1
        needed = round(max(_LEAST_SHARE, 0.65 * (retries - (1 - good))), 2)
        if share and needed <= _LARGEST_SHARE:
            changes["retry_share"] = needed
        return replace(rule, placement=Placement.ACTIVITY, jitter=Jitter.FULL, **changes)  # type: ignore[arg-type]


def surviving(
    trial: Trial, rivals: Iterable[Policy], met: Callable[[Policy], Prediction | None]
) -> tuple[Prediction, Stressed]:
    """The first of `rivals`, which come in the order of their cost, that recovers by itself or with a governor.

    Of several governors that help, the one that makes the fewest calls in the outage. `met`: the prediction for a
    policy that meets the goal, else None. Raises BadInput where no policy recovers.
    """
    refused: list[str] = []
    for policy in islice(rivals, _MOST):
        found, usual = trial.storm_of(policy)
        prediction = met(policy)
        if found is not None and prediction is not None:
            # A policy that needs no help is taken as it is.
            return prediction, Stressed(found, trial.step, tuple(refused), trial.limited)
        refused.append(rules(policy))
        helped: list[tuple[float, int, Prediction, Storm]] = []
        for governed in trial.governed(policy):
            if (prediction := met(governed)) is not None:
                found, _ = trial.storm_of(governed, beside=usual)
                helped += [(found.times_normal, len(helped), prediction, found)] if found is not None else []
        if helped:
            _, _, prediction, found = min(helped, key=lambda one: one[:2])
            return prediction, Stressed(found, trial.step, tuple(refused), trial.limited)
    raise BadInput(
        f"No policy that is good enough recovers at {trial.rate:.3g} orders/s. Refused: {'; '.join(refused)}. "
        f"Raise the capacity, lower the rate, or allow a longer deadline."
    )


def _rate(stress: Stress, known: float | None) -> float:
    rate = known if stress.rate is None else stress.rate
    if rate is None:
        raise BadInput("How many orders arrive is not known: give --rate, in orders a second.")
    if not 0 < rate < math.inf:
        raise BadInput("The rate is more than 0 orders a second.")
    return rate


def _known(seconds: float, step: str) -> float:
    if not _SHORTEST_SERVICE <= seconds <= 3600:
        raise BadInput(
            f"How long the provider of {step} works on a call is not known: give --service, from 0.001 to 3600 seconds."
        )
    return seconds


def _without(calls: Calls, seconds: float) -> Calls:
    """The calls without the time that the provider works on them, which is simulated."""
    return replace(calls, latency=tuple(max(0.0, one - seconds) for one in calls.latency))

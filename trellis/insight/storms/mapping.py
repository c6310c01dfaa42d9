"""Many storms: which loads and outages a policy recovers from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.calls import Calls
from trellis.insight.chain import ORDER, Part
from trellis.insight.storms.storm import Storm, need_room, outage, places_per_order, storm, usually
from trellis.policies import Policy

_FULL = 0.99
_HALVINGS = 7
_LEAST_LOAD = 0.02


def storm_map(
    policy: Policy,
    loads: Iterable[float],
    outages: Iterable[float],
    plan: FaultPlan,
    *,
    step: str | None = None,
    how: str = "error",
    **more: Any,
) -> pd.DataFrame:
    """One storm for each load and each length of outage.

    `loads`: calls that orders need as shares of the capacity of `step`. `outages`: lengths [s]. `plan`: the faults, and
    the capacity of `step`; its own outages do not count. `step`: the one that is out; None for the one step with a
    capacity. `more`: arguments of `storm`. Columns: load, rate [orders/s], outage_s, recovers [bool], drained_s [NaN:
    never], times_normal, failed (orders that failed). Raises BadInput as `storm` does, and for a load of 1 or more.
    """
    step = _limited(plan, step)
    lengths = list(outages)
    rows = []
    for load in loads:
        rate = rate_of(load, plan, step, **_of_chain(more))
        known = usually(policy, plan, rate=rate, **more)
        for length in lengths:
            out = outage(length, how=how, step=step, rate=rate)
            found = storm(policy, replace(plan, outages=(out,)), rate=rate, usual=known, **more)
            rows.append({
                "load": load, "rate": rate, "outage_s": float(length), "recovers": found.recovers,
                "drained_s": math.nan if found.drained_s is None else found.drained_s,
                "times_normal": found.times_normal, "failed": found.failed,
            })  # fmt: skip
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Border:
    """Between two loads (shares of the capacity): from `recovers` orders recover, from `never` they do not.

    `recovers` is 0 where they do not recover at any load that was tried, and `never` is 1 where they always do.
    """

    recovers: float
    never: float

    @property
    def load(self) -> float:
        """The middle of the two."""
        return (self.recovers + self.never) / 2


def border(
    policy: Policy, seconds: float, plan: FaultPlan, *, step: str | None = None, how: str = "error", **more: Any
) -> Border:
    """The load at which a policy stops recovering from an outage of so many seconds, found by halving.

    Arguments as for `storm_map`. Orders arrive evenly unless `more` says otherwise, so that chance moves the border
    little. Raises BadInput as `storm` does.
    """
    step = _limited(plan, step)
    known: dict[str, Any] = {"even": True, **more}

    def played(load: float) -> Storm:
        rate = rate_of(load, plan, step, **_of_chain(known))
        out = outage(seconds, how=how, step=step, rate=rate)
        return storm(policy, replace(plan, outages=(out,)), rate=rate, **known)

    if played(_FULL).recovers:
        return Border(_FULL, 1.0)
    low, high = 0.0, _FULL
    for _ in range(_HALVINGS):
        middle = max(_LEAST_LOAD, (low + high) / 2)
        if played(middle).recovers:
            low = middle
        else:
            high = middle
        if high <= _LEAST_LOAD:
            break
    return Border(low, high)


def rate_of(
    load: float,
    plan: FaultPlan,
    step: str,
    *,
    calls: Mapping[str, Calls] | None = None,
    steps: Sequence[str] | Part = ORDER,
) -> float:
    """Orders a second that need this share of what the provider of `step` serves. Raises BadInput for a load that is
    not between 0 and 1."""
    if not 0 < load < math.inf:
        raise BadInput("A load is a share of the capacity: give a number above 0 and below 1.")
    places = places_per_order(plan, step, calls, steps)
    if not places:
        raise BadInput(f"The chain has no step {step!r}, or none of its calls ever succeeds.")
    rate = load * plan.capacity[step].per_second / places
    need_room(plan, rate, calls, steps)
    return rate


def _limited(plan: FaultPlan, step: str | None) -> str:
    """The step with a capacity. Raises BadInput where there is none, or several."""
    if step is not None and step in plan.capacity:
        return step
    if step is not None or len(plan.capacity) != 1:
        raise BadInput("A load is a share of a capacity: give a plan with the capacity of the step that is out.")
    return next(iter(plan.capacity))


def _of_chain(more: Mapping[str, Any]) -> dict[str, Any]:
    return {name: more[name] for name in ("calls", "steps") if name in more}

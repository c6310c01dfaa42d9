"""Independent: is each try a draw of its own, whatever happened before it and beside it?

The mathematics of retries assumes it. Outages, bad orders, a bad worker and a provider that fails under load break it,
and make several failures in a row far likelier than their shares say.

The test is a likelihood ratio. Under the assumption a try of a step fails with the step's share. Under an alternative
the tries fall into groups (the tries of one order; those that began in the same four seconds; those of one worker), a
few groups are bad, and in a bad group the odds of failing are multiplied. A ratio of likelihoods has mean 1 under the
assumption, whatever rule decides when a step is tried again, because each try is conditionally a draw of its own. So a
rule that retries quickly, and so sees much of an outage, cannot raise it. The mean of several such ratios has mean 1
too, and exceeds 1/a with a probability of at most a (Markov's inequality; Ville, "Étude critique de la notion de
collectif", 1939; Shafer, "Testing by betting", Journal of the Royal Statistical Society A 184, 2021). Many alternatives
can therefore be tested at the cost of one. The steps' shares are estimated from the same data, which makes the ratio
inexact; its false alarms were counted in simulations (see docs/design.md).

The latencies of good calls are tested in the same way: "slow" (slower than half of the good calls of the step, or than
nine tenths) takes the place of "failed". Latencies that depend on each other matter only where they are a notable part
of the deadline (`_NOTABLE`). On a busy machine they always depend on each other a little.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.checks.check import Check
from trellis.insight.checks.draws import Draws
from trellis.insight.checks.measured import per_cent

_SURE = 75.0
"""The mean ratio from which the assumption is given up: a false alarm in at most 1 of 75 honest data sets. It was 0 of
500 in simulations."""

_BAD = ((0.7, 0.3), (1.5, 0.2), (3.0, 0.1), (5.0, 0.03))
"""Alternatives: (log of the factor of the odds in a bad group, share of groups that are bad)."""

_STEEP = (0.15, 0.4, 1.0)
"""Alternatives for load: by how much the log of the odds rises with one standard deviation of the calls in flight."""

_CROWDED = (0.25, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
"""Alternatives for load: the share of tries that began with fewer calls in flight than the provider has room for."""

_WORSE = (0.5, 1.0, 2.0)
"""Alternatives for load: the log of the factor of the odds of a try that finds no room."""

_WINDOWS = tuple(0.25 * 4.0**power for power in range(12))
"""Lengths of the groups in time [s], up to a third of the time that the data cover."""

_NOTABLE = 0.05
"""Latencies matter if the slowest calls of all steps together add more than this share of the deadline."""

_FEWEST = 5
"""Fewer failures than this are not looked at: they cannot show a pattern."""


@dataclass(frozen=True)
class _Finding:
    """The log of one likelihood ratio. `what`: failed or slow. `how`: time, order, load, number or worker. `group`: the
    group of each draw (for load, the calls in flight). `bad`: what was tested, and `use`: the draws it is known of."""

    ratio: float
    what: str
    how: str
    group: Any
    bad: Any
    use: Any
    width: float = 0.0


def check(found: Draws, deadline: float, noun: str = "order") -> Check:
    """Whether failures, and latencies that matter, come independently. `deadline` [s]."""
    if len(found) == 0:
        return Check("independent", False, "No attempt shows how calls end, so nothing is known of their independence.")
    if not found.orders_known:
        return Check(
            "independent", False,
            f"The attempts do not say of which {noun} they are, so {noun}s that are worse than others cannot be "
            f"excluded.",
        )  # fmt: skip
    if found.timed < 0.5:
        words = "Most attempts have no start time, so runs of failures in time cannot be excluded."
        return Check("independent", False, words)
    findings = _patterns(found, found.failed, np.ones(len(found), dtype=bool), "failed")
    if _spread(found) > _NOTABLE * deadline:
        good = np.isfinite(found.seconds)
        for share in (0.5, 0.9):
            findings += _patterns(found, found.slow(share), good, f"slow {share}")
    if not findings:
        words = f"{int(found.failed.sum())} of {len(found):,} attempts failed, which is too few to show a pattern."
        return Check("independent", True, words)
    if _evidence(findings) < math.log(_SURE):
        words = (
            f"{len(found):,} attempts show no runs of failures in time, no {noun}s that are worse than others, and no "
            f"failures under load."
        )
        return Check("independent", True, words)
    return Check("independent", False, _described(found, _plainest(findings), noun))


def _evidence(findings: list[_Finding]) -> float:
    """The log of the mean ratio. Each kind of pattern has the same weight, however many groupings it has."""
    kinds: dict[tuple[str, str], list[float]] = {}
    for one in findings:
        kinds.setdefault((one.what, one.how), []).append(one.ratio)
    return _log_mean([_log_mean(ratios) for ratios in kinds.values()])


def _plainest(findings: list[_Finding]) -> _Finding:
    """The pattern to name. An outage makes orders look bad, and late tries too, so what causes the others comes
    first."""
    best = {how: max((one for one in findings if one.how == how), key=lambda one: one.ratio, default=None)
            for how in ("load", "worker", "time", "order", "number")}  # fmt: skip
    found = [one for one in best.values() if one is not None]
    most = max(one.ratio for one in found)
    return next(one for one in found if one.ratio >= 0.6 * most)


def _log_mean(logs: list[float]) -> float:
    most = max(logs, default=0.0)
    return most + math.log(sum(math.exp(one - most) for one in logs) / len(logs)) if logs else 0.0


def _spread(found: Draws) -> float:
    """By how much the good calls of all steps, all slow together, exceed their means [s]."""
    good = np.isfinite(found.seconds)
    each = pd.Series(found.seconds[good]).groupby(found.step[good])
    return float((each.quantile(0.99) - each.mean()).sum())


def _patterns(found: Draws, bad: Any, mask: Any, what: str) -> list[_Finding]:
    """The log likelihood ratio of every alternative, for draws in `mask`."""
    use = mask & np.isfinite(found.start)
    y = bad[use].astype(float)
    if y.sum() < _FEWEST:
        return []
    step = found.step[use]
    odds = _Odds(y, step)
    start, order = found.start[use], found.order[use]
    at = np.flatnonzero(use)

    def whole(group: Any) -> Any:
        everything = np.full(len(found), -1)
        everything[at] = group
        return everything

    made: list[_Finding] = []

    def add(ratio: float, how: str, group: Any, width: float = 0.0) -> None:
        made.append(_Finding(ratio, what, how, group, bad[use], use, width))

    for width, group in _in_time(start):
        for cells in (group, _pairs(group, step)):
            add(odds.groups(cells), "time", group, width)
    for cells in (order, _pairs(order, step)):
        add(odds.groups(cells), "order", order)
    worker = found.worker[use]
    # A history names the worker of an activity's last attempt only, so those without a name are the failed ones.
    if worker.min() >= 0 and worker.max() > 0:
        add(odds.groups(worker), "worker", worker)
    number = np.minimum(found.number[use], 4)
    # The later tries of a slow step are as slow as the first, and a hedged step has one draw only.
    if what == "failed" and not found.hedged and number.max() > 1:
        for cells in (number, _pairs(number, step)):
            add(odds.groups(cells), "number", number)
    beside = found.beside[use]
    if beside.std() > 0:
        add(odds.rising((beside - beside.mean()) / beside.std()), "load", beside)
        add(odds.crowded(beside), "load", beside)
    return made


def _in_time(start: Any) -> Iterator[tuple[float, Any]]:
    """Groups of draws that began in the same window, for windows of several lengths."""
    span = float(start[-1] - start[0])
    for width in _WINDOWS:
        if width > span / 3:
            return
        yield width, np.floor((start - start[0]) / width).astype("int64")


def _pairs(one: Any, other: Any) -> Any:
    """The groups that two groupings make together, as numbers."""
    return one.astype("int64") * (int(other.max()) + 1) + other


class _Odds:
    """The odds of "failed" in each step, and the likelihood ratio of odds that differ between groups."""

    def __init__(self, y: Any, step: Any) -> None:
        self.y, self.step = y, step
        size = np.bincount(step)
        self.share = (np.bincount(step, y) + 0.25) / (size + 0.5)

    def gain(self, tilt: float, step: Any, y: Any) -> Any:
        """Log likelihood ratio of each draw if its log odds are higher by `tilt`."""
        return tilt * y - np.log1p(self.share * math.expm1(tilt))[step]

    def groups(self, group: Any) -> float:
        """Log ratio for: a few groups are bad, and nobody knows which."""
        _, index = np.unique(group, return_inverse=True)
        logs = []
        for tilt, rare in _BAD:
            # The better groups make up for the bad ones, so that the share over all stays what it is.
            worse = np.bincount(index, self.gain(tilt, self.step, self.y))
            better = np.bincount(index, self.gain(-tilt * rare / (1 - rare), self.step, self.y))
            logs.append(float(np.logaddexp(math.log(rare) + worse, math.log1p(-rare) + better).sum()))
        return _log_mean(logs)

    def rising(self, load: Any) -> float:
        """Log ratio for: the log odds rise with `load` (in standard deviations)."""
        share = self.share[self.step]
        logs = []
        for slope in _STEEP:
            tilt = np.clip(slope * load, -3, 3)
            logs.append(float((tilt * self.y - np.log1p(share * np.expm1(tilt))).sum()))
        return _log_mean(logs)

    def crowded(self, beside: Any) -> float:
        """Log ratio for: the odds are higher where many calls were in flight."""
        logs = []
        for room in np.unique(np.quantile(beside, _CROWDED)):
            most = beside >= max(room, beside.min() + 1)
            rare = float(most.mean())
            if rare == 0.0:
                continue
            for tilt in _WORSE:
                better = self.gain(-tilt * rare / (1 - rare), self.step[~most], self.y[~most]).sum()
                logs.append(float(self.gain(tilt, self.step[most], self.y[most]).sum() + better))
        return _log_mean(logs)


def _described(found: Draws, worst: _Finding, noun: str) -> str:
    """What was found, in one or two sentences with its figures."""
    bad, group = worst.bad, worst.group
    did = "failed"
    if worst.what != "failed":
        share = float(worst.what.split()[1])
        did = f"were slower than {'half' if share == 0.5 else 'nine tenths'} of the good calls of their step"
    calls = "attempts" if worst.what == "failed" else "good calls"
    if worst.how == "load":
        room, most = _crowd(worst)
        return (
            f"{_FAILURES[worst.what == 'failed']} come under load: of the {calls} that began beside {room:g} or more "
            f"calls {per_cent(bad[most].mean())} {did}, of the others {per_cent(bad[~most].mean())}."
        )
    if worst.how == "number":
        shares = [(n, bad[group == n]) for n in np.unique(group)]
        words = ", ".join(f"{per_cent(one.mean())} of the {_ORDINALS[int(n)]}" for n, one in shares)
        return f"Whether an attempt fails depends on the attempts before it: {words} attempts of a step failed."
    cells, index = np.unique(group, return_inverse=True)
    size, count = np.bincount(index), np.bincount(index, bad)
    overall = bad.mean()
    # Groups that are worse than all draws together by more than two standard deviations, the worst first.
    worse = (count - overall * size) / np.sqrt(np.maximum(size * overall * (1 - overall), 1e-9)) > 2
    worse |= cells == cells[int(np.argmax(count - overall * size))]
    inside = worse[index]
    rest = bad[~inside].mean() if (~inside).any() else 0.0
    much = f"{per_cent(bad[inside].mean())} of the {calls} {did}, in the others {per_cent(rest)}"
    if worst.how == "order":
        return f"Some {noun}s are worse than others: in {worse.sum():,} of {len(cells):,} {much}."
    if worst.how == "worker":
        return f"Some workers are worse than others: in {worse.sum():,} of {len(cells):,} {much}."
    began = found.start[worst.use][index == int(np.argmax(count - overall * size))].min()
    when = (
        ""
        if found.began is None
        else f" The worst began at {found.began + pd.Timedelta(began, unit='s'):%H:%M:%S} UTC."
    )
    return (
        f"{_FAILURES[worst.what == 'failed']} come in runs: in {worse.sum():,} of {len(cells):,} periods of "
        f"{_long(worst.width)} {much}.{when}"
    )


_FAILURES = {True: "Failures", False: "Slow calls"}
_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "later"}


def _crowd(worst: _Finding) -> tuple[float, Any]:
    """The number of calls in flight from which draws are bad most clearly, and which draws began beside as many."""
    bad, beside = worst.bad, worst.group
    overall, found = bad.mean(), (-math.inf, 0.0)
    for room in np.unique(np.quantile(beside, _CROWDED)):
        most = beside >= max(room, beside.min() + 1)
        if most.any():
            found = max(found, ((bad[most].mean() - overall) * math.sqrt(most.sum()), max(room, beside.min() + 1)))
    room = math.ceil(found[1])
    return room, beside >= room


def _long(seconds: float) -> str:
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:.0f} min"

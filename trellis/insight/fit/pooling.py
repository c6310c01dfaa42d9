"""How far steps lend each other evidence: shares move toward what all have in common, latencies are put together only
where a test finds no difference.

Shares: the spread between steps beyond chance is estimated from the chi-squared statistic of the table of steps and
outcomes (Brier, "Analysis of contingency tables under cluster sampling", Biometrika 67, 1980), less two degrees of
freedom, as in the estimator of James and Stein. The smaller it is, and the fewer tries a step has, the further its
shares move. They move by one standard error at most (Efron and Morris, "Limiting the risk of Bayes and empirical Bayes
estimators", JASA 66 and 67, 1971 and 1972), so that a step unlike the others stays apart from them. Intervals do not
move: each rests on the step's own tries, so it holds whatever the other steps are.

Latencies: the two-sample test of Kolmogorov and Smirnov, at a level of 20 %. A wrong "they differ" costs some precision
and a wrong "they agree" can advise a timeout that a slow step never meets, so the level is high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

ENOUGH = 100
"""A step with this many good calls needs no other step's latencies: it has seen its own slowest hundredth."""

_FEWEST = 5
"""With fewer good calls than this, no test can say that they are unlike others."""

_DIFFER = 0.2
_COMPARED = 1000


def toward_common(shares: Mapping[str, Mapping[str, float]], sizes: Mapping[str, float]) -> dict[str, float]:
    """For each step, how far its shares move toward the common ones, from 0 to 1.

    `sizes`: the number of tries that would fix the step's shares as well as its own tries do.
    """
    names = list(shares)
    table = np.array([[sizes[name] * share for share in shares[name].values()] for name in names])
    table = table[:, table.sum(axis=0) > 0]
    size = table.sum(axis=1)
    freedom = (len(names) - 1) * (table.shape[1] - 1)
    # Two steps with two outcomes have one difference, which shows no spread.
    if freedom <= 2:
        return dict.fromkeys(names, 0.0)
    expected = np.outer(size, table.sum(axis=0)) / size.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    usual = (size.sum() - (size**2).sum() / size.sum()) / (len(names) - 1)
    spread = min(1.0, max(0.0, (statistic / (freedom - 2) - 1.0) / max(usual - 1.0, 1e-9)))
    weight = (1.0 - spread) / (1.0 - spread + size * spread)
    return {name: float(one) for name, one in zip(names, weight, strict=True)}


def alike_in_latency(good: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """For each step, the steps (itself among them) whose latencies cannot be told from its own.

    `good`: the durations of each step's good calls. The steps are compared in the order of their medians. Each is
    compared with all steps of the group before it.
    """
    groups: list[list[str]] = []
    alone = [name for name, took in good.items() if len(took) < _FEWEST]
    for name in sorted((one for one in good if one not in alone), key=lambda one: float(np.median(good[one]))):
        if groups and all(_agree(good[other], good[name]) for other in groups[-1]):
            groups[-1].append(name)
        else:
            groups.append([name])
    return {name: tuple(group) for group in [*groups, *([one] for one in alone)] for name in group}


def _agree(one: Any, other: Any) -> bool:
    one, other = _thinned(one), _thinned(other)
    if np.ptp(np.concatenate([one, other])) == 0:
        return True
    return float(stats.ks_2samp(one, other).pvalue) >= _DIFFER


def _thinned(took: Any) -> Any:
    """At most `_COMPARED` of the sorted values, evenly spread: more would not change what the test finds."""
    took = np.sort(took)
    if len(took) <= _COMPARED:
        return took
    return took[np.linspace(0, len(took) - 1, _COMPARED).astype(int)]


def in_words(lent: Sequence[float]) -> str:
    """How far steps lend each other evidence, as a sentence."""
    if max(lent, default=0.0) < 0.01:
        return "The steps differ, or are too few to say: no step lends another any evidence."
    least, most = min(lent), max(lent)
    far = f"{most:.0%}" if most - least < 0.01 else f"{least:.0%} to {most:.0%}"
    return f"Each step's shares are moved {far} of the way toward what all steps have in common."

"""Estimates for the rules: limits of shares, the tail beyond a timeout, bursts, and waits in a queue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

LEVEL = 0.95
"""Each limit holds with this probability, on its side."""


def limits(count: int, of: int) -> tuple[float, float]:
    """The one-sided lower and upper limits of a share (Clopper and Pearson, Biometrika 26, 1934)."""
    if of <= 0:
        return 0.0, 1.0
    low = 0.0 if count <= 0 else float(stats.beta.ppf(1 - LEVEL, count, of - count + 1))
    high = 1.0 if count >= of else float(stats.beta.ppf(LEVEL, count + 1, of - count))
    return low, high


def rounded_up(seconds: float) -> float:
    """The next value that people write: 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten; above a minute, minutes."""
    if seconds > 60:
        return 60.0 * rounded_up(seconds / 60)
    power = 10.0 ** math.floor(math.log10(max(seconds, 1e-3)))
    for digit in (1, 1.5, 2, 3, 4, 5, 6, 8, 10):
        if digit * power >= seconds * (1 - 1e-9):
            break
    return round(digit * power, 6)


def as_timedelta(seconds: float) -> str:
    """The value as Python code."""
    if seconds >= 60 and seconds % 60 == 0:
        return f"timedelta(minutes={seconds / 60:g})"
    return f"timedelta(seconds={seconds:g})"


@dataclass(frozen=True)
class Tail:
    """How good calls go on beyond the time at which they are cut off. `share` of them take longer, from `low` to
    `high`. `seconds`: the durations of all good calls, the cut ones too, as equally likely values."""

    share: float
    low: float
    high: float
    seconds: tuple[float, ...]

    def within(self, share: float) -> float:
        """The time within which this share of the good calls ends [s]."""
        return float(np.quantile(self.seconds, share))


_QUANTILES = 400
_TAILS = np.concatenate([[1e-7, 1e-6, 1e-5], np.logspace(-4, math.log10(0.9), 90)])
_WIDTHS = np.logspace(math.log10(0.02), math.log10(2.5), 300)


def tail(good: Any, cut_off: float, killed: int) -> Tail:
    """Estimate the share of good calls that take longer than `cut_off` [s].

    The durations of good calls that were seen (`good`, [s]) are a lognormal distribution of which everything above
    `cut_off` is missing. `killed` calls were cut off: good ones, and others that hung. So the shape of what was seen
    says how much is missing, and `killed` of all calls is the most that it can be. Maximum likelihood; limits by the
    likelihood's profile. At the upper limit no call hung, which is the edge of what is possible: there both the shape
    and the count may be off, so two degrees of freedom are allowed for.
    """
    logs = np.log(np.minimum(good, cut_off))
    n, first, second = len(logs), float(logs.sum()), float((logs**2).sum())
    z = stats.norm.isf(_TAILS)[:, None]
    sigma = _WIDTHS[None, :]
    mu = math.log(cut_off) - sigma * z
    density = -0.5 * (second - 2 * mu * first + n * mu**2) / sigma**2 - n * np.log(sigma)
    fit = density - n * np.log1p(-_TAILS)[:, None]
    most = killed / (n + killed)
    # Where the tail alone would kill more calls than were killed, the count speaks against it.
    worse = np.maximum(_TAILS, most)
    count = special.xlogy(killed, worse / max(most, 1e-12)) + special.xlogy(n, (1 - worse) / (1 - most))
    likelihood = fit + count[:, None]
    profile = likelihood.max(axis=1)
    best = int(profile.argmax())
    inside, outside = (
        np.flatnonzero(profile >= profile[best] - 0.5 * stats.chi2.ppf(2 * LEVEL - 1, freedom)) for freedom in (1, 2)
    )
    at = int(likelihood[best].argmax())
    spread = stats.norm.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    seconds = np.exp(mu[best, at] + _WIDTHS[at] * spread)
    return Tail(
        float(_TAILS[best]), float(_TAILS[max(0, inside[0] - 1)]), float(_TAILS[min(len(_TAILS) - 1, outside[-1] + 1)]),
        tuple(float(one) for one in np.minimum(seconds, 50 * cut_off)),
    )  # fmt: skip


def slowest(good: Any) -> float:
    """A time that good calls hardly ever exceed [s]: half as much again as the slowest one seen, and at least what one
    call in 10,000 exceeds if they are lognormal."""
    logs = np.log(good)
    return float(max(1.5 * good.max(), math.exp(min(logs.mean() + 3.7 * logs.std(), math.log(5 * good.max())))))


@dataclass(frozen=True)
class Burst:
    """Calls `first` to `last` of a sequence in time, of which `failed` failed; `outside` is the share elsewhere.
    `surprise`: the logarithm of how much likelier a burst is than one constant share."""

    first: int
    last: int
    failed: int
    outside: float
    surprise: float

    @property
    def calls(self) -> int:
        return self.last - self.first + 1


_ENDS = 150


def burst(failed: Any) -> Burst | None:
    """The stretch of a sequence of calls in which failures are most unlike elsewhere; None where there is none.

    Kulldorff's scan statistic ("A spatial scan statistic", Communications in Statistics 26, 1997) over all stretches
    that begin and end with a failure.
    """
    at = np.flatnonzero(failed)
    n, m = len(failed), len(at)
    if m < 2 or m == n:
        return None
    ends = np.arange(m) if m <= _ENDS else np.unique(np.linspace(0, m - 1, _ENDS).astype(int))
    i, j = np.meshgrid(ends, ends, indexing="ij")
    inside = (j - i + 1).astype(float)
    length = (at[j] - at[i] + 1).astype(float)
    rest, failures = n - length, m - inside
    here, there = inside / np.maximum(length, 1), failures / np.maximum(rest, 1)
    surprise = _information(inside, length) + _information(failures, rest) - _information(np.array(m), np.array(n))
    surprise = np.where((j > i) & (rest > 0) & (here > there), surprise, 0.0)
    best = np.unravel_index(int(surprise.argmax()), surprise.shape)
    if surprise[best] <= 0:
        return None
    first, last = at[ends[best[0]]], at[ends[best[1]]]
    return Burst(int(first), int(last), int(inside[best]), float(there[best]), float(surprise[best]))


def chance(surprise: float, calls: int) -> float:
    """An upper limit of the probability that chance alone gives such a burst among so many calls: there are n*n/2
    stretches, and each of them reaches a surprise of x with a probability of about exp(-x) at most."""
    return float(min(1.0, calls**2 / 2 * math.exp(-min(surprise, 700.0))))


def _information(count: Any, of: Any) -> Any:
    share = count / np.maximum(of, 1.0)
    return special.xlogy(count, share) + special.xlogy(of - count, 1 - share)


def erlang_wait(rate: float, service: float, servers: int) -> float:
    """The mean wait [s] of calls that arrive at random, `rate` a second, for one of so many servers, each of which
    works `service` seconds on a call (Erlang's C formula). Infinite where they cannot keep up."""
    load = rate * service
    if load >= servers:
        return math.inf
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    waits = blocked / (1 - load / servers * (1 - blocked))
    return waits * service / (servers - load)

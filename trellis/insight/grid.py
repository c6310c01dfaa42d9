"""Distributions of time on a grid, as transforms, so that sums of times are products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

Side = Literal["down", "mid", "up"]
"""How a time between two points of the grid is rounded: to the one before, to both in proportion, to the one after."""

Pieces = list[tuple[float, float]]
"""(share, seconds) of each possible case."""


# What lies beyond the grid's end is folded back, multiplied by the tilt. Rounding errors at the end grow by 1/tilt.
TILT_WHOLE, TILT_LONG, TILT_CUT = 1e-4, 1e-6, 1e-7

COARSER = 4
"""How much coarser and longer each further grid of a prediction is."""

_MOST_KNOWN = 64
"""A grid keeps at most this many transforms of single times. Each takes 8 bytes for every point of the grid."""


def total(pieces: Pieces) -> float:
    """The sum of the shares."""
    return sum(share for share, _ in pieces)


def power(base: Any, count: int) -> Any:
    """A transform to a whole power: the time of `count` equal parts. Repeated squares are faster than numpy's power."""
    whole: Any = 1.0
    while count:
        if count & 1:
            whole = whole * base
        count >>= 1
        base = base * base if count else base
    return whole


def powers(base: Any, count: int) -> tuple[Any, Any]:
    """(1 + base + ... + base^(count - 1), base^count)."""
    last = power(base, count)
    nearly_one = np.abs(1.0 - base) < 1e-12
    return np.where(nearly_one, float(count), (1.0 - last) / np.where(nearly_one, 1.0, 1.0 - base)), last


class Grid:
    """Distributions of time as transforms. They are tilted, so that what lies beyond the grid's end is not folded back
    onto its beginning."""

    def __init__(self, size: int, dt: float, side: Side, tilt: float) -> None:
        self.size = size
        self.dt = dt
        self.side = side
        self._tilt = tilt ** (np.arange(size) / size)
        # Steps share timeouts and backoffs, and so do the policies of a sweep.
        self._known: dict[tuple[float, float], Any] = {}

    def of(self, pmf: Array) -> Any:
        """The transform of a distribution, given as the share at each point of the grid."""
        return np.fft.rfft(pmf * self._tilt)

    def back(self, transform: Any) -> Array:
        """The share at each point of the grid, from its transform."""
        whole = np.broadcast_to(np.asarray(transform, dtype=np.complex128), (self.size // 2 + 1,))
        pmf: Array = np.fft.irfft(whole, self.size) / self._tilt
        return np.maximum(pmf, 0.0)

    def at(self, seconds: float) -> Any:
        """A constant time [s]. An infinite time contributes nothing."""
        return self._once((seconds, seconds), lambda: self.of_pieces([(1.0, seconds)]))

    def _once(self, key: tuple[float, float], compute: Callable[[], Any]) -> Any:
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = compute()
        return self._known[key]

    def of_pieces(self, pieces: Pieces) -> Any:
        """A time that takes one of several values, each with its share."""
        shares, seconds = np.array(pieces, dtype=np.float64).reshape(-1, 2).T
        cells = seconds / self.dt
        seen = cells < self.size
        shares, cells = shares[seen], cells[seen]
        whole = np.floor(cells + 1e-9).astype(np.int64)
        part = cells - whole
        part = np.where(part < 1e-6, 0.0, part)
        part = {"down": np.zeros_like(part), "mid": part, "up": np.ceil(part)}[self.side]
        both = np.concatenate((shares * (1.0 - part), shares * part))
        pmf: Array = np.bincount(np.concatenate((whole, whole + 1)), both, minlength=self.size).astype(np.float64)
        return self.of(pmf[: self.size])

    def cells_before(self, seconds: float) -> int:
        """How many points of the grid lie before a time [s]."""
        return math.ceil(seconds / self.dt - 1e-6)

    def uniform(self, least: float, most: float) -> Any:
        """A time between `least` and `most` [s], uniformly distributed."""
        return self._once((least, most), lambda: self._uniform(least, most))

    def _uniform(self, least: float, most: float) -> Any:
        first, last = int(least / self.dt + 1e-9), min(self.size - 1, math.ceil(most / self.dt - 1e-9))
        if most - least <= 0 or last <= first:
            return self.of_pieces([(1.0, most)])
        edges = np.clip(np.arange(first, last + 1) * self.dt, least, most)
        mass = np.diff(edges) / (most - least)
        # Rounded in proportion, the mean stays, also where the range begins or ends within a cell.
        middle = (edges[:-1] + edges[1:]) / 2 / self.dt - np.arange(first, last)
        up = {"down": np.zeros_like(middle), "mid": middle, "up": np.ones_like(middle)}[self.side]
        pmf = np.zeros(self.size)
        pmf[first:last] += mass * (1.0 - up)
        pmf[first + 1 : last + 1] += mass * up
        return self.of(pmf)


@dataclass(frozen=True)
class Spacing:
    """A grid of time: so many points, `dt` [s] apart, and its tilt."""

    dt: float
    size: int
    tilt: float

    @property
    def end(self) -> float:
        return self.dt * self.size

    @property
    def times(self) -> Array:
        times: Array = np.arange(self.size, dtype=np.float64) * np.float64(self.dt)
        return times

    @property
    def coarser(self) -> Spacing:
        return Spacing(self.dt * COARSER, self.size, TILT_LONG)

    def grid(self, side: Side = "mid") -> Grid:
        """A grid on which every time is rounded by `side`."""
        return Grid(self.size, self.dt, side, self.tilt)

"""Distributions of time on a grid, as transforms, so that sums of times are products."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]

Side = Literal["down", "mid", "up"]
"""How a time between two points of the grid is rounded: to the one before, to both in proportion, to the one after."""

Pieces = list[tuple[float, float]]
"""(share, seconds) of each possible case."""


def total(pieces: Pieces) -> float:
    return sum(share for share, _ in pieces)


class Grid:
    """Distributions of time as transforms. They are tilted, so that what lies beyond the grid's end is not folded back
    onto its beginning."""

    def __init__(self, size: int, dt: float, side: Side, tilt: float) -> None:
        self.size = size
        self.dt = dt
        self.side = side
        self._tilt = tilt ** (np.arange(size) / size)

    def of(self, pmf: Array) -> Any:
        return np.fft.rfft(pmf * self._tilt)

    def back(self, transform: Any) -> Array:
        pmf: Array = np.fft.irfft(transform, self.size) / self._tilt
        return np.maximum(pmf, 0.0)

    def at(self, seconds: float) -> Any:
        """A constant time. An infinite time contributes nothing."""
        return self.of_pieces([(1.0, seconds)])

    def of_pieces(self, pieces: Pieces) -> Any:
        """A time that takes one of several values, each with its share."""
        pmf = np.zeros(self.size)
        for share, seconds in pieces:
            if seconds >= self.size * self.dt:
                continue
            whole = int(seconds / self.dt + 1e-9)
            part = max(0.0, seconds / self.dt - whole)
            part = 0.0 if part < 1e-6 else part
            part = {"down": 0.0, "mid": part, "up": float(part > 0)}[self.side]
            pmf[whole] += share * (1.0 - part)
            if whole + 1 < self.size:
                pmf[whole + 1] += share * part
        return self.of(pmf)

    def uniform(self, least: float, most: float) -> Any:
        """A time between `least` and `most`, uniformly distributed."""
        first, last = int(least / self.dt + 1e-9), min(self.size - 1, math.ceil(most / self.dt - 1e-9))
        if most - least <= 0 or last <= first:
            return self.at(most)
        edges = np.clip(np.arange(first, last + 1) * self.dt, least, most)
        mass = np.diff(edges) / (most - least)
        up = {"down": 0.0, "mid": 0.5, "up": 1.0}[self.side]
        pmf = np.zeros(self.size)
        pmf[first:last] += mass * (1.0 - up)
        pmf[first + 1 : last + 1] += mass * up
        return self.of(pmf)

"""How much memory a run takes, so that a long one can show that it stays flat."""

from __future__ import annotations

import os
import time
from statistics import median

import psutil

from trellis.chaos.house import House

EVERY = 10.0
"""Seconds between two looks."""

EDGE = 6
"""How many looks at each end of the run are compared: a minute."""


class Memory:
    """Resident memory of this process, of the workers and of the servers, look by look [MB].

    A page that several processes share counts in each, so only the course of the servers' figure means something.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self._looks: dict[str, list[float]] = {"runner": [], "worker": [], "servers": []}
        self._next = time.monotonic()

    def look(self) -> None:
        """Measure, if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        workers = [_resident(member.pid) for member in self._house.crew.members]
        ours = {os.getpid(), *(member.pid for member in self._house.crew.members)}
        try:
            children = [child.pid for child in psutil.Process().children(recursive=True)]
        except psutil.Error:
            children = []
        self._looks["runner"].append(_resident(os.getpid()))
        # The mean: their number changes when one is killed.
        self._looks["worker"].append(sum(workers) / len(workers) if workers else 0.0)
        self._looks["servers"].append(sum(_resident(pid) for pid in children if pid not in ours))

    @property
    def found(self) -> dict[str, dict[str, float]]:
        """For each: the median of its first and of its last minute, and the largest look."""
        return {
            name: {
                "first": round(median(looks[:EDGE]), 1),
                "last": round(median(looks[-EDGE:]), 1),
                "most": round(max(looks), 1),
            }
            for name, looks in self._looks.items()
            if looks
        }


def _resident(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0

"""One check and its result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`name`: enough, independent, durations or chain. `ok`: whether the data allow the assumption. `words`: one or two
    sentences that say what was found, with its figures."""

    name: str
    ok: bool
    words: str

"""What the calls of a step meet: they work, raise, lose their reply or hang."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from random import Random

from trellis.insight.calls import Calls


class Outcome(StrEnum):
    """How a try ended, in the words of `insight.attempts`."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    ABANDONED = "abandoned"


class Provider:
    """The outside systems of all steps. Calls come in the order of their times, each with the time of its beginning.

    So a provider that is out for a while, or that serves only some calls at once, can be put in its place.
    """

    def __init__(self, calls: Mapping[str, Calls]) -> None:
        self._calls = calls

    def call(self, step: str, now: float, luck: Random) -> tuple[Outcome, float]:
        """(how a call that begins at `now` ends if nobody cuts it off, seconds it takes)."""
        mix = self._calls[step]
        draw = luck.random()
        if draw < mix.error:
            return Outcome.FAILED, luck.choice(mix.error_s)
        if draw < mix.error + mix.hang:
            return Outcome.SUCCEEDED, mix.hang_s
        lost = draw < mix.error + mix.hang + mix.reply_lost
        return Outcome.FAILED if lost else Outcome.SUCCEEDED, luck.choice(mix.latency)

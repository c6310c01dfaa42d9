"""Outages of an outside system, and its capacity: what time and load do to a call, beside the faults that are drawn.

An outage is a window in which every call of a step fails in one way. A capacity is the number of calls that a provider
serves at once. Both are plain values and pure functions: workers and the simulator read them alike.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import count
from typing import Any

from trellis.errors import ConfigError

RAISES, HANGS = "error", "hang"
HOW = (RAISES, HANGS)
"""What an outage does to a call: it raises at once, or it hangs as long as the plan's hangs do."""

_MONTH = 30 * 86_400
_CYCLES = 1000


@dataclass(frozen=True)
class Outage:
    """One window. `begins`: seconds after the outages came into force. `step`: None for every step that calls out."""

    begins: float
    seconds: float
    how: str = RAISES
    step: str | None = None

    @property
    def ends(self) -> float:
        return self.begins + self.seconds


@dataclass(frozen=True)
class RandomOutages:
    """Windows without end, whose lengths and gaps are drawn: both exponential, with these means [s].

    The windows are a pure function of these fields and the plan's seed. They begin afresh every thousand mean cycles,
    with a gap, so that no process has to draw a month of windows to find the present one. One window in a thousand is
    cut short by that.
    """

    mean_seconds: float
    mean_gap: float
    how: str = RAISES
    step: str | None = None

    def windows(self, seed: int) -> Iterator[Outage]:
        """The windows in their order, without end."""
        for block in count():
            yield from _drawn(self, seed, block)[1]

    def window(self, seed: int, since: float) -> Outage | None:
        """The window in force `since` seconds after the outages came into force."""
        begins, found = _drawn(self, seed, int(since // self._block))
        at = bisect_right(begins, since) - 1
        return found[at] if at >= 0 and since < found[at].ends else None

    @property
    def _block(self) -> float:
        return _CYCLES * (self.mean_seconds + self.mean_gap)


Outages = tuple[Outage | RandomOutages, ...]


@dataclass(frozen=True)
class Capacity:
    """A provider that serves at most `calls` calls at once, each for `seconds`. The others wait in its queue, in the
    order in which they came. A call that its caller gave up is served all the same."""

    calls: int
    seconds: float

    @property
    def per_second(self) -> float:
        """The most calls that it serves in a second."""
        return self.calls / self.seconds


@lru_cache(maxsize=64)
def _drawn(outages: RandomOutages, seed: int, block: int) -> tuple[list[float], list[Outage]]:
    """The windows of one block: their beginnings, and themselves."""
    at, end = block * outages._block, (block + 1) * outages._block
    found: list[Outage] = []
    for number in count():
        at += _exponential(outages.mean_gap, outages, seed, block, number, "gap")
        if at >= end:
            return [one.begins for one in found], found
        seconds = min(_exponential(outages.mean_seconds, outages, seed, block, number, "length"), end - at)
        found.append(Outage(at, seconds, outages.how, outages.step))
        at += seconds
    raise AssertionError("unreachable")


def uniform(*cause: object) -> float:
    """A number in [0, 1) that depends on these words and numbers alone, in every process."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in cause).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _exponential(mean: float, *cause: object) -> float:
    return -mean * math.log1p(-uniform(*cause))


def outage_at(outages: Sequence[Outage | RandomOutages], step: str, seed: int, since: float) -> Outage | None:
    """The outage of `step` in force `since` seconds after the outages came into force. Of several, the first given."""
    if since < 0:
        return None
    for one in outages:
        if one.step not in (None, step):
            continue
        if isinstance(one, RandomOutages):
            window = one.window(seed, since)
            if window is not None:
                return window
        elif one.begins <= since < one.ends:
            return one
    return None


def check_outages(outages: object, names: Sequence[str]) -> None:
    """Raise ConfigError with a sentence for a window or a step that makes no sense."""
    if not isinstance(outages, tuple) or not all(isinstance(one, Outage | RandomOutages) for one in outages):
        raise ConfigError("outages must be a list of windows.")
    for one in outages:
        if one.step is not None and one.step not in names:
            raise ConfigError(f"There is no step {one.step!r} that calls out. Known are {', '.join(names)}.")
        if one.how not in HOW:
            raise ConfigError(f"An outage's calls do one of {', '.join(HOW)}, not {one.how!r}.")
        if isinstance(one, Outage):
            if not _between(one.begins, 0, _MONTH):
                raise ConfigError("An outage begins 0 s or more after it is put in force, and within 30 days.")
            if not _between(one.seconds, 0, _MONTH) or one.seconds <= 0:
                raise ConfigError("An outage lasts more than 0 s, and at most 30 days.")
        elif not (_between(one.mean_seconds, 0.01, _MONTH) and _between(one.mean_gap, 0.01, _MONTH)):
            raise ConfigError("Random outages last 0.01 s or more in the mean, and so do their gaps; at most 30 days.")


def check_capacity(capacity: object, names: Sequence[str]) -> None:
    """Raise ConfigError with a sentence for a capacity or a step that makes no sense."""
    if not isinstance(capacity, dict) or not all(isinstance(one, Capacity) for one in capacity.values()):
        raise ConfigError('capacity must be an object such as {"charge": {"calls": 3, "seconds": 0.2}}.')
    for step, one in capacity.items():
        if step not in names:
            raise ConfigError(f"There is no step {step!r} that calls out. Known are {', '.join(names)}.")
        if isinstance(one.calls, bool) or not isinstance(one.calls, int) or not 1 <= one.calls <= 1000:
            raise ConfigError(f"A provider of {step} serves from 1 to 1000 calls at once, not {one.calls!r}.")
        if not _between(one.seconds, 0, 3600) or one.seconds <= 0:
            raise ConfigError(f"A call that a provider of {step} serves takes more than 0 s, and at most an hour.")


def _between(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def read_outages(raw: Sequence[Mapping[str, Any]]) -> Outages:
    """Windows as JSON holds them. Raises TypeError for an unknown field, as dataclasses do."""
    return tuple(RandomOutages(**one) if "mean_gap" in one else Outage(**one) for one in raw)


def outages_json(outages: Outages) -> list[dict[str, Any]]:
    return [asdict(one) for one in outages]


def parse_outage(text: str) -> Outage:
    """`step:begins:seconds` with `:error` or `:hang` behind it, or `all` in place of the step. Raises ConfigError."""
    step, (begins, seconds), how = _parsed(text, "--outage charge:5:10:hang")
    return Outage(begins, seconds, how, step)


def parse_random_outages(text: str) -> RandomOutages:
    """`step:mean_seconds:mean_gap` with `:error` or `:hang` behind it. Raises ConfigError."""
    step, (seconds, gap), how = _parsed(text, "--random-outages charge:2:20:error")
    return RandomOutages(seconds, gap, how, step)


def parse_capacity(text: str) -> tuple[str, Capacity | None]:
    """`step:calls:seconds`, or `step:none` for a provider that serves every call at once. Raises ConfigError."""
    step, _, rest = text.partition(":")
    if rest.strip() == "none":
        return step.strip(), None
    calls, _, seconds = rest.partition(":")
    try:
        return step.strip(), Capacity(int(calls), float(seconds))
    except ValueError:
        raise ConfigError(
            f"The capacity {text[:40]!r} cannot be read: write it as charge:3:0.2 (step, calls at once, seconds each)."
        ) from None


def _parsed(text: str, example: str) -> tuple[str | None, tuple[float, float], str]:
    step, *rest = (part.strip() for part in text.split(":"))
    try:
        first, second, *how = rest
        (how_,) = how or [RAISES]
        return None if step == "all" else step, (float(first), float(second)), how_
    except ValueError:
        raise ConfigError(
            f"The outage {text[:40]!r} cannot be read: write it as in {example}, with two numbers of seconds."
        ) from None


def in_words(one: Outage | RandomOutages) -> str:
    """ "charge raises from 5 s to 15 s"."""
    who, verb = one.step or "every step", "raises" if one.how == RAISES else "hangs"
    if isinstance(one, Outage):
        return f"{who} {verb} from {one.begins:g} s to {one.ends:g} s"
    return f"{who} {verb} for {one.mean_seconds:g} s in the mean, at gaps of {one.mean_gap:g} s in the mean"


def capacity_in_words(one: Capacity) -> str:
    """ "serves 3 calls at once, 0.2 s each: 15 a second"."""
    calls = "1 call at a time" if one.calls == 1 else f"{one.calls} calls at once"
    return f"serves {calls}, {one.seconds:g} s each: {one.per_second:.3g} a second"

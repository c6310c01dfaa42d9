"""A learned chain in words for people."""

from __future__ import annotations

from collections import Counter

import numpy as np

from trellis.insight.chain import Choice, Measured, Parallel, Part, Repeat, Rounds, Series, Step

REST = "the rest"
"""What a chain calls the measured time that its activities, timers, children and waits do not explain."""


def sentence(part: Part) -> str:
    """A chain as a sentence, such as "reserve, then charge and notify side by side, then poll 10 times"."""
    match part:
        case Step(name):
            return name
        case Measured(what, seconds):
            return f"{what} ({_span(seconds)})"
        case Series(parts):
            return ", then ".join(sentence(one) for one in parts if not _is_rest(one)) or "nothing"
        case Parallel(branches):
            counted = Counter(_inner(one) for one in branches)
            words = [text if n == 1 else f"{n} times {text}" for text, n in counted.items()]
            return f"{' and '.join(words)} side by side"
        case Repeat(body, times):
            low, high = min(times), max(times)
            often = f"{low} times" if low == high else f"{low} to {high} times"
            return f"{_inner(body)} {often}"
        case Rounds(body):
            return sentence(body)
        case Choice(options, shares):
            if (width := _width(options)) is not None:
                return width
            found = dict.fromkeys(sentence(one) for one in options)
            if len(found) > 3:
                return f"one of {len(found)}: {next(iter(found))}, and others"
            return "either " + " or ".join(
                f"{sentence(one)} ({share_words(share)})" for one, share in zip(options, shares, strict=True)
            )


def _is_rest(part: Part) -> bool:
    return isinstance(part, Measured) and part.what == REST


def _width(options: tuple[Part, ...]) -> str | None:
    """The number of equal branches side by side, in words, where the options differ in nothing else. Else None."""
    branches = [one.branches if isinstance(one, Parallel) else (one,) for one in options]
    if len({branch for one in branches for branch in one}) != 1:
        return None
    low, high = min(map(len, branches)), max(map(len, branches))
    return f"{low} to {high} times {_inner(branches[0][0])} side by side"


def _inner(part: Part) -> str:
    text = sentence(part)
    if isinstance(part, Series) and sum(not _is_rest(one) for one in part.parts) == 1:
        return text
    return f"({text})" if isinstance(part, Series | Parallel | Choice) else text


def share_words(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


def _span(seconds: tuple[float, ...]) -> str:
    low, middle, high = (float(one) for one in np.quantile(seconds, (0.1, 0.5, 0.9)))
    if high - low <= 0.1 * middle:
        return _duration(middle)
    return f"half within {_duration(middle)}"


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.3g} s"

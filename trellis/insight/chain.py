"""What a workflow does, as far as its time is concerned: steps one after another, side by side, or in a loop.

A chain is one part. A `Series` holds parts that follow each other, a `Parallel` holds branches that run at the same
time and ends with the last of them, and a `Repeat` runs its body several times. A `Step` is an activity, tried under
its retry rule. A `Measured` is a time that no retry rule changes: a timer, a wait for a signal, or what is left when
everything known has been subtracted. A `Choice` is one of several parts, each with its share. `Rounds` is the child
workflow of an order. `ORDER` is the chain of an order. `chain_text` reads and writes chains as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from trellis.errors import BadInput
from trellis.model import FORWARD_OUTSIDE_STEPS, STEPS

IN_ROUNDS = frozenset(str(step) for step, info in STEPS.items() if info.queue == "shipping")
"""The steps of the shipping workflow: a round runs all of them."""


@dataclass(frozen=True)
class Step:
    """One activity. `name`: its type, by which its calls and its retry rule are found.

    `only_retries`: only the time that its failed tries and the backoffs after them take. Good calls take no time, but a
    good call that is slower than the timeout fails as before. Such a step adds what retries cost to a measured time
    that already holds the good calls.
    """

    name: str
    only_retries: bool = False


@dataclass(frozen=True)
class Measured:
    """A time that no retry rule changes. `seconds`: equally likely durations [s]. `what`: in words, for people."""

    what: str
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """Parts that follow each other."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Parallel:
    """Branches that begin together. The part ends when the last branch ends."""

    branches: tuple[Part, ...]


@dataclass(frozen=True)
class Repeat:
    """A body that runs several times, one after another. `times`: equally likely numbers of rounds, 0 or more."""

    body: Part
    times: tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """One of several parts, as the workflow's own conditions decide. `shares`: of the options, adding up to 1."""

    options: tuple[Part, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Rounds:
    """A child workflow that is started again when it fails, as shipping is. The policy says how often
    (`dispatch_retries`), and after how long it fails (`child_run_timeout`)."""

    body: Part


Part = Step | Measured | Series | Parallel | Repeat | Choice | Rounds


def steps_of(part: Part) -> Iterator[Step]:
    """Every step of a part, in order of appearance. A step that occurs twice is given twice."""
    match part:
        case Step():
            yield part
        case Series(parts) | Parallel(parts) | Choice(parts):
            for one in parts:
                yield from steps_of(one)
        case Repeat(body) | Rounds(body):
            yield from steps_of(body)
        case Measured():
            return


def in_a_row(names: Iterable[str]) -> Series:
    """Steps that follow each other. Those of the shipping workflow run in rounds."""
    parts: list[Part] = []
    for in_rounds, group in groupby(map(str, names), key=IN_ROUNDS.__contains__):
        steps = tuple(map(Step, group))
        parts += [Rounds(Series(steps))] if in_rounds else steps
    return Series(tuple(parts))


ORDER = in_a_row(FORWARD_OUTSIDE_STEPS)
"""What an order does: three steps, rounds of shipping, one more step."""


def executions(part: Part) -> float:
    """How often steps run in a part if nothing fails: a step in a loop of ten counts ten times."""
    match part:
        case Step():
            return 1.0
        case Measured():
            return 0.0
        case Series(parts) | Parallel(parts):
            return sum(map(executions, parts))
        case Repeat(body, times):
            return executions(body) * sum(times) / len(times)
        case Choice(options, shares):
            return sum(share * executions(one) for one, share in zip(options, shares, strict=True))
        case Rounds(body):
            return executions(body)


def check_part(part: Part) -> Part:
    """Return the part itself. Raises BadInput where its numbers make no sense."""
    match part:
        case Measured(what, seconds):
            if not seconds or not all(math.isfinite(one) and one >= 0 for one in seconds):
                raise BadInput(
                    f"The durations of {what!r} are numbers of seconds, 0 or more, and there is at least one."
                )
        case Repeat(body, times):
            if not times or min(times) < 0:
                raise BadInput("A loop runs 0 times or more, and it is known how often.")
            check_part(body)
        case Choice(options, shares):
            if not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6 or len(options) != len(shares):
                raise BadInput("The shares of a choice are 0 or more and add up to 1, one for each option.")
            for one in options:
                check_part(one)
        case Series(parts) | Parallel(parts):
            for one in parts:
                check_part(one)
        case Rounds(body):
            check_part(body)
        case Step():
            pass
    return part

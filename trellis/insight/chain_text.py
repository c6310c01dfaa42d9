"""Chains as text, as `--steps` takes them: `reserve, charge x 10, (pack | label, print), 3s`.

a, b               b follows a
a | b, c           a runs beside b and c; parentheses make a group of it
a x 10             a runs ten times; x 2/3: two or three times, equally likely
3s  200ms  1s/2s   a fixed time; one of several, equally likely (also min and h)
(70%: a; 30%: b)   one of the two
rounds(a, b)       a child workflow that is started again when it fails, as the policy says
retries(a)         only what the failed attempts of a cost
"charge card"      a name with spaces, commas or the like
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

from trellis.errors import BadInput
from trellis.insight.chain import Choice, Measured, Parallel, Part, Repeat, Rounds, Series, Step

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[(),|;:]|[^\s(),|;:"]+)')
_BARE = re.compile(r'[^\s(),|;:"]+')
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_DURATION = re.compile(rf"({_NUMBER})(ms|s|min|h)")
_DURATIONS = re.compile(rf"{_DURATION.pattern}(?:/{_DURATION.pattern})*")
_TIMES = re.compile(r"\d+(?:/\d+)*")
_SHARE = re.compile(rf"({_NUMBER})%")
_WORDS = ("rounds", "retries")
_Number = TypeVar("_Number", int, float)
_MOST_TIMES, _DEEPEST, _MOST_VALUES = 100_000, 40, 12


def parse(text: str) -> Part:
    """The chain that a text describes. Raises BadInput with a sentence."""
    reader = _Reader(text)
    part = reader.branches(0)
    if reader.next is not None:
        raise reader.wrong(f"{reader.next!r} is out of place")
    return part


def words(part: Part) -> str:
    """A part as text that `parse` reads. Of a measured time, or a number of rounds, with more than twelve values, the
    text holds twelve quantiles. It does not hold the name of a measured time."""
    match part:
        case Step(name, only_retries):
            return f"retries({_quoted(name)})" if only_retries else _quoted(name)
        case Measured(_, seconds):
            return "/".join(_duration(one) for one in _few(seconds))
        case Series(parts):
            return ", ".join(map(_item, parts)) or "0s"
        case Parallel(branches):
            return " | ".join(f"({words(one)})" if isinstance(one, Parallel) else words(one) for one in branches)
        case Repeat(body, times):
            return f"{_item(body)} x {'/'.join(str(one) for one in _few(times))}"
        case Choice(options, shares):
            both = zip(shares, options, strict=True)
            return f"({'; '.join(f'{_plain(share * 100)}%: {_branch(option)}' for share, option in both)})"
        case Rounds(body):
            return f"rounds({words(body)})"


def _item(part: Part) -> str:
    """A part as text where another follows it."""
    return f"({words(part)})" if isinstance(part, Series | Parallel) else words(part)


def _branch(part: Part) -> str:
    return f"({words(part)})" if isinstance(part, Parallel) else words(part)


def _quoted(name: str) -> str:
    plain = _BARE.fullmatch(name) and not _DURATIONS.fullmatch(name) and not _SHARE.fullmatch(name)
    if plain and name not in (*_WORDS, "x"):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _few(values: Iterable[_Number]) -> list[_Number]:
    """Equally likely values, or so many of their quantiles that a person reads them."""
    every = sorted(values)
    if len(set(every)) == 1:
        return every[:1]
    if len(every) <= _MOST_VALUES:
        return every
    return [every[int((place + 0.5) * len(every) / _MOST_VALUES)] for place in range(_MOST_VALUES)]


def _duration(seconds: float) -> str:
    return f"{_plain(seconds)}s"


def _plain(number: float) -> str:
    return f"{number:.12g}"


class _Reader:
    """Reads one chain, token by token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise self.wrong("a quotation mark has no partner")
            self._tokens.append(found[1])
            at = found.end()
        self._at = 0

    @property
    def next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def wrong(self, why: str) -> BadInput:
        shown = self._text if len(self._text) <= 60 else f"{self._text[:57]}..."
        return BadInput(f'The steps "{shown}" cannot be read: {why}. Write them as in "a, b x 10, (c | d, e), 3s".')

    def take(self, expected: str | None = None) -> str:
        token = self.next
        if token is None or (expected is not None and token != expected):
            missing = "a step or a time" if expected is None else repr(expected)
            raise self.wrong(f"{missing} is missing " + ("at the end" if token is None else f"before {token!r}"))
        self._at += 1
        return token

    def branches(self, depth: int) -> Part:
        if depth > _DEEPEST:
            raise self.wrong("its parentheses are too deep")
        found = self.separated("|", depth)
        return found[0] if len(found) == 1 else Parallel(tuple(found))

    def separated(self, by: str, depth: int) -> list[Part]:
        found = [self.row(depth)]
        while self.next == by:
            self.take()
            found.append(self.row(depth))
        return found

    def row(self, depth: int) -> Part:
        found = [self.item(depth)]
        while self.next == ",":
            self.take()
            found.append(self.item(depth))
        return found[0] if len(found) == 1 else Series(tuple(found))

    def item(self, depth: int) -> Part:
        part = self.one(depth)
        while self.next is not None and re.fullmatch(r"x(?:\d.*)?", self.next):
            times = self.take()[1:] or self.take()
            if not _TIMES.fullmatch(times):
                raise self.wrong(f"after x comes a whole number, not {times!r}")
            numbers = tuple(int(one) for one in times.split("/"))
            if max(numbers) > _MOST_TIMES:
                raise self.wrong(f"a part can run at most {_MOST_TIMES} times")
            part = Repeat(part, numbers)
        return part

    def one(self, depth: int) -> Part:
        token = self.take()
        if token == "(":
            share = None if self.next is None else _SHARE.fullmatch(self.next)
            part = self.choice(depth + 1) if share else self.branches(depth + 1)
            self.take(")")
            return part
        if token in _WORDS and self.next == "(":
            return self.word(token, depth)
        if token in "),|;:":
            raise self.wrong(f"a step or a time is missing before {token!r}")
        if _DURATIONS.fullmatch(token):
            seconds = (_DURATION.fullmatch(one) for one in token.split("/"))
            return Measured(token, tuple(float(one[1]) * _SECONDS[one[2]] for one in seconds if one))
        return Step(self.name(token))

    def word(self, word: str, depth: int) -> Part:
        self.take("(")
        part = Rounds(self.branches(depth + 1)) if word == "rounds" else Step(self.name(self.take()), only_retries=True)
        self.take(")")
        return part

    def choice(self, depth: int) -> Part:
        options: list[Part] = []
        shares: list[float] = []
        while True:
            share = _SHARE.fullmatch(self.take())
            if share is None:
                raise self.wrong("each option begins with its share, such as 30%:")
            self.take(":")
            shares.append(float(share[1]) / 100)
            options.append(self.row(depth))
            if self.next != ";":
                break
            self.take()
        if abs(sum(shares) - 1) > 1e-6:
            raise self.wrong("the shares of a choice add up to 100 %")
        return Choice(tuple(options), tuple(shares))

    def name(self, token: str) -> str:
        name = re.sub(r"\\(.)", r"\1", token[1:-1]) if token.startswith('"') else token
        if not name.strip():
            raise self.wrong("a step has no name")
        return name

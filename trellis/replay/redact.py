"""Fields that must not be in a saved recording: their values are replaced before anything is written.

A field is named by its own name, or by the end of its path with dots: "line1", "address.city", "items.*.price". Names
may hold `*`, `?` and `[...]` as file names do, and capital letters do not matter. A compiled regular expression must
fit the whole name or the whole path. The root of a path says where a value stands: variables have their own names,
`input` and `options` belong to commands, `details` to events, and a book's name to its rows.

The same words stand in several places: an address in a variable, in the input of a command, in an event, in a sentence.
So a text that was redacted once is replaced wherever it appears. Numbers, and texts of fewer than `SHORT` characters,
are replaced under the names given and nowhere else: they would fit in too many places. Source code is not redacted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fnmatch import translate

from trellis.errors import BadInput
from trellis.replay.values import Fields, Tree

REDACTED = "<redacted>"
SHORT = 4
CUT = "…"
"""Stands where a long value was cut off. What is left of it may be the beginning of a secret."""
_MARK = re.compile(r"<[^<>]*>")

Pattern = str | re.Pattern[str]
Path = tuple[str, ...]


class Redactor:
    """First `note` every value, then `tree` and `text` give each back without what must not be shown."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        if isinstance(patterns, str | re.Pattern):
            patterns = (patterns,)
        self._patterns = [_compiled(pattern) for pattern in patterns]
        self._secrets: set[str] = set()
        self._found: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def matches(self, path: Path) -> bool:
        """Whether the value at this path is redacted."""
        if not path:
            return False
        return any(
            pattern.fullmatch(end)
            for pattern in self._patterns
            for end in (".".join(path[start:]) for start in range(len(path)))
        )

    def note(self, value: object, path: Path = ()) -> None:
        """Remember the texts of what is redacted in this value, so that `text` finds them elsewhere."""
        if not self._patterns:
            return
        if self.matches(path):
            for secret in _texts(value):
                if len(secret.strip()) >= SHORT:
                    # Sentences quote a value as JSON does.
                    self._secrets |= {secret, json.dumps(secret, ensure_ascii=False)[1:-1]}
            self._found = None
            return
        for key, part in _parts(value):
            self.note(part, (*path, key))

    def text(self, words: str) -> str:
        """The words without a text that was redacted."""
        if not self._secrets:
            return words
        if self._found is None:
            longest_first = sorted(self._secrets, key=lambda secret: (-len(secret), secret))
            self._found = re.compile("|".join(map(re.escape, longest_first)))
        words = self._found.sub(REDACTED, words)
        *cut, rest = words.split(CUT)
        return CUT.join([*map(self._beheaded, cut), rest])

    def _beheaded(self, words: str) -> str:
        """Words before a cut, without the beginning of a text that was redacted."""
        for secret in self._secrets:
            for size in range(min(len(secret), len(words)), SHORT - 1, -1):
                if words.endswith(secret[:size]):
                    return words[:-size] + REDACTED
        return words

    def tree(self, value: Tree, path: Path = ()) -> Tree:
        """The value without what is redacted in it. What has no such part comes back as it is."""
        if not self._patterns:
            return value
        if self.matches(path):
            return REDACTED
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.tree(part, (*path, str(place))) for place, part in enumerate(value)]
        if isinstance(value, dict):
            clean = {self.text(key): self.tree(part, (*path, key)) for key, part in value.items()}
            return Fields(value.type, clean) if isinstance(value, Fields) else clean
        return value


def _compiled(pattern: Pattern) -> re.Pattern[str]:
    if isinstance(pattern, re.Pattern):
        return pattern
    if not isinstance(pattern, str) or not pattern.strip():
        raise BadInput(f"{pattern!r} names no field. Give a name, a pattern such as 'address.*', or re.compile(...).")
    # A name without dots is a field's own name. `*` goes over dots, so that "address.*" takes all below an address.
    return re.compile(translate(pattern.strip()), re.IGNORECASE)


def _parts(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list):
        return ((str(place), part) for place, part in enumerate(value))
    return ()


def _texts(value: object) -> Iterable[str]:
    """All texts in a value. A mark such as "<3 bytes>" is no text of the value."""
    if isinstance(value, str):
        if not _MARK.fullmatch(value):
            yield value
        return
    for _, part in _parts(value):
        yield from _texts(part)

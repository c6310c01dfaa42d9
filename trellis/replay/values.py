"""Trees of plain values, read from any object without calling its code.

A workflow's variables may hold objects whose `__repr__` raises, whose properties have side effects, or whose `__eq__`
never ends. A snapshot that called any of it could change the workflow that it shows. So nothing here uses an attribute,
an operator, `isinstance` or `len` on an object of a user's class (`kinds` says what is used instead).

What is shown:

    None, bool, int, float, str      themselves; a subclass as its built-in value; a long text is cut
    list, tuple, deque, set          a list; a set's items are sorted
    dict                             a dict with text as keys
    named tuples, other objects      `Fields`: the name of the class, and the instance's attributes and slots
    Enum                             its value
    datetime, timedelta, Decimal...  their text (of the standard library's types)
    bytes                            "<3 bytes>"
    tasks, locks, functions, ...     "<Task OrderWorkflow._fulfil: pending>", "<Lock: locked>", "<function trim>"

Everything is bounded (`Limits`), and what is cut says so in angle brackets. An object inside itself is "<cycle: path>";
one that is there twice is shown twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from math import isfinite
from typing import Any, TypeAlias

from trellis.replay.kinds import Instead, Kind, Listed, Paired, kind_of
from trellis.replay.paths import Key, path

Tree: TypeAlias = "bool | int | float | str | list[Tree] | dict[str, Tree] | None"
"""A value as it is shown: scalars, lists, dicts with text keys, and `Fields` for objects."""

MORE = "…"
"""The name under which a dict that was cut says how much is missing. A list says it in its last item."""

_BITS = 1024
"""Longer integers are told by their length. Python itself refuses to write very long ones as text."""

_NAME = 100
"""Characters of a dict's key."""


class Gone(Enum):
    """The mark of a variable that is no longer there."""

    GONE = "<gone>"


GONE = Gone.GONE


class Fields(dict[str, Tree]):
    """The fields of one object, in their order. `type` is the name of its class."""

    __slots__ = ("type",)

    def __init__(self, type: str = "object", fields: Mapping[str, Tree] | Iterable[tuple[str, Tree]] = ()) -> None:
        super().__init__(fields)
        self.type = type


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read: levels, characters of a text, items of a container, and values of one snapshot in all."""

    depth: int = 16
    text: int = 2_000
    items: int = 200
    nodes: int = 10_000


LIMITS = Limits()


class Reader:
    """Reads many snapshots of one workflow. It remembers how each class is read, and keeps no object."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        # By id, because a class may define how it is hashed. The class beside its kind keeps the id taken.
        self._kinds: dict[int, tuple[type, Kind]] = {}

    def kind(self, class_: type) -> Kind:
        known = self._kinds.get(id(class_))
        if known is None:
            known = self._kinds[id(class_)] = (class_, kind_of(class_))
        return known[1]

    def tree(self, obj: object) -> Tree:
        """Any object as a tree of plain values."""
        return _Snapshot(self, self._limits).value(obj, 0)

    def variables(self, obj: object) -> dict[str, Tree]:
        """The attributes and slots of an instance, by name. An object that has none gives {}."""
        found = self.tree(obj)
        return dict(found) if isinstance(found, Fields) else {}


def tree(obj: object, limits: Limits = LIMITS) -> Tree:
    """Any object as a tree of plain values. It raises nothing, and calls no code of the object's class."""
    return Reader(limits).tree(obj)


def variables(obj: object, limits: Limits = LIMITS) -> dict[str, Tree]:
    """The attributes and slots of an instance, by name."""
    return Reader(limits).variables(obj)


def plain(value: Tree | Gone) -> Any:
    """Strict JSON: objects become dicts of their fields; NaN, the infinities and GONE become text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value.value if isinstance(value, Gone) else value


def shown(value: Tree | Gone, width: int = 60) -> str:
    """A tree in one line of at most `width` characters: `Item(sku="A-1", price=2.5)`, `[1, 2]`, `{a: 1}`."""
    line = "".join(islice(_words(value, width), width))
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _words(value: Tree | Gone, width: int) -> Iterator[str]:
    """The pieces of `shown`. None is empty, so that a reader who stops after `width` pieces has the whole line."""
    if isinstance(value, str):
        yield value if value[:1] == "<" and value[-1:] == ">" else json.dumps(value[: width + 1], ensure_ascii=False)
    elif isinstance(value, dict):
        joint = "=" if isinstance(value, Fields) else ": "
        yield f"{value.type}(" if isinstance(value, Fields) else "{"
        for number, (key, item) in enumerate(value.items()):
            yield f"{', ' if number else ''}{key}{joint}"
            yield from _words(item, width)
        yield ")" if isinstance(value, Fields) else "}"
    elif isinstance(value, list):
        yield "["
        for number, item in enumerate(value):
            if number:
                yield ", "
            yield from _words(item, width)
        yield "]"
    else:
        yield value.value if isinstance(value, Gone) else str(value)


class _Snapshot:
    """One reading, with what is left of its budget and the objects that enclose the one being read."""

    def __init__(self, reader: Reader, limits: Limits) -> None:
        self._kind = reader.kind
        self._limits = limits
        self._left = limits.nodes
        self._above: dict[int, int] = {}
        """The depth of each enclosing object, by its id. All are alive, so that no id is taken twice."""
        self._keys: list[Key] = [""] * (limits.depth + 1)
        """The key by which each enclosing object was reached from the one above it."""

    def value(self, obj: Any, depth: int) -> Tree:
        """`depth` is how many objects enclose this one."""
        class_ = type(obj)
        if obj is None or class_ is bool or class_ is float:
            return obj  # type: ignore[no-any-return]
        if class_ is str:
            return _cut(obj, self._limits.text)
        if class_ is int:
            return obj if obj.bit_length() <= _BITS else f"<integer of {obj.bit_length():,} bits>"
        try:
            return self._other(obj, self._kind(class_), depth)
        except Exception as error:
            # Nothing is known to come here. But one value that cannot be read must not end the replay.
            return f"<unreadable: {type(error).__name__}>"

    def _other(self, obj: Any, kind: Kind, depth: int) -> Tree:
        if depth >= self._limits.depth:
            return f"<not shown: {self._limits.depth} levels deep>"
        above = self._above.get(id(obj))
        if above is not None:
            return f"<cycle: {path(self._keys[:above]) or 'self'}>"
        self._above[id(obj)] = depth
        try:
            if isinstance(kind, Instead):
                self._keys[depth] = "value"
                return self.value(kind.read(obj), depth + 1)
            return self._list(obj, kind, depth) if isinstance(kind, Listed) else self._dict(obj, kind, depth)
        finally:
            del self._above[id(obj)]

    def _take(self, size: int) -> int:
        """How many of so many items are read. They are paid for before the first is read."""
        taken = max(0, min(size, self._limits.items, self._left))
        self._left -= taken
        return taken

    def _list(self, obj: Any, kind: Listed, depth: int) -> Tree:
        size = kind.size(obj)
        taken = self._take(size)
        found: list[Tree] = []
        for number, item in enumerate(islice(kind.members(obj), taken)):
            self._keys[depth] = number
            found.append(self.value(item, depth + 1))
        if not kind.ordered:
            found = _sorted(found)
        if taken < size:
            found.append(f"<{size - taken:,} more>")
        return found

    def _dict(self, obj: Any, kind: Paired, depth: int) -> Tree:
        pairs = kind.pairs(obj)
        taken = self._take(len(pairs))
        found: dict[str, Tree] = {} if kind.name is None else Fields(kind.name)
        for key, item in islice(pairs, taken):
            name = _cut(key, _NAME) if type(key) is str else self._name(key, depth)
            if kind.name is not None and name[:2] == name[-2:] == "__":
                continue
            while name in found:  # 1 and "1" are two keys
                name += "'"
            self._keys[depth] = name
            found[name] = self.value(item, depth + 1)
        if taken < len(pairs):
            found[MORE] = f"<{len(pairs) - taken:,} more>"
        return found

    def _name(self, key: object, depth: int) -> str:
        """The text of a key that is no text: `3`, `True`, `[1, 2]`, `Point(x=1, y=2)`."""
        self._keys[depth] = "key"
        found = self.value(key, depth + 1)
        return found if isinstance(found, str) else shown(found, _NAME)


def _cut(text: str, most: int) -> str:
    """A text of valid Unicode with at most so many characters, and a note of how many it had."""
    cut = text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"
    if cut.isascii():
        return cut
    try:
        cut.encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON could not be written as UTF-8
        return cut.encode(errors="backslashreplace").decode()
    return cut


def _sorted(trees: list[Tree]) -> list[Tree]:
    """The items of a set in one order, whatever the order of their hashes."""
    kinds = {type(item) for item in trees}
    if kinds <= {int, float} or kinds == {str}:
        return sorted(trees)  # type: ignore[type-var]
    return sorted(trees, key=lambda item: (type(item).__name__, repr(item)))

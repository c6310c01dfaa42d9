"""What changed between two trees, by path; and the later tree again, from the earlier one and the changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from trellis.replay.paths import Key, keys, path
from trellis.replay.values import GONE, Fields, Gone, Tree

Changes: TypeAlias = "Mapping[str, Tree | Gone]"
"""The new value by the path of what changed, GONE for what went. The path "" is the whole tree."""


def same(a: Tree, b: Tree) -> bool:
    """Equal by value and kind: `True` is not `1`, `1` is not `1.0`, NaN equals itself, an `Order` is not a `Cart`."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return _kind(a) == _kind(b) and a.keys() == b.keys() and all(same(item, b[key]) for key, item in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


def changes(before: Tree, after: Tree) -> dict[str, Tree | Gone]:
    """The smallest values that differ, by path. A list of which more than half differs is one change."""
    return {path(where): value for where, value in _differences(before, after, ())}


def apply(before: Tree, changes: Changes) -> Tree:
    """The tree after the changes. `before` stays as it is, and what did not change is shared with it."""
    if not changes:
        return before
    root: _Edits = {}
    for where, value in changes.items():
        *above, last = keys(where) or ("",)
        if not keys(where):
            assert not isinstance(value, Gone)
            return value
        edits = root
        for key in above:
            edits = edits.setdefault(key, {})  # type: ignore[assignment]
        edits[last] = _New(value)
    return _edited(before, root)

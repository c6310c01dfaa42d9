"""What changed between two trees, by path; and the later tree again, from the earlier one and the changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from trellis.replay.paths import Key, keys, path
from trellis.replay.values import GONE, Fields, Gone, Tree

Changes: TypeAlias = "Mapping[str, Tree | Gone]"
"""The new value by the path of what changed, GONE for what went. The path "" is the whole tree."""


_MANY = 8
"""If more items of a list than these and than half of it differ, the list itself is the change."""

_Edits: TypeAlias = "dict[Key, _Edits | _New]"


@dataclass(frozen=True, slots=True)
class _New:
    value: Tree | Gone


def same(a: Tree, b: Tree) -> bool:
    """Equal by value and kind: `True` is not `1`, `1` is not `1.0`, NaN equals itself, an `Order` is not a `Cart`."""
    return not changes(a, b)


def changes(before: Tree, after: Tree) -> dict[str, Tree | Gone]:
    """The new value of what changed, by its path, as deep in the tree as possible.

    A list of another length is one change if most of its items moved, as when its first item was taken.
    """
    return {path(where): value for where, value in _differences(before, after, ())}


def apply(before: Tree, changes: Changes) -> Tree:
    """The tree after the changes that `changes(before, after)` found.

    `before` stays as it is, and the result shares with it what did not change.
    """
    if "" in changes:
        whole = changes[""]
        return None if isinstance(whole, Gone) else whole
    edits: _Edits = {}
    for where, value in changes.items():
        *above, last = keys(where)
        inner = edits
        for key in above:
            inner = cast(_Edits, inner.setdefault(key, {}))
        inner[last] = _New(value)
    return _edited(before, edits) if edits else before


def _differences(before: Tree, after: Tree, at: tuple[Key, ...]) -> list[tuple[tuple[Key, ...], Tree | Gone]]:
    if before is after:
        return []
    if isinstance(before, dict) and isinstance(after, dict) and _class(before) == _class(after):
        found: list[tuple[tuple[Key, ...], Tree | Gone]] = []
        for key, item in after.items():
            found += _differences(before[key], item, (*at, key)) if key in before else [((*at, key), item)]
        return found + [((*at, key), GONE) for key in before if key not in after]
    if isinstance(before, list) and isinstance(after, list):
        return _in_list(before, after, at)
    if isinstance(before, dict) or type(before) is not type(after):
        return [(at, after)]
    # NaN alone is not equal to itself.
    return [] if before == after or (before != before and after != after) else [(at, after)]


def _in_list(before: list[Tree], after: list[Tree], at: tuple[Key, ...]) -> list[tuple[tuple[Key, ...], Tree | Gone]]:
    found: list[tuple[tuple[Key, ...], Tree | Gone]] = []
    common, most = min(len(before), len(after)), max(len(before), len(after))
    differ = most - common
    for index in range(common):
        deeper = _differences(before[index], after[index], (*at, index))
        differ += bool(deeper)
        found += deeper
    if 2 * differ > most and (len(before) != len(after) or differ > _MANY):
        return [(at, after)]
    found += [((*at, index), after[index]) for index in range(common, len(after))]
    return found + [((*at, index), GONE) for index in range(common, len(before))]


def _class(tree: dict[str, Tree]) -> str | None:
    return tree.type if isinstance(tree, Fields) else None


def _edited(tree: Tree, edits: _Edits) -> Tree:
    if isinstance(tree, list):
        items, end = list(tree), len(tree)
        for index, edit in edits.items():
            assert isinstance(index, int)
            if isinstance(edit, dict):
                items[index] = _edited(items[index], edit)
            elif isinstance(edit.value, Gone):
                end = min(end, index)
            else:
                items[index : index + 1] = [edit.value]
                end = max(end, index + 1)
        return items[:end]
    assert isinstance(tree, dict)
    fields: dict[str, Tree] = Fields(tree.type, tree.items()) if isinstance(tree, Fields) else dict(tree)
    for key, edit in edits.items():
        assert isinstance(key, str)
        if isinstance(edit, dict):
            fields[key] = _edited(fields[key], edit)
        elif isinstance(edit.value, Gone):
            del fields[key]
        else:
            fields[key] = edit.value
    return fields

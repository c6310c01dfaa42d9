"""What changed between two trees, by path, and the way back."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.steady import STEADY
from trellis.errors import BadInput
from trellis.replay.changes import apply, changes, same
from trellis.replay.paths import keys, path
from trellis.replay.values import GONE, Fields, Tree

names = st.text(max_size=3) | st.sampled_from(["a", "b", "a.b", "[0]", '"', "\\", "…"])
trees: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=12)
        | st.dictionaries(names, inner, max_size=4)
        | st.builds(Fields, st.sampled_from(["Order", "Item"]), st.dictionaries(names, inner, max_size=4))
    ),
    max_leaves=25,
)


def edited(data: st.DataObject, tree: Any) -> Any:
    """The tree with a few parts of it changed, removed, added or moved: most snapshots resemble the one before."""
    if isinstance(tree, list) and data.draw(st.booleans()):
        items = [edited(data, item) if data.draw(st.integers(0, 3)) == 0 else item for item in tree]
        how = data.draw(st.sampled_from(["stay", "append", "first", "last", "clear"]))
        return {"append": [*items, 1], "first": items[1:], "last": items[:-1], "clear": []}.get(how, items)
    if isinstance(tree, dict) and data.draw(st.booleans()):
        found = Fields(data.draw(st.sampled_from(["Order", "Item"])), tree) if data.draw(st.booleans()) else {**tree}
        for key in list(found):
            if data.draw(st.booleans()):
                found[key] = edited(data, found[key])
            elif data.draw(st.booleans()):
                del found[key]
        return found
    return data.draw(trees)


@STEADY
@given(trees, trees)
def test_changes_lead_from_one_tree_to_any_other(before: Any, after: Any) -> None:
    """Applied to the earlier tree they give the later one, by value, kind and class, and change neither."""
    kept = copy.deepcopy(before), copy.deepcopy(after)
    assert same(apply(before, changes(before, after)), after)
    assert same(before, kept[0])
    assert same(after, kept[1])


@STEADY
@given(st.data(), trees)
def test_changes_lead_from_one_tree_to_an_edited_one(data: st.DataObject, before: Any) -> None:
    """Lists that lost or won an item, fields that came and went."""
    after = edited(data, before)
    found = changes(before, after)
    assert same(apply(before, found), after)
    assert bool(found) == (not same(before, after))


@STEADY
@given(trees)
def test_nothing_changes_in_a_tree_that_stays(tree: Any) -> None:
    """A copy is no change, NaN included, and applying nothing gives the same object."""
    assert changes(tree, copy.deepcopy(tree)) == {}
    assert apply(tree, {}) is tree


@STEADY
@given(st.lists(names | st.integers(0, 300), max_size=6))
def test_a_path_can_be_taken_apart_again(parts: list[str | int]) -> None:
    """Dots, brackets and quotes in a name do not confuse it with its neighbours."""
    assert list(keys(path(parts))) == parts


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["_progress", "state"], "_progress.state"),
        (["items", 2, "price"], "items[2].price"),
        (["orders", "a b", "total"], 'orders["a b"].total'),
        (["größe", "1"], 'größe["1"]'),
        ([], ""),
    ],
)
def test_a_path_reads_as_python_would_write_it(parts: list[str | int], text: str) -> None:
    """Names with dots, positions in brackets, every other key as a text in brackets."""
    assert path(parts) == text


@pytest.mark.parametrize("text", [".a", "a..b", "a[", "a[b]", "a b", 'a["x]', "[-1]", "a."])
def test_a_text_that_is_no_path_is_refused(text: str) -> None:
    """In a sentence that shows what a path looks like."""
    with pytest.raises(BadInput, match=r"items\[2\]\.price"):
        keys(text)


@pytest.mark.parametrize(
    ("a", "b"),
    [(True, 1), (1, 1.0), (0, False), (None, 0), ("1", 1), ([], {}), (Fields("A"), Fields("B")), ({}, Fields("A"))],
    ids=str,
)
def test_values_of_other_kinds_are_not_the_same(a: Tree, b: Tree) -> None:
    """Python calls some of them equal; a reader does not."""
    assert not same(a, b)
    assert changes({"x": a}, {"x": b}) == {"x": b}


def test_nan_equals_itself() -> None:
    """A value that stays NaN would otherwise change at every step."""
    assert same([math.nan], [float("nan")])


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}, {"a.b": 3}),
        ({"a": 1}, {}, {"a": GONE}),
        ({}, {"a": {"b": []}}, {"a": {"b": []}}),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, {"a[2]": 3}),
        ({"a": [1, 2, 3]}, {"a": [1, 2]}, {"a[2]": GONE}),
        ({"a": [1, 2, 3]}, {"a": [2, 3]}, {"a": [2, 3]}),
        ({"a": [{"p": 1}]}, {"a": [{"p": 2}]}, {"a[0].p": 2}),
        ({"a": [1]}, {"a": []}, {"a": []}),
        ({"a": list(range(20))}, {"a": list(range(1, 21))}, {"a": list(range(1, 21))}),
        ({"a": Fields("Open", {"x": 1})}, {"a": Fields("Shut", {"x": 1})}, {"a": Fields("Shut", {"x": 1})}),
        ({"a.b": 1}, {"a.b": 2}, {'["a.b"]': 2}),
        (1, 2, {"": 2}),
    ],
    ids=str,
)
def test_a_change_is_told_where_it_happened(before: Tree, after: Tree, found: dict[str, Tree]) -> None:
    """As deep as possible; a list whose items moved is one change."""
    assert changes(before, after) == found
    assert same(apply(before, found), after)


def test_what_did_not_change_is_shared() -> None:
    """Thousands of snapshots of a large variable cost the memory of one."""
    large: Tree = [list(range(100)) for _ in range(100)]
    before: Tree = {"large": large, "state": {"name": "open", "deep": {"x": 1}}}
    after = apply(before, {"state.name": "shut"})
    assert isinstance(after, dict)
    assert isinstance(before, dict)
    assert after["large"] is large
    assert after["state"]["deep"] is before["state"]["deep"]  # type: ignore[index,call-overload]

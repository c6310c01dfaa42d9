"""Runs with the same course, and what each part of that course took in each run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trellis.insight.structure.items import TIMEOUT, Items
from trellis.insight.structure.shapes import Evidence, Row, Sides, Span, Tree, tree_of

_COURSES = 2_000
_EFFORT = 20_000_000
"""The most courses that are read, and the most pairs of items that are compared. Rare courses are left out first."""


@dataclass(frozen=True)
class Group:
    """Runs whose items began and ended in the same order. `runs`: positions. `value`, `good`: seconds, one row for each
    run, one column for each item."""

    runs: Any
    tokens: list[int]
    tree: Tree
    value: Any
    good: Any

    def explained(self, seconds: Any) -> Any:
        """What the tree takes in each run, given the items' seconds [runs x items]."""
        return _takes(self.tree, seconds)

    def path(self) -> list[int]:
        """The tokens of the items on the longest way through the tree, by mean seconds."""
        mean = self.value.mean(axis=0) if self.tokens else np.zeros(0)
        return [self.tokens[item] for item in _longest(self.tree, mean)[1]]


def _takes(tree: Tree, seconds: Any) -> Any:
    """What a tree takes in each run [s]."""
    match tree:
        case int():
            return seconds[:, tree]
        case Row(parts):
            return np.sum([_takes(part, seconds) for part in parts], axis=0) if parts else np.zeros(len(seconds))
        case Sides(branches):
            return np.max([_takes(branch, seconds) for branch in branches], axis=0)


def _longest(tree: Tree, mean: Any) -> tuple[float, list[int]]:
    """(mean seconds of the longest way through a tree, the items on it)."""
    match tree:
        case int():
            return float(mean[tree]), [tree]
        case Row(parts):
            found = [_longest(part, mean) for part in parts]
            return sum(seconds for seconds, _ in found), [item for _, items in found for item in items]
        case Sides(branches):
            return max((_longest(branch, mean) for branch in branches), key=lambda one: one[0])


def groups_of(items: Items, runs: Any) -> list[Group]:
    """Groups of the given runs (positions), the largest first. Runs of rare courses may be left out."""
    mine = np.zeros(len(items.runs), dtype=bool)
    mine[runs] = True
    table = items.table[mine[items.table["run"].to_numpy()]]
    run = table["run"].to_numpy(dtype=np.int64)
    token = table["token"].to_numpy(dtype=np.int64)
    n = len(table)
    begin, end = _positions(run, table["begin"].to_numpy(), table["end"].to_numpy())
    # Items that began together are ordered by token, then by their end, so that equal courses look equal.
    place = np.lexsort((table["end"].to_numpy(), token, begin, run))
    run, token, begin, end = run[place], token[place], begin[place], end[place]
    first = np.flatnonzero(np.concatenate([[True], run[1:] != run[:-1]])) if n else np.zeros(0, dtype=np.int64)
    size = np.diff(np.append(first, n))
    base = np.repeat(begin[first], size) if n else begin
    course = np.stack([token, begin - base, end - base], axis=1)
    alike: dict[bytes, list[int]] = defaultdict(list)
    for number, start in enumerate(first):
        alike[course[start : start + size[number]].tobytes()].append(number)
    empty = np.setdiff1d(np.asarray(runs, dtype=np.int64), run[first] if n else [])
    value, good = table["value"].to_numpy()[place], table["good"].to_numpy()[place]
    kept = _affordable(sorted(alike.values(), key=len, reverse=True), size)
    spans = [
        [Span(int(t), int(b), int(e)) for t, b, e in course[first[one[0]] : first[one[0]] + size[one[0]]]]
        for one in kept
    ]
    seen = _Seen(spans, [len(one) for one in kept])
    made = []
    for members, items_ in zip(kept, spans, strict=True):
        rows = first[members][:, None] + np.arange(len(items_))[None, :]
        tree = tree_of(items_, seen)
        made.append(Group(run[first[members]], [one.token for one in items_], tree, value[rows], good[rows]))
    if len(empty):
        nothing = np.zeros((len(empty), 0))
        made.append(Group(empty, [], Row(()), nothing, nothing))
    return sorted(made, key=lambda one: len(one.runs), reverse=True)


def _positions(run: Any, begin: Any, end: Any) -> tuple[Any, Any]:
    """The begins and ends of items as positions in their runs. Begins that no end separates have the same position, and
    so have ends that no begin separates."""
    n = len(run)
    both = np.concatenate([np.arange(n), np.arange(n)])
    is_begin = np.repeat([True, False], n)
    order = np.lexsort((is_begin, np.concatenate([begin, end]), run[both]))
    both, is_begin = both[order], is_begin[order]
    of = run[both]
    changed = np.ones(2 * n, dtype=bool)
    changed[1:] = (is_begin[1:] != is_begin[:-1]) | (of[1:] != of[:-1])
    position = np.cumsum(changed)
    begins, ends = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    begins[both[is_begin]], ends[both[~is_begin]] = position[is_begin], position[~is_begin]
    return begins, ends


def _affordable(found: Sequence[list[int]], size: Any) -> list[list[int]]:
    """The courses that are read: as many of the most common ones as `_COURSES` and `_EFFORT` allow."""
    found = found[:_COURSES]
    effort = np.cumsum([int(size[one[0]]) ** 2 for one in found])
    return [one for one, spent in zip(found, effort, strict=True) if spent <= _EFFORT]


class _Seen(Evidence):
    """What all runs show about two tokens."""

    def __init__(self, spans: Sequence[Sequence[Span]], weights: Sequence[int]) -> None:
        overlaps: dict[tuple[int, int], int] = defaultdict(int)
        self._after: dict[tuple[int, int], int] = defaultdict(int)
        for items, weight in zip(spans, weights, strict=True):
            ends: dict[int, list[int]] = defaultdict(list)
            for item in items:
                ends[item.end].append(item.token)
            pairs = set()
            running: list[Span] = []
            for item in items:
                running = [one for one in running if one.end > item.begin]
                pairs |= {(one.token, item.token) for one in running if one.begin < item.begin}
                running.append(item)
                # If only one item ended before this one began, this one followed it.
                if len(before := ends[item.begin - 1]) == 1:
                    self._after[before[0], item.token] += weight
            for pair in pairs:
                overlaps[pair] += weight
        # A share of 1 % may be events that the server held back while a workflow task ran.
        least = 0.01 * sum(weights)
        self._overlaps = {pair for pair, weight in overlaps.items() if weight > least}

    def overlapping(self, x: int, y: int) -> bool:
        return (x, y) in self._overlaps

    def followed(self, x: int, y: int) -> int:
        return self._after.get((x, y), 0)


@dataclass(frozen=True)
class Waits:
    """Times during which a run did nothing until something came from outside. `seconds`: of each run. `after`: how many
    items had begun before the run's first wait. `names`: what the runs waited for."""

    seconds: Any
    after: Any
    names: list[str]

    def words(self) -> str:
        return f"a wait for {' or '.join(self.names)}"


def waits_of(items: Items) -> Waits:
    """The waits of all runs."""
    n = len(items.runs)
    waited, after = np.zeros(n), np.full(n, np.iinfo(np.int64).max)
    if items.outside.empty:
        return Waits(waited, after, [])
    table, outside = items.table, items.outside
    m, k = len(table), len(outside)
    run = np.concatenate([table["run"], table["run"], outside["run"]]).astype(np.int64)
    order = np.concatenate([table["begin"], table["end"], outside["order"]]).astype(float)
    at = np.concatenate([table["at"], table["until"], outside["at"]]).astype(float)
    step = np.concatenate([np.ones(m), -np.ones(m), np.zeros(k)]).astype(np.int64)
    kind = np.concatenate([np.full(m, 2), np.zeros(m), np.ones(k)])
    sort = np.lexsort((kind, order, run))
    run, at, step, kind = run[sort], at[sort], step[sort], kind[sort]
    idle = (np.cumsum(step) == 0) & (kind == 1)
    before = np.concatenate([[0.0], np.where(run[1:] == run[:-1], at[:-1], 0.0)])
    np.add.at(waited, run[idle], np.maximum(at - before, 0.0)[idle])
    begun = np.cumsum(step > 0, dtype=np.int64)
    before_run = np.searchsorted(run, run, side="left")
    begun = begun - np.where(before_run > 0, begun[before_run - 1], 0)
    np.minimum.at(after, run[idle], begun[idle])
    names = {str(one) for one in outside["name"].to_numpy(dtype=object)[sort[idle] - 2 * m]}
    return Waits(waited, after, sorted(names - {TIMEOUT}) + sorted(names & {TIMEOUT}))

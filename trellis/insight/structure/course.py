"""The chain of a workflow, learned from what its runs did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trellis.insight.calls import Overhead
from trellis.insight.chain import Choice, Measured, Parallel, Part, Repeat, Series, Step
from trellis.insight.structure.groups import Group, Waits, groups_of
from trellis.insight.structure.items import ACTIVITY, CHILD, GAVE_UP, LOCAL, NEXUS, RACE, Items, Token
from trellis.insight.structure.shapes import (
    InRow,
    Leaf,
    Loop,
    Pattern,
    Shape,
    SideBySide,
    Where,
    in_row,
    leaves,
    merged,
    parts_of,
)
from trellis.insight.structure.wording import REST, sentence, share_words

_VALUES = 200
"""A measured time has at most this many values."""

_COVERED = 0.95
_SHAPES = 6
_RUNS_PER_SHAPE = 3


@dataclass(frozen=True)
class Structure:
    """What runs do. `chain`: with the measured remainder as its last part, so predict it with `overhead`.

    `understood`: one chain, or a choice of a few, explains at least 95 % of the runs that completed. Otherwise the
    chain is the runs' measured time without retries, and the retries of the activities on the way. `explained`: the
    share of the completed runs' time that activities, timers, children and waits take; the rest is workflow tasks,
    scheduling and queues. `runs`: one row for each run that ended, without the children of other runs. Columns:
    order_id, seconds [s, without a wait for a person], waited [s, that wait]. `remainder`: equally likely values [s] of
    the time that is not explained.
    """

    chain: Part
    understood: bool
    words: str
    explained: float
    runs: pd.DataFrame
    remainder: tuple[float, ...]

    @property
    def overhead(self) -> Overhead:
        return Overhead(order=0.0) if self.remainder else Overhead()


@dataclass(frozen=True)
class Course:
    """The chain of one workflow type with its evidence. `takes`: what its known parts take in each run of `runs`
    (positions) [s]. `rest`: what is left of each run's time [s]."""

    part: Part
    words: str
    understood: bool
    runs: Any
    takes: Any
    rest: Any


def learn_type(items: Items, runs: Any, children: dict[str, Part], waits: Waits, noun: str = "workflows") -> Course:
    """The chain of these runs (positions), all of one workflow type and all completed. `children`: the chains of child
    workflows whose histories are there. `waits`: of all runs."""
    waited = waits.seconds
    groups = groups_of(items, runs)
    seconds = items.runs["seconds"].to_numpy(dtype="float64")
    shapes = _shapes(groups)
    total = len(runs)
    size = [sum(len(groups[one].runs) for one in members) for _, members in shapes]
    chosen = 0
    while chosen < len(shapes) and sum(size[:chosen]) < _COVERED * total:
        chosen += 1
    failed_sometimes = _unsteady(items)
    build = _Builder(items.tokens, groups, children, failed_sometimes)
    known = np.concatenate([one.runs for one in groups])
    takes = np.concatenate([one.explained(one.value) for one in groups])
    if sum(size[:chosen]) < _COVERED * total or (chosen > 1 and (chosen > _SHAPES or total < _RUNS_PER_SHAPE * chosen)):
        return _not_understood(items, groups, build, seconds, waited, len(shapes), noun)
    options = []
    texts = []
    for shape, members in shapes[:chosen]:
        mine = np.concatenate([groups[one].runs for one in members])
        took = np.concatenate([groups[one].explained(groups[one].value) for one in members])
        rest = np.maximum(seconds[mine] - waited[mine] - took, 0.0)
        parts, rest = build.with_rest_in_loops(shape, members, rest)
        if (waited[mine] > 0).any():
            wait = Measured(waits.words(), values(waited[mine]))
            parts.insert(build.place_of_wait(shape, members, waits.after), wait)
        options.append(_series([*parts, Measured(REST, values(rest))]))
        texts.append(sentence(_series(parts)))
    shares = np.array(size[:chosen]) / sum(size[:chosen])
    part = options[0] if chosen == 1 else Choice(tuple(options), tuple(float(one) for one in shares))
    words = f"{noun} run {texts[0]}" if chosen == 1 else f"of the {noun}, " + "; ".join(
        f"{share_words(share)} run {text}" for share, text in zip(shares, texts, strict=True)
    )  # fmt: skip
    took = takes + waited[known]
    return Course(part, words, True, known, took, np.maximum(seconds[known] - took, 0.0))


def _not_understood(
    items: Items, groups: Sequence[Group], build: _Builder, seconds: Any, waited: Any, shapes: int, noun: str
) -> Course:
    """The measured time without retries, and the retries of each activity on the way."""
    known = np.concatenate([one.runs for one in groups])
    takes = np.concatenate([one.explained(one.value) for one in groups])
    without = np.concatenate([one.explained(one.good) for one in groups])
    base = np.maximum(seconds[known] - (takes - without), 0.0)
    counts: dict[str, list[int]] = {}
    for number, group in enumerate(groups):
        on_the_way = [items.tokens[one] for one in group.path()]
        for token in {one for one in on_the_way if build.is_step(one)}:
            counts.setdefault(token.name, [0] * len(groups))[number] = on_the_way.count(token)
    weights = np.array([len(one.runs) for one in groups])
    retries = [
        Repeat(Step(name, only_retries=True), numbers(np.repeat(np.array(count), weights)))
        for name, count in counts.items()
    ]
    part = _series([Measured(f"the {noun}' time without retries", values(base)), *retries])
    words = (
        f"{len(known):,} {noun} took {shapes:,} different courses, which a few chains cannot explain. So their time "
        f"without retries is taken as it was measured, and the retries of a policy are added to it"
    )
    return Course(
        part, words, False, known, takes + waited[known], np.maximum(seconds[known] - takes - waited[known], 0)
    )


def _shapes(groups: Sequence[Group]) -> list[tuple[Shape, list[int]]]:
    """(shape, the groups that have it), the most common first."""
    rows = _alike_widths([parts_of(group.tree, group.tokens, number) for number, group in enumerate(groups)])
    weight = [len(group.runs) for group in groups]
    letters: dict[str, str] = {}

    def compressed(number: int) -> Shape:
        # Finding loops merges shapes, so each use makes its own.
        return in_row(_alike_widths([parts_of(groups[number].tree, groups[number].tokens, number)])[0], number)

    patterns: dict[str, Pattern] = {}
    support: dict[str, int] = {}
    for number in range(len(groups)):
        shape = compressed(number)
        support[shape.key] = support.get(shape.key, 0) + weight[number]
        if shape.key not in patterns and len(patterns) < 200:
            patterns[shape.key] = Pattern(shape, letters)
    likely = sorted(patterns, key=lambda key: support[key], reverse=True)[:20]
    left = set(range(len(groups)))
    found: list[tuple[Shape, list[int]]] = []
    texts = {key: [patterns[key].text_of(row) for row in rows] for key in likely[:1]}
    text = next(iter(texts.values())) if texts else []
    fits = {key: [number for number in left if patterns[key].fits(text[number])] for key in likely}
    while left:
        ranked = [(sum(weight[one] for one in fits[key] if one in left), -len(key), key) for key in likely]
        best = max(ranked, default=(0, 0, ""))
        if best[0] == 0:
            break
        members = sorted((one for one in fits[best[2]] if one in left), key=lambda one: -weight[one])
        found.append((merged([patterns[best[2]].shape(rows[one], one) for one in members]), members))
        left -= set(members)
    by_key: dict[str, list[int]] = {}
    for number in sorted(left, key=lambda one: -weight[one]):
        by_key.setdefault(compressed(number).key, []).append(number)
    found += [(merged([compressed(one) for one in members]), members) for members in by_key.values()]
    return sorted(found, key=lambda one: -sum(weight[member] for member in one[1]))


def _alike_widths(rows: list[list[Shape]]) -> list[list[Shape]]:
    """A step that runs in several branches side by side in some runs, and once in others, is one branch in these."""
    wide = {part.key for row in rows for part in row if isinstance(part, SideBySide) and len(part.branches) == 1}
    for row in rows:
        if any(part.key in wide for part in row):
            continue
        for at, part in enumerate(row):
            if f"[{part.key}]" in wide:
                number = next(leaves(part)).items[0][0]
                row[at] = SideBySide([part], [[(number, 1)]])
    return rows


def _unsteady(items: Items) -> set[Token]:
    """Local activities that needed more than one try in some run. Without the times of single tries, no timeout of
    theirs can be judged, and they stay measured."""
    rows = items.table[(items.table["tries"] > 1).to_numpy() & items.table["start_to_close"].notna().to_numpy()]
    return {items.tokens[one] for one in rows["token"].unique()}


class _Builder:
    """Makes parts of shapes."""

    def __init__(
        self, tokens: Sequence[Token], groups: Sequence[Group], children: dict[str, Part], unsteady: set[Token]
    ) -> None:
        self._tokens, self._groups, self._children, self._unsteady = tokens, groups, children, unsteady

    def is_step(self, token: Token) -> bool:
        return token.kind == ACTIVITY or (token.kind == LOCAL and token in self._unsteady)

    def part(self, shape: Shape, between: Callable[[Loop], Measured | None] = lambda _: None) -> Part:
        match shape:
            case Leaf(token, where):
                return self._leaf(self._tokens[token], where)
            case InRow(parts):
                return _series([self.part(one, between) for one in parts])
            case SideBySide(branches, widths):
                return self._sides([self.part(one, between) for one in branches], widths)
            case Loop(body, rounds):
                inside = self.part(body, between)
                more = between(shape)
                times = numbers(self._by_run(rounds))
                if set(times) == {1}:
                    return inside
                return Repeat(_series([inside, more]) if more else inside, times)

    def _leaf(self, token: Token, where: Where) -> Part:
        if self.is_step(token):
            return Step(token.name)
        if token.kind == CHILD and token.name in self._children:
            return self._children[token.name]
        found = [self._groups[group].value[:, item] for group, item in where]
        seconds = values(np.concatenate(found)) if found else (0.0,)
        what = {
            CHILD: f"child {token.name}", NEXUS: f"Nexus operation {token.name}", LOCAL: token.name,
            GAVE_UP: f"{token.name}, which fails in the end", RACE: f"the first of {' and '.join(token.names)}",
        }.get(token.kind, "a timer")  # fmt: skip
        return Measured(what, seconds)

    def _sides(self, parts: Sequence[Part], widths: Sequence[Where]) -> Part:
        """Branches side by side. Where their number differs between runs, a choice by the measured numbers."""
        # One row for each combination of numbers, so that widths that belong together stay together.
        counted: dict[tuple[int, ...], int] = {}
        for places in zip(*widths, strict=True):
            key = tuple(number for _, number in places)
            counted[key] = counted.get(key, 0) + len(self._groups[places[0][0]].runs)
        if not counted:
            return Parallel(tuple(parts))
        if len(counted) > 2 * _SHAPES:
            counted = _fewer(counted, 2 * _SHAPES)
        options = [
            _parallel([part for part, number in zip(parts, key, strict=True) for _ in range(number)]) for key in counted
        ]
        if len(options) == 1:
            return options[0]
        whole = sum(counted.values())
        return Choice(tuple(options), tuple(one / whole for one in counted.values()))

    def _by_run(self, where: Where) -> Any:
        return np.concatenate([np.repeat(number, len(self._groups[group].runs)) for group, number in where])

    def with_rest_in_loops(self, shape: Shape, members: Sequence[int], rest: Any) -> tuple[list[Part], Any]:
        """(the parts in a row, the rest of each run). A loop whose rounds differ takes its share of the rest into its
        body: more rounds need more workflow tasks."""
        tops = shape.parts if isinstance(shape, InRow) else [shape]
        changing = [one for one in tops if isinstance(one, Loop) and len({n for _, n in one.rounds}) > 1]
        size = {one: len(self._groups[one].runs) for one in members}
        spent = np.zeros(len(rest))
        bodies: dict[int, Measured] = {}
        total = np.concatenate([np.full(size[one], max(1, len(self._groups[one].tokens))) for one in members])
        for loop in changing:
            inside: dict[int, int] = {}
            for leaf in leaves(loop):
                for group, _ in leaf.items:
                    inside[group] = inside.get(group, 0) + 1
            rounds = dict(loop.rounds)
            number = np.concatenate([np.full(size[one], inside.get(one, 0)) for one in members])
            times = np.concatenate([np.full(size[one], rounds.get(one, 0)) for one in members])
            mine = rest * number / total
            each = np.divide(mine, times, out=np.zeros(len(mine)), where=times > 0)
            spent += mine
            # Each round of each run counts once.
            bodies[id(loop)] = Measured(REST, values(np.repeat(each, times.astype(int))))
        parts = [self.part(one, lambda loop: bodies.get(id(loop))) for one in tops]
        return parts, np.maximum(rest - spent, 0.0)

    def place_of_wait(self, shape: Shape, members: Sequence[int], after: Any) -> int:
        """The index of the part in a row before which runs waited for something from outside."""
        tops = shape.parts if isinstance(shape, InRow) else [shape]
        for group in members:
            begun = after[self._groups[group].runs]
            waiting = begun < np.iinfo(np.int64).max
            if waiting.any():
                sizes = [sum(number == group for leaf in leaves(top) for number, _ in leaf.items) for top in tops]
                return int(np.searchsorted(np.cumsum(sizes), np.median(begun[waiting]), side="right"))
        return len(tops)


def _fewer(counted: dict[tuple[int, ...], int], most: int) -> dict[tuple[int, ...], int]:
    """The combinations in order, joined so that at most `most` are left."""
    keys = sorted(counted)
    weight = np.cumsum([counted[key] for key in keys]) - np.array([counted[key] for key in keys]) / 2
    bins = np.minimum((weight / sum(counted.values()) * most).astype(int), most - 1)
    made: dict[tuple[int, ...], int] = {}
    for one in np.unique(bins):
        mine = [key for key, bin_ in zip(keys, bins, strict=True) if bin_ == one]
        made[mine[len(mine) // 2]] = sum(counted[key] for key in mine)
    return made


def _series(parts: Sequence[Part]) -> Part:
    flat = [one for part in parts for one in (part.parts if isinstance(part, Series) else (part,))]
    return flat[0] if len(flat) == 1 else Series(tuple(flat))


def _parallel(parts: Sequence[Part]) -> Part:
    return parts[0] if len(parts) == 1 else Parallel(tuple(parts))


def values(found: Any, most: int = _VALUES) -> tuple[float, ...]:
    """At most `most` equally likely values with the same mean."""
    found = np.asarray(found, dtype="float64")
    found = np.sort(found[np.isfinite(found)])
    if len(found) == 0:
        return (0.0,)
    if len(found) > most:
        # Means of equally large shares of the values. A value at a border counts in part on both sides.
        whole = np.concatenate([[0.0], np.cumsum(found)])
        borders = np.linspace(0, len(found), most + 1)
        found = np.diff(np.interp(borders, np.arange(len(found) + 1), whole)) * most / len(found)
    # Times have a resolution of a microsecond.
    found = np.round(found, 6)
    return (float(found[0]),) if found[0] == found[-1] else tuple(float(one) for one in found)


def numbers(found: Any) -> tuple[int, ...]:
    """At most `_VALUES` equally likely whole numbers."""
    found = np.sort(np.asarray(found))
    if len(found) > _VALUES:
        found = found[((np.arange(_VALUES) + 0.5) / _VALUES * len(found)).astype(int)]
    few = np.unique(found)
    return tuple(int(one) for one in (few if len(few) == 1 else found))

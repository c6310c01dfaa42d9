"""The shape of a run: which items followed each other, and which ran side by side.

A run's items give a tree. `Sides` are branches that ran side by side, `Row` is a list of parts in a row, and a number
is an item. Trees of many runs are merged into one `Shape`, in which equal parts in a row are rounds of a loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Where = list[tuple[int, int]]
"""(group of runs, number) pairs. The number is an item's position in its run, or how often something occurred."""


@dataclass(frozen=True)
class Row:
    """Parts in a row."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Sides:
    """Branches side by side."""

    branches: tuple[Tree, ...]


Tree = int | Row | Sides


@dataclass(frozen=True)
class Span:
    """An item of one run. `begin`, `end`: positions in the order of all begins and ends; equal where they coincide."""

    token: int
    begin: int
    end: int


class Evidence(Protocol):
    """What other runs show about items with tokens x and y."""

    def overlapping(self, x: int, y: int) -> bool:
        """Whether in some run a y began while an x that had begun earlier was still running. Then y does not wait for
        x, even where x happens to end first."""
        ...

    def followed(self, x: int, y: int) -> int:
        """How often a y began when nothing but an x had ended."""
        ...


def tree_of(spans: Sequence[Span], seen: Evidence) -> Tree:
    """The tree of one run. `spans`: by begin."""
    return _tree(spans, list(range(len(spans))), seen)


def _tree(spans: Sequence[Span], items: list[int], seen: Evidence) -> Tree:
    segments = _segments(spans, items, seen)
    if len(segments) > 1:
        return _row([_tree(spans, segment, seen) for segment in segments])
    if len(items) == 1:
        return items[0]
    first = spans[items[0]].begin
    last = max(spans[item].begin for item in items)
    whole = [item for item in items if spans[item].begin == first and spans[item].end > last]
    rest = [item for item in items if item not in set(whole)]
    if not whole:
        return _sides(_branches(spans, items, seen))
    return _sides([*whole, *([_tree(spans, rest, seen)] if rest else [])])


def _segments(spans: Sequence[Span], items: list[int], seen: Evidence) -> list[list[int]]:
    """The items, cut where all that began had ended before the next began."""
    cut: list[list[int]] = []
    latest = -1
    for item in items:
        if not cut or (spans[item].begin > latest):
            cut.append([])
        cut[-1].append(item)
        latest = max(latest, spans[item].end)
    joined: list[list[int]] = []
    for segment in cut:
        begin = spans[segment[0]].begin
        starts = {spans[item].token for item in segment if spans[item].begin == begin}
        if joined and len(joined[-1]) > 1:
            before = {spans[item].token for item in joined[-1]}
            if any(seen.overlapping(x, y) for x in before for y in starts):
                joined[-1] += segment
                continue
        joined.append(segment)
    return joined


def _branches(spans: Sequence[Span], items: list[int], seen: Evidence) -> list[Tree]:
    """Each item follows the item whose end came last before it; of several such, one that such items follow in other
    runs, and that nothing follows yet."""
    after: dict[int, list[int]] = {item: [] for item in items}
    roots = []
    for item in items:
        ended = [one for one in items if spans[one].end < spans[item].begin]
        if not ended:
            roots.append(item)
            continue
        latest = max(spans[one].end for one in ended)
        causes = [one for one in ended if spans[one].end == latest]
        usual = max(seen.followed(spans[one].token, spans[item].token) for one in causes)
        likely = [one for one in causes if seen.followed(spans[one].token, spans[item].token) >= usual / 2]
        after[next((one for one in likely if not after[one]), likely[0])].append(item)

    def branch(item: int) -> Tree:
        row: list[Tree] = [item]
        while len(after[item]) == 1:
            item = after[item][0]
            row.append(item)
        return _row([*row, _sides([branch(one) for one in after[item]])] if after[item] else row)

    return [branch(root) for root in roots]


def _row(parts: Sequence[Tree]) -> Tree:
    flat = [one for part in parts for one in (part.parts if isinstance(part, Row) else (part,))]
    return flat[0] if len(flat) == 1 else Row(tuple(flat))


def _sides(branches: Sequence[Tree]) -> Tree:
    flat = [one for part in branches for one in (part.branches if isinstance(part, Sides) else (part,))]
    return flat[0] if len(flat) == 1 else Sides(tuple(flat))


@dataclass
class Leaf:
    """Items with one token, at one place of the shape. `items`: (group, item)."""

    token: int
    items: Where

    @property
    def key(self) -> str:
        return str(self.token)

    def merge(self, other: Leaf) -> None:
        self.items += other.items


@dataclass
class InRow:
    """Parts in a row."""

    parts: list[Shape]

    @property
    def key(self) -> str:
        return f"({' '.join(part.key for part in self.parts)})"

    def merge(self, other: InRow) -> None:
        for mine, yours in zip(self.parts, other.parts, strict=True):
            mine.merge(yours)  # type: ignore[arg-type]


@dataclass
class SideBySide:
    """Branches with different keys, each with its numbers: (group, how many of them ran side by side)."""

    branches: list[Shape]
    widths: list[Where]

    @property
    def key(self) -> str:
        return f"[{'|'.join(part.key for part in self.branches)}]"

    def merge(self, other: SideBySide) -> None:
        for mine, yours, width, more in zip(self.branches, other.branches, self.widths, other.widths, strict=True):
            mine.merge(yours)  # type: ignore[arg-type]
            width += more


@dataclass
class Loop:
    """A body, and its numbers of rounds: (group, rounds)."""

    body: Shape
    rounds: Where = field(default_factory=list)

    @property
    def key(self) -> str:
        return f"{self.body.key}+"

    def merge(self, other: Loop) -> None:
        self.body.merge(other.body)  # type: ignore[arg-type]
        self.rounds += other.rounds


Shape = Leaf | InRow | SideBySide | Loop


def merged(shapes: Sequence[Shape]) -> Shape:
    """One shape of several with the same key. The first takes in the others."""
    first = shapes[0]
    for other in shapes[1:]:
        first.merge(other)  # type: ignore[arg-type]
    return first


def parts_of(tree: Tree, tokens: Sequence[int], group: int) -> list[Shape]:
    """The shapes of the parts in a row that a run's tree consists of, loops not yet found."""
    return [shape_of(part, tokens, group) for part in (tree.parts if isinstance(tree, Row) else (tree,))]


def shape_of(tree: Tree, tokens: Sequence[int], group: int) -> Shape:
    match tree:
        case int():
            return Leaf(tokens[tree], [(group, tree)])
        case Row():
            return in_row(parts_of(tree, tokens, group), group)
        case Sides(branches):
            by: dict[str, list[Shape]] = {}
            for branch in branches:
                one = shape_of(branch, tokens, group)
                by.setdefault(one.key, []).append(one)
            widths: list[Where] = [[(group, len(by[key]))] for key in sorted(by)]
            return SideBySide([merged(by[key]) for key in sorted(by)], widths)


def in_row(parts: Sequence[Shape], group: int) -> Shape:
    """Parts in a row, with loops where the same parts follow each other again."""
    found = list(parts)
    period = 1
    while period <= len(found) // 2:
        found = _loops(found, period, group)
        period += 1
    return found[0] if len(found) == 1 else InRow(found)


def _loops(parts: list[Shape], period: int, group: int) -> list[Shape]:
    keys = [part.key for part in parts]
    found: list[Shape] = []
    at = 0
    while at < len(parts):
        rounds = 1
        while keys[at : at + period] == keys[at + rounds * period : at + (rounds + 1) * period]:
            rounds += 1
        if rounds == 1 or at + 2 * period > len(parts):
            found.append(parts[at])
            at += 1
            continue
        bodies: list[Shape] = []
        for one in range(rounds):
            body = parts[at + one * period : at + (one + 1) * period]
            bodies.append(body[0] if period == 1 else InRow(body))
        found.append(Loop(merged(bodies), [(group, rounds)]))
        at += rounds * period
    return found


class Pattern:
    """What the rows of parts of several runs have in common: a row of parts and loops. A loop may have no round."""

    def __init__(self, shape: Shape, letters: dict[str, str]) -> None:
        self._elements = shape.parts if isinstance(shape, InRow) else [shape]
        self._letters = letters
        self._groups = re.compile("".join(f"({self._text(one)})" for one in self._elements))

    def _text(self, shape: Shape, least: str = "*") -> str:
        if isinstance(shape, Loop):
            body = shape.body.parts if isinstance(shape.body, InRow) else [shape.body]
            return f"(?:{''.join(self._text(one, '+') for one in body)}){least}"
        return re.escape(self._letter(shape))

    def _letter(self, shape: Shape) -> str:
        return self._letters.setdefault(shape.key, chr(0x4E00 + len(self._letters)))

    def text_of(self, parts: Sequence[Shape]) -> str:
        return "".join(self._letter(part) for part in parts)

    def fits(self, text: str) -> bool:
        return self._groups.fullmatch(text) is not None

    def shape(self, parts: Sequence[Shape], group: int) -> Shape:
        """The parts of a run that fits, as this pattern's shape."""
        found = self._groups.fullmatch(self.text_of(parts))
        if found is None:
            raise ValueError("The parts do not fit this pattern.")
        made = [
            self._element(element, list(parts[slice(*found.span(number + 1))]), group)
            for number, element in enumerate(self._elements)
        ]
        return made[0] if len(made) == 1 else InRow(made)

    def _element(self, element: Shape, parts: list[Shape], group: int) -> Shape:
        if not isinstance(element, Loop):
            return parts[0]
        body = element.body.parts if isinstance(element.body, InRow) else [element.body]
        text = self.text_of(parts)
        groups = re.compile("".join(f"({self._text(one, '+')})" for one in body))
        rounds = []
        for found in groups.finditer(text):
            inner = [
                self._element(one, parts[slice(*found.span(number + 1))], group) for number, one in enumerate(body)
            ]
            rounds.append(inner[0] if len(inner) == 1 else InRow(inner))
        if not rounds:
            return Loop(_emptied(element.body), [(group, 0)])
        return Loop(merged(rounds), [(group, len(rounds))])


def _emptied(shape: Shape) -> Shape:
    """The same shape with no items."""
    match shape:
        case Leaf(token):
            return Leaf(token, [])
        case InRow(parts):
            return InRow([_emptied(part) for part in parts])
        case SideBySide(branches):
            return SideBySide([_emptied(branch) for branch in branches], [[] for _ in branches])
        case Loop(body):
            return Loop(_emptied(body), [])


def leaves(shape: Shape) -> Iterator[Leaf]:
    match shape:
        case Leaf():
            yield shape
        case InRow(parts) | SideBySide(parts):
            for part in parts:
                yield from leaves(part)
        case Loop(body):
            yield from leaves(body)

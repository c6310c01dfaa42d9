"""Edits of workflow code, drawn at random from a seed."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLES = ("checkout", "subscription", "parcel")
KINDS = ("delete", "swap", "insert", "reorder", "other timer", "other condition", "other input")
_LEFT_ALONE = ("__init__", "_wait", "_do", "go", "waited")


@dataclass(frozen=True)
class Mutant:
    """One edit of one sample. `old`, `new`: the sources."""

    number: int
    sample: str
    kind: str
    old: str
    new: str

    @property
    def name(self) -> str:
        """The name of its module, which no other mutant has."""
        return f"{self.sample}_m{self.number:03d}"


def source(sample: str) -> str:
    return (Path(__file__).parent / "mutated" / f"{sample}.py").read_text("utf-8")


def mutants(number: int, seed: int) -> list[Mutant]:
    """So many edits, of each kind about as many. No two are alike, as long as there are enough different ones."""
    draw = random.Random(seed)
    found: list[Mutant] = []
    seen = {source(sample) for sample in SAMPLES}
    tries = 0
    while len(found) < number:
        kind = KINDS[len(found) % len(KINDS)]
        sample = draw.choice(SAMPLES)
        old = source(sample)
        new = _edited(old, kind, draw)
        tries += 1
        if new is None or (new in seen and tries < 1000 * number):
            continue
        compile(new, sample, "exec")
        seen.add(new)
        found.append(Mutant(len(found), sample, kind, old, new))
    return found


def _edited(text: str, kind: str, draw: random.Random) -> str | None:
    """The text with one edit of this kind; None where the drawn place does not allow it."""
    tree = ast.parse(text)
    blocks = list(_blocks(tree))
    if kind == "other timer":
        return _other_number(text, [call for call in _calls(tree) if _called(call) == "sleep"], draw)
    if kind == "other condition":
        return _other_condition(text, tree, draw)
    if kind == "other input":
        calls = [call for call in _calls(tree) if _called(call) == "_do" and len(call.args) > 1]
        return _other_input(text, calls, draw)
    block = draw.choice(blocks)
    steps = [at for at, one in enumerate(block) if _is_step(one)]
    if not steps:
        return None
    at = draw.choice(steps)
    if kind == "delete":
        return _written(text, block, [one for number, one in enumerate(block) if number != at])
    if kind == "insert":
        new = draw.choice(("await self._do('extra', 1)", "await workflow.sleep(2)", "await self._do('audit', 'now')"))
        return _inserted(text, block[at], new, after=draw.random() < 0.5)
    order = list(range(len(block)))
    to = at + 1 if kind == "swap" else draw.choice([0, *steps])
    if not 0 <= to < len(block) or to == at or not _is_step(block[to]) or (kind == "reorder" and abs(to - at) < 2):
        return None
    if kind == "swap":
        order[at], order[to] = to, at
    else:
        order.insert(to, order.pop(at))
    return _written(text, block, [block[number] for number in order])


def _blocks(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef) and node.name not in _LEFT_ALONE:
            for inner in ast.walk(node):
                for name in ("body", "orelse", "finalbody"):
                    block = getattr(inner, name, None)
                    if isinstance(block, list) and block:
                        yield block


def _is_step(one: ast.stmt) -> bool:
    return isinstance(one, ast.Expr) and isinstance(one.value, ast.Await)


def _calls(tree: ast.Module) -> list[ast.Call]:
    return [
        inner
        for block in _blocks(tree)
        for one in block
        if _is_step(one)
        for inner in ast.walk(one)
        if isinstance(inner, ast.Call)
    ]


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _lines(text: str, one: ast.stmt) -> list[str]:
    return text.splitlines()[one.lineno - 1 : one.end_lineno]


def _written(text: str, block: Sequence[ast.stmt], new: Sequence[ast.stmt]) -> str:
    """The text with other statements in place of a block's."""
    lines = text.splitlines()
    body = [line for one in new for line in _lines(text, one)] or [" " * block[0].col_offset + "pass"]
    lines[block[0].lineno - 1 : block[-1].end_lineno] = body
    return "\n".join(lines) + "\n"


def _inserted(text: str, beside: ast.stmt, new: str, *, after: bool) -> str:
    lines = text.splitlines()
    at = (beside.end_lineno or beside.lineno) if after else beside.lineno - 1
    lines.insert(at, " " * beside.col_offset + new)
    return "\n".join(lines) + "\n"


def _replaced(text: str, node: ast.expr, new: str) -> str:
    """The text with other words for an expression on one line."""
    lines = text.splitlines()
    line = lines[node.lineno - 1]
    lines[node.lineno - 1] = line[: node.col_offset] + new + line[node.end_col_offset :]
    return "\n".join(lines) + "\n"


def _other_number(text: str, calls: Sequence[ast.Call], draw: random.Random) -> str | None:
    call = draw.choice(calls)
    return _replaced(text, call.args[0], str(draw.choice((2, 3, 5, 30))))


def _other_condition(text: str, tree: ast.Module, draw: random.Random) -> str | None:
    tests = [
        node.test
        for block in _blocks(tree)
        for node in block
        if isinstance(node, ast.If | ast.While) and isinstance(node.test, ast.Compare)
    ]
    test = draw.choice(tests)
    right = test.comparators[0]
    if isinstance(right, ast.Constant) and draw.random() < 0.5:
        return _replaced(text, right, str(draw.choice((0, 1, 15, 40, 70))))
    swapped = {ast.Gt: "<=", ast.GtE: "<", ast.Lt: ">=", ast.Eq: "!="}
    sign = swapped[type(test.ops[0])]
    if isinstance(test.ops[0], ast.Lt) and isinstance(right, ast.Name):
        # A loop whose condition is turned round never ends or never begins.
        return _replaced(text, test, f"{ast.unparse(test.left)} < {right.id} + {draw.choice((1, 2))}")
    return _replaced(text, test, f"{ast.unparse(test.left)} {sign} {ast.unparse(right)}")


def _other_input(text: str, calls: Sequence[ast.Call], draw: random.Random) -> str | None:
    argument = draw.choice(draw.choice(calls).args[1:])
    if isinstance(argument, ast.Constant):
        return _replaced(text, argument, repr(f"{ast.literal_eval(argument)} again"))
    return _replaced(text, argument, f"{ast.unparse(argument)} + {draw.choice((1, 2, 100))}")

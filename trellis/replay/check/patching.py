"""Put a change of workflow code under `workflow.patched`, so that old histories still replay.

The old and the new source are compared statement by statement. What differs within a function becomes

    if workflow.patched("..."):      what is new          (inserted)
    if not workflow.patched("..."):  what was there       (deleted)
    if ... else ...                  both                 (replaced)

in the smallest block that differs; of an `if` or `while` whose condition alone differs, only the condition. All places
have the same id: a workflow is then either of the old code or of the new one, in all of them.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Statements: TypeAlias = Sequence[ast.stmt]


class CannotPatch(Exception):
    """The change cannot be put under `workflow.patched`. The message says why, as the end of a sentence."""


class _NotHere(CannotPatch):
    """Not within this block; perhaps around it."""


class Text:
    """A source with its tree, and the lines that lie inside a text of several lines (these are never indented)."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.inside = set(_inside_texts(text))

    def first(self, statement: ast.stmt) -> int:
        """The first line of the statement, with its decorators."""
        decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
        line = min([statement.lineno, *(each.lineno for each in decorators)])
        if self.lines[line - 1][: statement.col_offset].strip() or self._is_elif(statement):
            raise _NotHere("a changed statement shares its line with another one")
        return line

    def last(self, statement: ast.stmt) -> int:
        line = statement.end_lineno or statement.lineno
        rest = self.lines[line - 1].encode()[statement.end_col_offset or 0 :].decode().strip()
        if rest and not rest.startswith("#"):
            raise _NotHere("a changed statement shares its line with another one")
        return line

    def _is_elif(self, statement: ast.stmt) -> bool:
        return self.lines[statement.lineno - 1].lstrip().startswith("elif")

    def block(self, statements: Statements, indent: int) -> list[str]:
        """The lines of these statements, at another indent."""
        first, last = self.first(statements[0]), self.last(statements[-1])
        return self.moved(first, last, indent - statements[0].col_offset)

    def moved(self, first: int, last: int, by: int) -> list[str]:
        found = []
        for number in range(first, last + 1):
            line = self.lines[number - 1]
            if number not in self.inside and line.strip():
                line = " " * by + line if by >= 0 else line[min(-by, len(line) - len(line.lstrip())) :]
            found.append(line)
        return found


def _inside_texts(text: str) -> Iterator[int]:
    opened: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            yield from range(token.start[0] + 1, token.end[0] + 1)
        elif kind.endswith("STRING_START"):
            opened.append(token.start[0])
        elif kind.endswith("STRING_END"):
            yield from range(opened.pop() + 1, token.end[0] + 1)


@dataclass(frozen=True)
class _Change:
    """Lines `first` to `last` of the new text become `lines`. Where `last` is before `first`, they are put before
    `first`. `old`: the statements of the old text that it needs."""

    first: int
    last: int
    lines: tuple[str, ...]
    old: tuple[ast.AST, ...] = ()


class Patch:
    """The change from an old to a new source of one file, under `workflow.patched`."""

    def __init__(self, old: str, new: str, id_: str) -> None:
        """Raises CannotPatch, SyntaxError."""
        self._old, self._new = Text(old), Text(new)
        self._id = id_
        self._kept: set[str] = set()
        self._left: list[str] = []
        self._name = workflow_name(self._new.tree) or "workflow"
        self._changes: list[_Change] = []
        if _has(self._new.tree, "activity.defn") and not _has(self._new.tree, "workflow.defn"):
            raise CannotPatch("the file defines activities and no workflow")
        self._functions()
        if not self._changes:
            raise CannotPatch(self._left[0] if self._left else "no statement inside of a function differs")
        self._keep_what_is_needed()

    @property
    def text(self) -> str:
        """The new source with the change under `workflow.patched`."""
        lines = list(self._new.lines)
        for change in sorted(self._changes, key=lambda one: (one.first, one.last), reverse=True):
            lines[change.first - 1 : max(change.last, change.first - 1)] = change.lines
        if workflow_name(self._new.tree) is None:
            lines.insert(_after_imports(self._new.tree, future=True), "from temporalio import workflow")
        return "\n".join(lines) + "\n"

    def _patched(self) -> str:
        return f'{self._name}.patched("{self._id}")'

    # --- finding what differs --------------------------------------------------------------------------------

    def _functions(self) -> None:
        old, new = dict(functions(self._old.tree)), dict(functions(self._new.tree))
        for name, function in new.items():
            before = old.get(name)
            if before is None or ast.dump(before) == ast.dump(function) or not _replayed(function):
                continue
            if not _same_head(before, function):
                self._left.append(f"the signature of {name.split()[-1]} changed, which no patch can keep apart")
                continue
            self._body(before.body, function.body)

    def _body(self, old: Statements, new: Statements) -> None:
        """Two blocks of statements at the same place."""
        a, b = ([_dump(one, first=not at) for at, one in enumerate(block)] for block in (old, new))
        for tag, i, i2, j, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            if tag == "equal":
                continue
            if tag == "replace" and i2 - i == j2 - j:
                for one, other in zip(old[i:i2], new[j:j2], strict=True):
                    self._pair(one, other)
            elif tag == "delete":
                self._delete(old[i:i2], new, j)
            elif tag == "insert":
                self._insert(new[j:j2])
            else:
                self._replace(old[i:i2], new[j:j2])

    def _pair(self, old: ast.stmt, new: ast.stmt) -> None:
        """Two statements of which one became the other: what differs inside them, or both as a whole."""
        if _dump(old) == _dump(new):
            return
        kept = list(self._changes)
        try:
            if self._merged(old, new):
                return
        except _NotHere:
            pass
        self._changes = kept
        self._replace([old], [new])

    def _merged(self, old: ast.stmt, new: ast.stmt) -> bool:
        """Whether both are compound statements that could be merged inside."""
        if type(old) is not type(new) or not isinstance(getattr(new, "body", None), list):
            return False
        blocks = [name for name in ("body", "orelse", "finalbody") if hasattr(new, name)]
        pairs = [(getattr(old, name), getattr(new, name)) for name in blocks]
        if isinstance(old, ast.Try) and isinstance(new, ast.Try):
            if len(old.handlers) != len(new.handlers):
                return False
            for one, other in zip(old.handlers, new.handlers, strict=True):
                if one.name != other.name or _dump(one.type) != _dump(other.type):
                    return False
                pairs.append((one.body, other.body))
        skip = {*blocks, "handlers"}
        if isinstance(new, ast.If | ast.While):
            skip.add("test")
        heads = [[_dump(value) for name, value in ast.iter_fields(each) if name not in skip] for each in (old, new)]
        if heads[0] != heads[1]:
            return False
        if new.body[0].lineno == new.lineno or any(bool(one) != bool(other) for one, other in pairs):  # type: ignore[attr-defined]
            return False
        same_test = "test" not in skip or _dump(old.test) == _dump(new.test)  # type: ignore[attr-defined]
        if not same_test and all(_dumps(one) != _dumps(other) for one, other in pairs if one or other):
            # Nothing of it is the same.
            return False
        for one, other in pairs:
            self._body(one, other)
        if not same_test:
            self._condition(old, new)
        return True

    # --- what becomes of it ----------------------------------------------------------------------------------

    def _insert(self, new: Statements) -> None:
        indent, first, last = new[0].col_offset, self._new.first(new[0]), self._new.last(new[-1])
        lines = [f"{' ' * indent}if {self._patched()}:", *self._new.moved(first, last, 4)]
        self._add(first, last, lines)

    def _delete(self, old: Statements, block: Statements, at: int) -> None:
        first = self._new.first(block[at]) if at < len(block) else self._new.last(block[-1]) + 1
        indent = block[0].col_offset
        lines = [f"{' ' * indent}if not {self._patched()}:", *self._old.block(old, indent + 4)]
        self._add(first, first - 1, lines, old)

    def _replace(self, old: Statements, new: Statements) -> None:
        indent, first, last = new[0].col_offset, self._new.first(new[0]), self._new.last(new[-1])
        space = " " * indent
        lines = [
            f"{space}if {self._patched()}:",
            *self._new.moved(first, last, 4),
            f"{space}else:",
            *self._old.block(old, indent + 4),
        ]
        self._add(first, last, lines, old)

    def _condition(self, old: Any, new: Any) -> None:
        call = ast.parse(self._patched(), mode="eval").body
        both = f"({ast.unparse(ast.IfExp(call, new.test, old.test))})"
        last = new.test.end_lineno
        # An `if` that brackets its condition on several lines is written on one line again.
        begin = self._new.lines[new.lineno - 1].encode()[: new.col_offset].decode()
        head = self._new.lines[new.lineno - 1][len(begin) :]
        word = "elif" if head.startswith("elif") else "while" if isinstance(new, ast.While) else "if"
        close = min(each.lineno for each in new.body) - 1
        tail = [self._new.lines[number - 1] for number in range(last + 1, close + 1)]
        ends = next((at for at, line in enumerate(tail) if line.strip().startswith(")")), -1)
        self._add(new.lineno, last + ends + 1, [f"{begin}{word} {both}:"], [old.test])
        if any(line.strip() and not line.strip().startswith("#") for line in tail[ends + 1 :]):
            raise _NotHere("a condition on several lines changed")

    def _add(self, first: int, last: int, lines: Sequence[str], old: Sequence[ast.AST] = ()) -> None:
        self._changes.append(_Change(first, last, tuple(lines), tuple(old)))

    # --- what the old code needs -----------------------------------------------------------------------------

    def _keep_what_is_needed(self) -> None:
        """Functions, imports and constants that the old code uses and the new source no longer has."""
        used = {name for change in self._changes for node in change.old for name in _names(node)}
        while missing := [each for each in self._gone() if each[0] in used and each[0] not in self._kept]:
            for name, owner, node in missing:
                self._kept.add(name)
                used |= set(_names(node))
                if owner is None:
                    at = _after_imports(self._new.tree) + 1
                    self._add(at, at - 1, self._old.block([node], 0))
                else:
                    at = self._new.last(owner.body[-1]) + 1
                    self._add(at, at - 1, ["", *self._old.block([node], owner.body[0].col_offset)])

    def _gone(self) -> Iterator[tuple[str, ast.ClassDef | None, ast.stmt]]:
        """(name, class of the new source, statement of the old one) of what the new source does not define."""
        here = {name for node in self._new.tree.body for name in _defines(node)}
        classes = {node.name: node for node in self._new.tree.body if isinstance(node, ast.ClassDef)}
        for node in self._old.tree.body:
            for name in _defines(node):
                if name not in here:
                    yield name, None, node
            if isinstance(node, ast.ClassDef) and node.name in classes:
                there = classes[node.name]
                has = {name for each in there.body for name in _defines(each)}
                for each in node.body:
                    for name in _defines(each):
                        if name not in has:
                            yield name, there, each


def patch_id(name: str, *texts: str) -> str:
    """A name for the patch that the sources do not have yet: `name`, and a mark of this very change."""
    return f"{name}-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:6]}"


def inserted(text: str, line: int, id_: str) -> str:
    """The source with the statement on this line under `workflow.patched`. For an insertion without the old source.

    Raises CannotPatch, SyntaxError.
    """
    source = Text(text)
    statement = None
    for _, function in functions(source.tree):
        for node in ast.walk(function):
            simple = isinstance(node, ast.stmt) and not isinstance(getattr(node, "body", None), list)
            if isinstance(node, ast.stmt) and simple and node.lineno <= line <= (node.end_lineno or node.lineno):
                statement = node
    if statement is None:
        raise CannotPatch("the line that asks is no statement inside of a function")
    name = workflow_name(source.tree)
    first, last = source.first(statement), source.last(statement)
    head = f'{" " * statement.col_offset}if {name or "workflow"}.patched("{id_}"):'
    lines = [*source.lines[: first - 1], head, *source.moved(first, last, 4), *source.lines[last:]]
    if name is None:
        lines.insert(_after_imports(source.tree, future=True), "from temporalio import workflow")
    return "\n".join(lines) + "\n"


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """(qualified name, function) of the module's functions and its classes' methods."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, Function):
                    # A property and its setter have the same name, as an update and its validator may.
                    marks = "".join(ast.unparse(mark).partition("(")[0] + " " for mark in each.decorator_list)
                    yield f"{marks}{node.name}.{each.name}", each


def workflow_name(tree: ast.Module) -> str | None:
    """The name under which the source knows `temporalio.workflow`."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "temporalio":
            for alias in node.names:
                if alias.name == "workflow":
                    return alias.asname or alias.name
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "temporalio.workflow":
                    return alias.asname or alias.name
    return None


def _after_imports(tree: ast.Module, *, future: bool = False) -> int:
    """The number of lines up to the end of the imports at the top; with `future`, of those from __future__."""
    line = 0
    for at, node in enumerate(tree.body):
        text = at == 0 and isinstance(node, ast.Expr)
        imports = isinstance(node, ast.Import | ast.ImportFrom | ast.With)
        if future:
            imports = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not text and not imports:
            break
        line = node.end_lineno or node.lineno
    return line


def _replayed(function: Function) -> bool:
    """Whether a patch may stand in it. Not in activities, and not in queries and validators, which change nothing."""
    marks = [ast.unparse(mark) for mark in function.decorator_list]
    return not any("activity." in mark or ".query" in mark or ".validator" in mark for mark in marks)


def _has(tree: ast.Module, mark: str) -> bool:
    """Whether a function or class of the module has this decorator."""
    return any(
        ast.unparse(each).startswith(mark)
        for node in ast.walk(tree)
        if isinstance(node, Function | ast.ClassDef)
        for each in node.decorator_list
    )


def _same_head(old: Function, new: Function) -> bool:
    return type(old) is type(new) and all(
        [_dump(each) for each in getattr(old, name)] == [_dump(each) for each in getattr(new, name)]
        if isinstance(getattr(old, name), list)
        else _dump(getattr(old, name)) == _dump(getattr(new, name))
        for name in ("args", "decorator_list")
    )


def _dump(node: Any, *, first: bool = False) -> str:
    """A node without its place. The text at the beginning of a function is a comment, and all are alike."""
    if first and isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str):
        return "text"
    if isinstance(node, list):
        return repr([_dump(each) for each in node])
    return ast.dump(node) if isinstance(node, ast.AST) else repr(node)


def _dumps(block: Statements) -> list[str]:
    return [_dump(one) for one in block]


def _names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Name):
            yield each.id
        elif isinstance(each, ast.Attribute):
            yield each.attr


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, Function | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]

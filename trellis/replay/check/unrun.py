"""Changed lines that no replay ran."""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterator, Set
from types import CodeType


def changed_lines(old: str | None, new: str) -> set[int]:
    """The lines of the new text that the old one does not have there. Without an old text, all of them."""
    if old is None:
        return set(range(1, new.count("\n") + 2))
    before, after = old.splitlines(), new.splitlines()
    found: set[int] = set()
    for tag, _, _, first, last in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag in ("replace", "insert"):
            found |= set(range(first + 1, last + 1))
    return found


def unrun_lines(new: str, changed: Set[int], ran: Set[int]) -> list[int]:
    """The changed lines inside functions that can run, and that did not.

    A statement that takes several lines counts as run as soon as one of its lines ran: Python does not report each of
    them. Lines outside of functions run when the module is imported.
    """
    spans = _spans(new)
    found = []
    for line in sorted(_executable(new) & changed):
        first, last = spans.get(line, (line, line))
        if not ran & set(range(first, last + 1)):
            found.append(line)
    return found


_AT_IMPORT = ("__annotate__", "<generic parameters")
"""Functions that Python 3.12 and 3.14 make of annotations and type parameters: they run at import, or never."""


def _executable(text: str) -> set[int]:
    found: set[int] = set()
    for code in _codes(compile(text, "<new>", "exec", dont_inherit=True)):
        if code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith(_AT_IMPORT):
            lines = {line for _, _, line in code.co_lines() if line is not None}
            # A function's own first line is its `def`, which runs at import.
            found |= lines if code.co_name.startswith("<") else lines - {code.co_firstlineno}
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _spans(text: str) -> dict[int, tuple[int, int]]:
    """(first line, last line) of the innermost statement on each line; of a compound one, only its head."""
    found: dict[int, tuple[int, int]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = node.end_lineno or node.lineno
            if isinstance(body, list) and body:
                last = max(node.lineno, body[0].lineno - 1)
            # `walk` goes from the outer to the inner ones.
            found |= dict.fromkeys(range(node.lineno, last + 1), (node.lineno, last))
    return found

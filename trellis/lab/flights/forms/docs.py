"""What a user's docstrings say about fields and arguments."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

_ARGUMENT = re.compile(
    r"^(?:\s*):param\s+(?:[\w.\[\], |]+\s+)?\*{0,2}(\w+)\s*:\s*(.*)$|^\s*\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s+(.*)$"
)


def doc_of(thing: Any) -> str:
    """The docstring of a class or a function, and not one that it inherits from a class of Python's own."""
    return inspect.cleandoc(getattr(thing, "__doc__", None) or "")


def attribute_docs(cls: type) -> dict[str, str]:
    """The strings that stand below the attributes of a class, its bases included. Empty where there is no source."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__[:-1]):
        try:
            [body] = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            continue
        if not isinstance(body, ast.ClassDef):
            continue
        for before, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[before.target.id] = inspect.cleandoc(after.value.value)
    return found


def argument_docs(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring says about single arguments, in the style of Google ("name: text") or of Sphinx."""
    names = set(inspect.signature(function).parameters)
    found: dict[str, str] = {}
    for line in doc_of(function).splitlines():
        match = _ARGUMENT.match(line)
        name, text = (match[1] or match[3], match[2] or match[4]) if match else (None, None)
        if name in names and text:
            found.setdefault(str(name), text.strip())
    return found

"""Paths of values in a tree: `_progress.state`, `items[2].price`, `orders["a b"].total`.

A name joins with a dot, a position of a list stands in brackets, and every other key stands in brackets as a JSON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache

from trellis.errors import BadInput

_NAME = re.compile(r"[^\W\d]\w*")
_PART = re.compile(r"""\.?([^\W\d]\w*)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]""")

Key = str | int
"""A name in a dict, or a position in a list."""


def path(keys: Iterable[Key]) -> str:
    """One text for a chain of keys. `keys` takes it apart again."""
    parts = []
    for key in keys:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif _NAME.fullmatch(key):
            parts.append(f".{key}" if parts else key)
        else:
            parts.append(f"[{json.dumps(key, ensure_ascii=False)}]")
    return "".join(parts)


@lru_cache(maxsize=4096)
def keys(path: str) -> tuple[Key, ...]:
    """The keys of a path. Raises BadInput if the text is no path."""
    found: list[Key] = []
    at = 0
    while at < len(path):
        part = _PART.match(path, at)
        if part is None or (path[at] == "." and not found):
            raise BadInput(f"{path!r} is not the path of a variable, such as items[2].price.")
        name, position, text = part.groups()
        found.append(int(position) if position is not None else json.loads(text) if text is not None else name)
        at = part.end()
    return tuple(found)

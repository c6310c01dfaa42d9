"""Trees of plain values, read from any object without calling its code."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

Tree: TypeAlias = "None | bool | int | float | str | list[Tree] | dict[str, Tree]"
"""A value as it is shown: scalars, lists, dicts with text keys, and `Fields` for objects."""


class Gone(Enum):
    """The mark of a variable that is no longer there."""

    GONE = "<gone>"


GONE = Gone.GONE


class Fields(dict[str, Tree]):
    """The fields of one object, in their order. `type` is the name of its class."""

    __slots__ = ("type",)

    def __init__(self, type: str = "object", fields: Any = ()) -> None:
        super().__init__(fields)
        self.type = type


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a value is read: levels, characters of a text, items of a container, values of one snapshot."""

    depth: int = 16
    text: int = 2000
    items: int = 200
    nodes: int = 10_000


def tree(obj: object, limits: Limits = Limits()) -> Tree:
    raise NotImplementedError


def variables(obj: object, limits: Limits = Limits()) -> dict[str, Tree]:
    """The variables of an instance, by name: its `__dict__` and slots. What the engine gives the recorder."""
    raise NotImplementedError


def plain(value: Tree | Gone) -> Any:
    """Strict JSON: objects become dicts of their fields; NaN and infinities, and GONE, become text."""
    raise NotImplementedError

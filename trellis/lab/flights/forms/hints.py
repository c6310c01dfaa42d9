"""Type hints without their wrapping, and what they say about limits and defaults."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import typing
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TypeVar

import typing_extensions
from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typing_extensions import Format, get_annotations

from trellis.lab.flights.forms.fields import ABSENT

_QUALIFIERS = (
    typing.Required, typing.NotRequired, typing_extensions.Required, typing_extensions.NotRequired,
    typing_extensions.ReadOnly, typing.Final, typing.ClassVar,
)  # fmt: skip


def hints_of(thing: Any) -> dict[str, Any]:
    """The type hints of a function or a class, with Annotated. One that cannot be evaluated becomes Any."""
    with suppress(Exception):
        return typing.get_type_hints(thing, include_extras=True)
    # A name is missing that exists only for type checkers. The other hints count all the same.
    found: dict[str, Any] = {}
    for holder in reversed(thing.__mro__) if isinstance(thing, type) else [thing]:
        names = dict(vars(inspect.getmodule(holder) or builtins))
        for name, hint in get_annotations(holder, format=Format.FORWARDREF).items():
            try:
                found[name] = eval(hint, names) if isinstance(hint, str) else hint
            except Exception:
                found[name] = Any
    return found


def unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """The hint without Annotated, NewType, aliases and qualifiers such as NotRequired; and what Annotated adds."""
    metadata: list[Any] = []
    for _ in range(20):
        if isinstance(hint, dataclasses.InitVar):
            hint = hint.type
        elif isinstance(hint, FieldInfo):
            hint = hint.annotation
        elif hasattr(hint, "__metadata__"):
            metadata = [*hint.__metadata__, *metadata]
            hint = hint.__origin__
        elif typing.get_origin(hint) in _QUALIFIERS:
            [hint] = typing.get_args(hint)
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif hasattr(hint, "__value__") and type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            break
    return hint, metadata


def adapter_of(hint: Any) -> TypeAdapter[Any] | None:
    """What pydantic makes of a type; None for a type that it does not know."""
    try:
        return TypeAdapter(hint)
    except Exception:
        # Pydantic has several errors for this, and some types raise their own.
        return None


def name_of(hint: Any) -> str:
    hint, _ = unwrapped(hint)
    name = getattr(hint, "__name__", None)
    return name if isinstance(name, str) and not typing.get_args(hint) else str(hint).replace("typing.", "")[:80]


def limits_of(metadata: Iterable[Any]) -> dict[str, str]:
    """The limits that annotations set: least, above, most, below."""
    found: dict[str, Any] = {}
    for one in metadata:
        for name, attribute in (("least", "ge"), ("above", "gt"), ("most", "le"), ("below", "lt")):
            if isinstance(one, Ge | Gt | Le | Lt | Interval) and getattr(one, attribute, None) is not None:
                found[name] = getattr(one, attribute)
    return {name: str(bound) for name, bound in found.items()}


def is_required(hint: Any, otherwise: bool) -> bool:
    """Whether a key of a TypedDict must be there. Under `from __future__ import annotations` only the hint says it."""
    origin = typing.get_origin(hint)
    if origin in (typing.NotRequired, typing_extensions.NotRequired):
        return False
    return origin in (typing.Required, typing_extensions.Required) or otherwise


def default_of(factory: Any, default: Any) -> Any:
    """The value that counts when nothing is given. ABSENT where there is none, or where each call makes another one."""
    if factory is not None:
        try:
            first, second = factory(), factory()
        except Exception:
            return ABSENT
        return first if type(first) is type(second) and bool(first == second) else ABSENT
    if default is inspect.Parameter.empty or default is PydanticUndefined or default is dataclasses.MISSING:
        return ABSENT
    return default


def filled_in(hint: Any, cls: type, hints: dict[str, Any]) -> dict[str, Any]:
    """The hints of a generic class with its parameters filled in, as in Box[int]."""
    given = dict(zip(getattr(cls, "__parameters__", ()), typing.get_args(hint), strict=False))
    if not given:
        return hints

    def fill(one: Any) -> Any:
        if isinstance(one, TypeVar):
            return given.get(one, one)
        open_ones = getattr(one, "__parameters__", ())
        return (
            one[tuple(given.get(each, each) for each in open_ones)] if open_ones and not isinstance(one, type) else one
        )

    return {name: fill(one) for name, one in hints.items()}

"""The fields of a form. Each turns what a person gave into a typed value, and a value into what the page shows.

What the page sends for a field is called raw. It is a JSON value, and its shape depends on the field's kind:

    text, integer, number, date, time, datetime, duration, bytes    the text that was typed
    boolean                                                         true or false
    choice                                                          the number of the choice, as text
    json                                                            JSON as text
    nothing                                                         null
    optional                                                        null, or the raw of the field inside
    union                                                           {"case": number, "value": raw}
    list                                                            [raw, ...]
    mapping                                                         [[raw of the key, raw of the value], ...]
    group                                                           {name: raw, ...}

A mistake is told by the path of its field: names and numbers with dots between them, as in "order.items.0.quantity".
A mapping's key and value have the paths "0.key" and "0.value".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Final

from pydantic import ValidationError

MOST_ITEMS = 1000
"""A list or a mapping of the page holds at most this many entries."""


class Mark(Enum):
    """Results that are no values."""

    WRONG = "a mistake was told"
    ABSENT = "not given, so that the default of the code counts"


WRONG: Final = Mark.WRONG
ABSENT: Final = Mark.ABSENT


class Unshowable(ValueError):
    """The value cannot be shown in this field."""


class Mistakes:
    """The sentences that were said about a form so far, by the paths of their fields."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def at(self, path: str, sentence: str) -> Mark:
        """Note the first mistake of a field."""
        self.found.setdefault(path, sentence)
        return WRONG

    def from_error(self, path: str, error: Exception, names: Mapping[str, str] | None = None) -> Mark:
        """What a type's own code said about a value. `names`: pydantic's names of fields, to those of the form."""
        if not isinstance(error, ValidationError):
            return self.at(path, sentence(error))
        for one in error.errors(include_url=False, include_context=False, include_input=False):
            inner = [str(part) for part in one["loc"]]
            if inner and names:
                inner[0] = names.get(inner[0], inner[0])
            self.at(under(path, *inner), finished(one["msg"].removeprefix("Value error, ")))
        return WRONG


def under(path: str, *names: str) -> str:
    """The path of a field below another one."""
    return ".".join(filter(None, (path, *names)))


def sentence(error: Exception) -> str:
    """An error of a user's class, in one line."""
    return finished(" ".join(str(error).split()) or type(error).__name__)


def finished(text: str) -> str:
    text = text[:300]
    return text if text.endswith((".", "!", "?")) else f"{text}."


@dataclass(frozen=True, kw_only=True)
class Field:
    """One field. `name`: its key in what the page sends, and in its path. `says`: its type in words.

    default: the value that the page shows at first; ABSENT for none.
    check: called with the value that was read; it returns the value to use, and raises ValueError.
    """

    kind: ClassVar[str] = ""

    name: str = ""
    label: str = ""
    help: str = ""
    says: str = ""
    default: Any = ABSENT
    limits: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any], Any] | None = field(default=None, repr=False)

    def read(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        """The typed value, ABSENT, or WRONG after a mistake was noted. Any JSON value may come in."""
        value = self.parse(raw, path, mistakes)
        if self.check is None or isinstance(value, Mark):
            return value
        try:
            return self.check(value)
        except Exception as error:
            return mistakes.from_error(path, error)

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        """`read` without the check."""
        raise NotImplementedError

    def show(self, value: Any) -> Any:
        """The raw of a value. Raises Unshowable."""
        raise NotImplementedError

    def blank(self) -> Any:
        """The raw of a field without a default."""
        return ""

    def initial(self) -> Any:
        """The raw that the page shows at first."""
        return self.blank() if self.default is ABSENT else self.show(self.default)

    def shows(self, value: Any) -> bool:
        """Whether the value can be shown, and is read back as the same value."""
        try:
            mistakes = Mistakes()
            back = self.read(self.show(value), "", mistakes)
            alike = type(back) is type(value) or {type(back), type(value)} == {int, float}
            return not mistakes.found and alike and bool(back == value)
        except Exception:
            # The user's class may do anything in its `__eq__` or its properties.
            return False

    def to_json(self) -> dict[str, Any]:
        """The field as the page draws it."""
        return {
            "kind": self.kind,
            "name": self.name,
            "label": self.label,
            "help": self.help,
            "says": self.says,
            "limits": dict(self.limits),
            "raw": self.initial(),
        }


def read_fields(
    fields: Sequence[Field], raw: Mapping[str, Any], path: str, mistakes: Mistakes
) -> dict[str, Any] | None:
    """The values of fields that were given, by name; None after a mistake. A field that is missing counts as null."""
    values = {one.name: one.read(raw.get(one.name), under(path, one.name), mistakes) for one in fields}
    if any(value is WRONG for value in values.values()):
        return None
    return {name: value for name, value in values.items() if value is not ABSENT}


@dataclass(frozen=True)
class Form:
    """The arguments of one call. `spread`: the only field holds all arguments as one list."""

    fields: tuple[Field, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    spread: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"fields": [one.to_json() for one in self.fields]}

    def read(self, raw: Any) -> tuple[list[Any] | None, dict[str, str]]:
        """The arguments, or a sentence for the path of each field that is wrong. Any JSON value may come in."""
        mistakes = Mistakes()
        values = read_fields(self.fields, raw if isinstance(raw, dict) else {}, "", mistakes)
        if values is None:
            return None, mistakes.found
        if self.spread:
            return list(values[self.fields[0].name]), {}
        # All of them, also those that the code has a default for: the SDK reads arguments by their type hints only if
        # there are as many as hints.
        return [values.get(one.name, self.defaults.get(one.name)) for one in self.fields], {}

    def raw(self) -> dict[str, Any]:
        """What the page sends if nobody changes anything."""
        return {one.name: one.initial() for one in self.fields}

    def show(self, *values: Any) -> dict[str, Any]:
        """The raw of these arguments. Raises Unshowable."""
        if self.spread:
            return {self.fields[0].name: self.fields[0].show(list(values))}
        return {one.name: one.show(value) for one, value in zip(self.fields, values, strict=False)}

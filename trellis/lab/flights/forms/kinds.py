"""The kinds of fields: single values, choices, and what is made of other fields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import ValidationError

from trellis.lab.flights.forms.fields import (
    ABSENT,
    MOST_ITEMS,
    WRONG,
    Field,
    Mark,
    Mistakes,
    Unshowable,
    finished,
    read_fields,
    sentence,
    under,
)


@dataclass(frozen=True, kw_only=True)
class Leaf(Field):
    """A text that `make` turns into a value; ValueError of `make` becomes the sentence `wrong`, or its own words.

    `took`: the text of a value; it raises Unshowable. `box`: how the page draws it, the `kind` in JSON.
    """

    box: str = "text"
    make: Callable[[str], Any] = str
    took: Callable[[Any], str] = str
    wrong: str = ""

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        if not isinstance(raw, str):
            return mistakes.at(path, self.wrong or "This must be a text.")
        try:
            return self.make(raw)
        except ValidationError as error:
            return mistakes.from_error(path, error)
        except Exception as error:
            return mistakes.at(path, self.wrong or sentence(error))

    def show(self, value: Any) -> str:
        return self.took(value)

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"kind": self.box}


@dataclass(frozen=True, kw_only=True)
class Boolean(Field):
    kind: ClassVar[str] = "boolean"

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        return raw if isinstance(raw, bool) else mistakes.at(path, "This must be yes or no.")

    def show(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Unshowable
        return value

    def blank(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Nothing(Field):
    """The only value is None."""

    kind: ClassVar[str] = "nothing"

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> None:
        return None

    def show(self, value: Any) -> None:
        if value is not None:
            raise Unshowable

    def blank(self) -> None:
        return None


@dataclass(frozen=True, kw_only=True)
class Choice(Field):
    """One of some values, such as the members of an Enum."""

    kind: ClassVar[str] = "choice"

    values: tuple[Any, ...]
    labels: tuple[str, ...]

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        if isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 9 and int(raw) < len(self.values):
            return self.values[int(raw)]
        return mistakes.at(path, "Choose one.")

    def show(self, value: Any) -> str:
        for number, one in enumerate(self.values):
            # 1 and True are equal, and only one of them is what was meant.
            if type(one) is type(value) and one == value:
                return str(number)
        raise Unshowable

    def blank(self) -> str:
        return "0" if len(self.values) == 1 else ""

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"choices": list(self.labels)}


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, kw_only=True)
class Json(Field):
    """Any value, as JSON. `make` turns what was parsed into a typed value, where the type is known."""

    kind: ClassVar[str] = "json"

    make: Callable[[Any], Any] | None = None
    took: Callable[[Any], Any] | None = None
    starts: str = ""

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        if not isinstance(raw, str) or not raw.strip():
            return mistakes.at(path, 'A JSON value is needed, such as "text", 7, [1, 2] or {"id": 1}.')
        try:
            value = json.loads(raw, parse_constant=_no_constant)
        except RecursionError:
            return mistakes.at(path, "This is nested too deeply.")
        except json.JSONDecodeError as error:
            return mistakes.at(path, f"This is not JSON: {error.msg} (line {error.lineno}, column {error.colno}).")
        except ValueError as error:
            return mistakes.at(path, finished(f"This is not JSON: {error}"))
        if self.make is None:
            return value
        try:
            return self.make(value)
        except Exception as error:
            # Its fields are not on the page, so all mistakes belong to this field.
            inner = Mistakes()
            inner.from_error("", error)
            return mistakes.at(path, " ".join(f"{at}: {why}" if at else why for at, why in inner.found.items())[:500])

    def show(self, value: Any) -> str:
        try:
            return json.dumps(value if self.took is None else self.took(value), ensure_ascii=False, allow_nan=False)
        except Exception:
            raise Unshowable from None

    def blank(self) -> str:
        return self.starts


@dataclass(frozen=True, kw_only=True)
class Maybe(Field):
    """A field that may be left empty. `empty`: what that means, None or ABSENT."""

    kind: ClassVar[str] = "optional"

    inside: Field
    empty: Mark | None = None

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        return self.empty if raw is None else self.inside.read(raw, path, mistakes)

    def show(self, value: Any) -> Any:
        return None if value is self.empty else self.inside.show(value)

    def blank(self) -> None:
        return None

    def to_json(self) -> dict[str, Any]:
        # What is left empty is sent as null, or is left out, so that the default of the code counts.
        return super().to_json() | {"inside": self.inside.to_json(), "left": "out" if self.empty is ABSENT else "null"}


@dataclass(frozen=True, kw_only=True)
class OneOf(Field):
    kind: ClassVar[str] = "union"

    cases: tuple[Field, ...]

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        case = raw.get("case") if isinstance(raw, dict) else None
        if not isinstance(case, int) or isinstance(case, bool) or not 0 <= case < len(self.cases):
            return mistakes.at(path, "Choose one.")
        return self.cases[case].read(raw.get("value"), path, mistakes)

    def show(self, value: Any) -> Any:
        for number, case in enumerate(self.cases):
            if case.shows(value):
                return {"case": number, "value": case.show(value)}
        raise Unshowable

    def blank(self) -> Any:
        return {"case": 0, "value": self.cases[0].initial()}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"cases": [case.to_json() for case in self.cases]}


@dataclass(frozen=True, kw_only=True)
class Wrapper(Field):
    """Values of a type that holds one other value. The page shows the field of that other value.

    make: the wrapper of a value. took: the value inside; it raises Unshowable.
    """

    inside: Field
    make: Callable[[Any], Any]
    took: Callable[[Any], Any]

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        value = self.inside.read(raw, path, mistakes)
        if isinstance(value, Mark):
            return value
        try:
            return self.make(value)
        except Exception as error:
            return mistakes.from_error(path, error)

    def show(self, value: Any) -> Any:
        return self.inside.show(self.took(value))

    def blank(self) -> Any:
        return self.inside.initial()

    def to_json(self) -> dict[str, Any]:
        return self.inside.to_json() | {
            key: value for key, value in super().to_json().items() if key != "kind" and value
        }


def _entries(raw: Any, path: str, mistakes: Mistakes) -> list[Any] | Mark:
    if not isinstance(raw, list):
        return mistakes.at(path, "This must be a list.")
    if len(raw) > MOST_ITEMS:
        return mistakes.at(path, f"A form takes at most {MOST_ITEMS:,} entries.")
    return raw


@dataclass(frozen=True, kw_only=True)
class Items(Field):
    """Any number of values. `make`: list, tuple, set or frozenset, among others."""

    kind: ClassVar[str] = "list"

    item: Field
    make: Callable[[Iterable[Any]], Any] = list

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        entries = _entries(raw, path, mistakes)
        if isinstance(entries, Mark):
            return entries
        values = [self.item.read(one, under(path, str(number)), mistakes) for number, one in enumerate(entries)]
        if any(value is WRONG for value in values):
            return WRONG
        try:
            return self.make(values)
        except Exception as error:
            # A set of values that have no hash, for example.
            return mistakes.from_error(path, error)

    def show(self, value: Any) -> list[Any]:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise Unshowable
        return [self.item.show(one) for one in value]

    def blank(self) -> list[Any]:
        return []

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"item": self.item.to_json()}


@dataclass(frozen=True, kw_only=True)
class Pairs(Field):
    """A mapping, as pairs of a key and a value."""

    kind: ClassVar[str] = "mapping"

    key: Field
    value: Field
    make: Callable[[dict[Any, Any]], Any] = dict

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        entries = _entries(raw, path, mistakes)
        if isinstance(entries, Mark):
            return entries
        found: dict[Any, Any] = {}
        wrong = False
        for number, pair in enumerate(entries):
            at = under(path, str(number))
            key, value = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
            read_key = self.key.read(key, under(at, "key"), mistakes)
            read_value = self.value.read(value, under(at, "value"), mistakes)
            if read_key is WRONG or read_value is WRONG:
                wrong = True
            elif read_key in found:
                wrong = True
                mistakes.at(under(at, "key"), "This key is there twice.")
            else:
                found[read_key] = read_value
        return WRONG if wrong else self.make(found)

    def show(self, value: Any) -> list[Any]:
        if not isinstance(value, Mapping):
            raise Unshowable
        return [[self.key.show(key), self.value.show(one)] for key, one in value.items()]

    def blank(self) -> list[Any]:
        return []

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"key": self.key.to_json(), "value": self.value.to_json()}


@dataclass(frozen=True, kw_only=True)
class Group(Field):
    """Fields with names: a dataclass, a pydantic model, a named tuple, a TypedDict or a tuple.

    make: the value from those of the fields that were given, by their names.
    took: the fields' values of a value; it raises Unshowable.
    names: pydantic's names of the fields, where they differ from those of the form.
    """

    kind: ClassVar[str] = "group"

    fields: tuple[Field, ...]
    make: Callable[[dict[str, Any]], Any]
    took: Callable[[Any], Mapping[str, Any]]
    names: Mapping[str, str] = field(default_factory=dict)

    def parse(self, raw: Any, path: str, mistakes: Mistakes) -> Any:
        if not isinstance(raw, dict):
            return mistakes.at(path, "This must be a group of fields.")
        values = read_fields(self.fields, raw, path, mistakes)
        if values is None:
            return WRONG
        try:
            return self.make(values)
        except Exception as error:
            return mistakes.from_error(path, error, self.names)

    def show(self, value: Any) -> dict[str, Any]:
        values = self.took(value)
        return {one.name: one.show(values.get(one.name, ABSENT)) for one in self.fields}

    def blank(self) -> dict[str, Any]:
        return {one.name: one.initial() for one in self.fields}

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"fields": [one.to_json() for one in self.fields]}

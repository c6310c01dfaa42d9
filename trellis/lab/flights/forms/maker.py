"""From a type hint to a field.

A type that has no field of its own becomes a field of JSON. So does what is nested too deeply, or too large: a type may
hold itself.
"""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import Any, Literal, TypeVar

import typing_extensions
from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from trellis.lab.flights.forms.docs import attribute_docs
from trellis.lab.flights.forms.fields import ABSENT, Field, Unshowable
from trellis.lab.flights.forms.hints import (
    adapter_of,
    default_of,
    filled_in,
    hints_of,
    is_required,
    limits_of,
    name_of,
    unwrapped,
)
from trellis.lab.flights.forms.kinds import Choice, Group, Items, Json, Leaf, Maybe, Nothing, OneOf, Pairs, Wrapper
from trellis.lab.flights.forms.leaves import LEAVES

WITHIN_ITSELF = 2
"""So many times a type may be inside itself before it becomes JSON."""

DEEPEST = 12
MOST_FIELDS = 300
"""A form with more levels or more fields than this has JSON for the rest."""

_SEQUENCES: dict[Any, Callable[[Iterable[Any]], Any]] = {
    list: list, abc.Sequence: list, abc.MutableSequence: list, abc.Iterable: list, abc.Collection: list,
    set: set, abc.MutableSet: set, abc.Set: set, frozenset: frozenset, collections.deque: collections.deque,
}  # fmt: skip
_MAPPINGS: dict[Any, Callable[[dict[Any, Any]], Any]] = {
    dict: dict, abc.Mapping: dict, abc.MutableMapping: dict, collections.OrderedDict: collections.OrderedDict,
    collections.defaultdict: dict,
}  # fmt: skip


class Maker:
    """Makes the fields of one form."""

    def __init__(self) -> None:
        self._inside: list[Any] = []
        self._made = 0
        self._depth = 0

    def named(self, hint: Any, name: str, *, help: str = "", default: Any = ABSENT, required: bool = True) -> Field:
        """A field with a name, and with a default if it has one.

        default: the value that counts when nothing is given. required: without it the field may be left out.
        """
        made = self.field(hint)
        made = replace(made, name=name, label=name.replace("_", " "), help=help or made.help)
        if default is not ABSENT and made.shows(default):
            return replace(made, default=default)
        if required:
            return made
        # A default that cannot be shown counts if the field is left out.
        inside = replace(made, name="", label="", help="")
        return Maybe(name=name, label=made.label, help=made.help, says=made.says, inside=inside, empty=ABSENT)

    def field(self, hint: Any) -> Field:
        """The field of a hint, without a name."""
        self._made += 1
        hint, metadata = unwrapped(hint)
        if self._made > MOST_FIELDS or self._depth > DEEPEST:
            return json_field(hint)
        self._depth += 1
        try:
            made = self._of(hint)
        except Exception:
            # A class of a user's may do anything when somebody looks at it, and its form is not worth a failure.
            made = json_field(hint)
        finally:
            self._depth -= 1
        return _with_metadata(made, hint, metadata) if metadata else made

    def _of(self, hint: Any) -> Field:
        if (
            hint is Any
            or hint is object
            or hint is inspect.Parameter.empty
            or isinstance(hint, str | typing.ForwardRef)
        ):
            return Json(says="JSON")
        if hint is None or hint is type(None):
            return Nothing(says="nothing")
        if isinstance(hint, TypeVar):
            return self.field(hint.__bound__ or Any)
        origin = typing.get_origin(hint) or hint
        if origin is Literal or origin is typing_extensions.Literal:
            values = typing.get_args(hint)
            return Choice(says="choice", values=values, labels=tuple(map(str, values)))
        if origin is typing.Union or origin is types.UnionType:
            return self._union(typing.get_args(hint))
        try:
            if origin in LEAVES:
                return LEAVES[origin]
        except TypeError:
            return json_field(hint)
        if not isinstance(origin, type):
            return json_field(hint)
        return self._of_class(hint, origin)

    def _of_class(self, hint: Any, cls: type) -> Field:
        args = typing.get_args(hint)
        if issubclass(cls, Enum):
            return _enum(cls)
        if cls is tuple:
            return self._tuple(args)
        if cls in _SEQUENCES:
            [item] = args or (Any,)
            return Items(says="list", item=self.field(item), make=_SEQUENCES[cls])
        if cls in _MAPPINGS:
            key, value = args if len(args) == 2 else (str, Any)
            return Pairs(says="mapping", key=self.field(key), value=self.field(value), make=_MAPPINGS[cls])
        if cls is collections.Counter or cls is type:
            return json_field(hint)
        shape = self._shape(cls)
        if shape is not None:
            if self._inside.count(cls) > WITHIN_ITSELF:
                return json_field(hint)
            self._inside.append(cls)
            try:
                return shape(hint, cls)
            finally:
                self._inside.pop()
        return _plain_class(hint, cls)

    def _shape(self, cls: type) -> Callable[[Any, type], Field] | None:
        if issubclass(cls, BaseModel):
            return self._root_model if issubclass(cls, RootModel) else self._model
        if typing_extensions.is_typeddict(cls):
            return self._typed_dict
        if dataclasses.is_dataclass(cls):
            return self._dataclass
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            return self._named_tuple
        return None

    # --- what is made of other types -----------------------------------------------------------------------

    def _union(self, args: tuple[Any, ...]) -> Field:
        rest = [arg for arg in args if arg is not type(None)]
        cases = [self.field(arg) for arg in rest]
        if len(cases) == 1:
            inside = cases[0]
        else:
            labelled = [replace(case, label=case.label or name_of(arg)) for case, arg in zip(cases, rest, strict=True)]
            inside = OneOf(says="one of several", cases=tuple(labelled))
        return inside if len(rest) == len(args) else Maybe(says=inside.says, inside=inside, limits=inside.limits)

    def _tuple(self, args: tuple[Any, ...]) -> Field:
        if len(args) == 2 and args[1] is Ellipsis:
            return Items(says="list", item=self.field(args[0]), make=tuple)
        if not args:
            return Items(says="list", item=Json(says="JSON"), make=tuple)
        fields = tuple(replace(self.field(arg), name=str(n), label=str(n + 1)) for n, arg in enumerate(args))

        def took(value: Any) -> dict[str, Any]:
            if type(value) is not tuple or len(value) != len(args):
                raise Unshowable
            return {str(n): one for n, one in enumerate(value)}

        return Group(says="tuple", fields=fields, make=lambda values: tuple(values.values()), took=took)

    def _dataclass(self, hint: Any, cls: type) -> Field:
        hints = filled_in(hint, cls, hints_of(cls))
        docs = attribute_docs(cls)
        parameters = inspect.signature(cls).parameters
        described = {
            one.name: getattr(one, "doc", None) or one.metadata.get("description") or one.metadata.get("doc") or ""
            for one in dataclasses.fields(cls)
        }
        factories = {
            one.name: one.default_factory
            for one in dataclasses.fields(cls)
            if one.default_factory is not dataclasses.MISSING
        }
        fields = tuple(
            self.named(
                hints.get(name, Any), name, help=str(described.get(name) or docs.get(name, "")),
                default=default_of(factories.get(name), one.default),
                required=one.default is inspect.Parameter.empty,
            )
            for name, one in parameters.items()
            if one.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        )  # fmt: skip
        return Group(
            says=cls.__name__, fields=fields, make=lambda values: cls(**values),
            took=_attributes(cls, fields),
        )  # fmt: skip

    def _model(self, _: Any, cls: type) -> Field:
        assert issubclass(cls, BaseModel)
        fields = tuple(
            replace(
                self.named(
                    info.annotation, name, help=info.description or "",
                    default=default_of(info.default_factory, info.default), required=info.is_required(),
                ),
                # The model checks them itself.
                limits=limits_of(info.metadata),
            )
            for name, info in cls.model_fields.items()
        )  # fmt: skip
        aliases = {
            alias: name
            for name, info in cls.model_fields.items()
            for alias in (info.alias, info.validation_alias)
            if isinstance(alias, str)
        }
        return Group(
            says=cls.__name__, fields=fields, took=_attributes(cls, fields), names=aliases,
            make=lambda values: cls.model_validate(values, by_name=True, by_alias=False),
        )  # fmt: skip

    def _root_model(self, _: Any, cls: type) -> Field:
        assert issubclass(cls, RootModel)
        info = cls.model_fields["root"]
        inside = replace(self.field(info.annotation), limits=limits_of(info.metadata), help=info.description or "")
        return Wrapper(
            says=cls.__name__, inside=inside, make=cls.model_validate,
            took=lambda value: _attribute(cls, value, "root"),
        )  # fmt: skip

    def _typed_dict(self, _: Any, cls: type) -> Field:
        # Not hints_of: TypedDict keeps in its own sets which keys are required.
        required: frozenset[str] = getattr(cls, "__required_keys__", frozenset())
        docs = attribute_docs(cls)
        fields = tuple(
            self.named(hint, name, help=docs.get(name, ""), required=is_required(hint, name in required))
            for name, hint in hints_of(cls).items()
        )

        def took(value: Any) -> Mapping[str, Any]:
            if type(value) is not dict or not set(value) <= {one.name for one in fields}:
                raise Unshowable
            return value

        return Group(says=cls.__name__, fields=fields, make=dict, took=took)

    def _named_tuple(self, _: Any, cls: type) -> Field:
        hints, defaults, docs = hints_of(cls), getattr(cls, "_field_defaults", {}), attribute_docs(cls)
        fields = tuple(
            self.named(
                hints.get(name, Any), name, help=docs.get(name, ""),
                default=defaults.get(name, ABSENT), required=name not in defaults,
            )
            for name in getattr(cls, "_fields", ())
        )  # fmt: skip
        return Group(
            says=cls.__name__, fields=fields, make=lambda values: cls(**values),
            took=_attributes(cls, fields),
        )  # fmt: skip


def json_field(hint: Any) -> Json:
    """A field of JSON, which becomes a value of the type where pydantic knows the type."""
    adapter = None if hint is Any else adapter_of(hint)
    name = name_of(hint)
    if adapter is None:
        # The worker's data converter turns the JSON into the type of the hint, as it does with everything it gets.
        return Json(says="JSON" if hint is Any else f"{name}, as JSON")
    return Json(says=f"{name}, as JSON", make=adapter.validate_python, took=to_jsonable_python)


def _with_metadata(made: Field, hint: Any, metadata: list[Any]) -> Field:
    """The field with what Annotated says: limits, a description, validators."""
    parts: list[Any] = []
    help = made.help
    for one in metadata:
        help = getattr(one, "description" if isinstance(one, FieldInfo) else "documentation", None) or help
        parts += one.metadata if isinstance(one, FieldInfo) else [one]
    adapter = adapter_of(typing.Annotated[hint, *metadata])
    check = None if adapter is None else adapter.validate_python
    return replace(made, limits={**made.limits, **limits_of(parts)}, help=help, check=check)


def _enum(cls: type[Enum]) -> Field:
    members = tuple(cls)
    if not members:
        return json_field(cls)
    labels = (
        one.name if str(one.value).lower() == one.name.lower() else f"{one.name} ({one.value})" for one in members
    )
    return Choice(says=cls.__name__, values=members, labels=tuple(labels))


def _plain_class(hint: Any, cls: type) -> Field:
    """A subclass of a simple type, or a type that pydantic writes as a text or a number; else JSON."""
    adapter = adapter_of(hint)
    if adapter is None:
        for base in (str, float, int):
            if issubclass(cls, base):
                return Wrapper(says=cls.__name__, inside=LEAVES[base], make=cls, took=_inner(cls, base))
        return json_field(hint)
    try:
        kind = adapter.json_schema().get("type")
    except Exception:
        kind = None
    if kind != "string":
        return json_field(hint)

    def took(value: Any) -> str:
        text = adapter.dump_python(value, mode="json")
        if not isinstance(text, str):
            raise Unshowable
        return text

    return Leaf(says=cls.__name__, make=adapter.validate_python, took=took)


def _inner(cls: type, base: type) -> Callable[[Any], Any]:
    """Turns a value of a subclass of a simple type into one of the simple type."""

    def took(value: Any) -> Any:
        if type(value) is not cls:
            raise Unshowable
        return base(value)

    return took


def _attribute(cls: type, value: Any, name: str) -> Any:
    if type(value) is not cls:
        raise Unshowable
    return getattr(value, name)


def _attributes(cls: type, fields: tuple[Field, ...]) -> Callable[[Any], dict[str, Any]]:
    def took(value: Any) -> dict[str, Any]:
        return {one.name: _attribute(cls, value, one.name) for one in fields}

    return took

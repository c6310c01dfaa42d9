"""How an object of a class is read without calling the class's code: as something simpler, as a list, or as pairs.

Python's own descriptors do the reading. `type.__dict__["__mro__"]` gives the bases of a class whatever its metaclass
defines, the getset descriptor `__dict__` gives an instance's attributes whatever property hides them, member
descriptors give slots, and `dict.items`, `list.__iter__` and their like give the items of a subclass. `issubclass` asks
only the built-in class at its right. A class is never put into a set or a dict: its metaclass may define `__hash__`.
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import decimal
import pathlib
import types
import uuid
import zoneinfo
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any

Pairs = Collection[tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Instead:
    """Read as a simpler object: the value of an Enum, a built-in scalar, a text in words."""

    read: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Listed:
    """Read as a list. `ordered` says whether the items have an order of their own."""

    members: Callable[[Any], Iterable[Any]]
    size: Callable[[Any], int]
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Paired:
    """Read as names and values. `name` is that of the class, None for a dict."""

    name: str | None
    pairs: Callable[[Any], Pairs]


Kind = Instead | Listed | Paired

Attributes = Callable[[Any], dict[str, Any]]
"""Gives the `__dict__` of an instance."""

_MRO = type.__dict__["__mro__"].__get__
_NAMESPACE = type.__dict__["__dict__"].__get__
_NAME = type.__dict__["__name__"].__get__
_QUALNAME = type.__dict__["__qualname__"].__get__
_MODULE = type.__dict__["__module__"].__get__
_ARGS = BaseException.__dict__["args"].__get__
_CAUSE = BaseException.__dict__["__cause__"].__get__
_IN_MODULE: Any = vars(types.ModuleType)["__dict__"].__get__

_MACHINERY = (
    "asyncio.",
    "concurrent.",
    "threading.",
    "_thread.",
    "logging.",
    "temporalio.bridge.",
    "temporalio.client.",
    "temporalio.service.",
    "temporalio.worker.",
    "temporalio.workflow.",
)
"""Modules whose objects hold half a program: an activity's handle knows its workflow instance, and that its tasks. Only
their dataclasses are read."""

_PATHS = (pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath, pathlib.PureWindowsPath)


def kind_of(class_: type) -> Kind:
    """How objects of exactly this class are read."""
    for of, kind in _KINDS:
        if issubclass(class_, of):
            return kind if isinstance(kind, Kind) else kind(class_)
    if any(class_ is path for path in _PATHS):
        return Instead(str)
    return _object(class_)


def name_of(class_: type) -> str:
    return _text(_NAME(class_))


# --- objects with attributes and slots ---------------------------------------------------------------------------


def _object(class_: type) -> Kind:
    name = name_of(class_)
    module = _text(_MODULE(class_))
    if name == "_RestrictedProxy":
        return Instead(lambda _: "<restricted by the sandbox>")
    attributes = _attributes(class_)
    slots = _slots(class_)
    machinery = f"{module}.".startswith(_MACHINERY) and _inherited(class_, "__dataclass_fields__") is None
    if machinery or (attributes is None and not slots):
        return Instead(lambda _: f"<{name}>")
    if not slots and attributes is not None:
        return Paired(name, lambda obj: dict.items(attributes(obj)))
    return Paired(name, lambda obj: [*_own(attributes, obj), *_filled(slots, obj)])


def _attributes(class_: type) -> Attributes | None:
    """What reads the `__dict__` of an instance; None if nothing can.

    A property of that name is passed over. If it stands in the first class that has attributes, Python made no
    descriptor beside it, and the attributes cannot be read.
    """
    for base in _MRO(class_):
        entry = _NAMESPACE(base).get("__dict__")
        if type(entry) is types.GetSetDescriptorType or type(entry) is types.MemberDescriptorType:
            return entry.__get__
    return None


def _slots(class_: type) -> list[tuple[str, Callable[[Any], Any]]]:
    """The slots of a class and its bases, the base's first. A private one keeps its mangled name."""
    return [
        (name, entry.__get__)
        for base in reversed(_MRO(class_))
        for name, entry in _NAMESPACE(base).items()
        if type(entry) is types.MemberDescriptorType and name != "__dict__"
    ]


def _own(attributes: Attributes | None, obj: object) -> Pairs:
    """The names and values of an instance's attributes. Not as a new dict: that would hash the names."""
    return [] if attributes is None else dict.items(attributes(obj))


def _attribute(attributes: Attributes | None, obj: object, name: str) -> Any:
    """One attribute of an instance, None if it has none of this name."""
    return next((value for key, value in _own(attributes, obj) if type(key) is str and key == name), None)


def _filled(slots: list[tuple[str, Callable[[Any], Any]]], obj: object) -> Iterator[tuple[str, Any]]:
    """The slots that are set. Pydantic keeps additional and private fields as dicts in slots: they count as fields."""
    for name, read in slots:
        try:
            value = read(obj)
        except AttributeError:
            continue
        if name in ("__pydantic_extra__", "__pydantic_private__"):
            if type(value) is dict:
                yield from value.items()
        else:
            yield name, value


def _inherited(class_: type, name: str) -> object:
    """What a class or its first base that has it holds under this name, as it stands there."""
    return next((_NAMESPACE(base)[name] for base in _MRO(class_) if name in _NAMESPACE(base)), None)


def _tuple(class_: type) -> Kind:
    names = _inherited(class_, "_fields")
    if type(names) is not tuple or any(type(name) is not str for name in names):
        return Listed(tuple.__iter__, tuple.__len__)
    return Paired(name_of(class_), lambda obj: list(zip(names, tuple.__iter__(obj), strict=False)))


def _exception(class_: type) -> Kind:
    attributes = _attributes(class_)

    def pairs(obj: BaseException) -> Pairs:
        cause = _CAUSE(obj)
        return [("args", _ARGS(obj)), *_own(attributes, obj), *([] if cause is None else [("cause", cause)])]

    return Paired(name_of(class_), pairs)


def _enum(class_: type) -> Kind:
    attributes = _attributes(class_)
    return Instead(lambda obj: _attribute(attributes, obj, "_value_"))


# --- what is shown in words ------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """Names are text, but may be of a subclass of str, or something else that was put there."""
    return value if type(value) is str else "?"


def _future(class_: type) -> Kind:
    name = name_of(class_).lstrip("_")
    is_task = class_ is asyncio.Task

    def words(obj: Any) -> str:
        coroutine = asyncio.Task.get_coro(obj) if is_task else None
        of = f" {_text(coroutine.__qualname__)}" if type(coroutine) is types.CoroutineType else ""
        done = asyncio.Future.done(obj)
        return f"<{name}{of}: {('cancelled' if asyncio.Future.cancelled(obj) else 'done') if done else 'pending'}>"

    return Instead(words)


def _lock(class_: type) -> Kind:
    name, attributes = name_of(class_), _attributes(class_)
    return Instead(
        lambda obj: f"<{name}: {'locked' if _attribute(attributes, obj, '_locked') is True else 'unlocked'}>"
    )


def _flag(class_: type) -> Kind:
    return _switch(class_, "_value", "set", "not set")


def _switch(class_: type, attribute: str, on: str, off: str) -> Kind:
    name, attributes = name_of(class_), _attributes(class_)
    return Instead(lambda obj: f"<{name}: {on if _attribute(attributes, obj, attribute) is True else off}>")


def _semaphore(class_: type) -> Kind:
    name, attributes = name_of(class_), _attributes(class_)

    def words(obj: Any) -> str:
        left = _attribute(attributes, obj, "_value")
        return f"<{name}: {left} left>" if type(left) is int else f"<{name}>"

    return Instead(words)


def _queue(class_: type) -> Kind:
    attributes = _attributes(class_)
    return Paired(name_of(class_), lambda obj: [("items", _attribute(attributes, obj, "_queue"))])


def _method(obj: types.MethodType) -> str:
    function = obj.__func__
    return f"<method {_text(function.__qualname__)}>" if type(function) is types.FunctionType else "<method>"


def _named(word: str, attribute: str, state: str | None = None) -> Instead:
    """Functions and generators in words. Their types cannot be inherited from, so that getattr calls no user's code."""

    def words(obj: Any) -> str:
        at_rest = "" if state is None else ": running" if getattr(obj, state) else ": not running"
        return f"<{word} {_text(getattr(obj, attribute))}{at_rest}>"

    return Instead(words)


def _module(obj: types.ModuleType) -> str:
    found = [value for key, value in islice(dict.items(_IN_MODULE(obj)), 20) if type(key) is str and key == "__name__"]
    return f"<module {_text(found[0]) if found else '?'}>"


def _class(obj: type) -> str:
    return f"<class {_text(_MODULE(obj))}.{_text(_QUALNAME(obj))}>"


def _moment(base: Any) -> Callable[[type], Kind]:
    """ISO text. A time zone of the user's own would be asked for its offset: it is named instead."""
    zone_of = base.__dict__["tzinfo"].__get__

    def kind(class_: type) -> Kind:
        exact = class_ is base

        def words(obj: Any) -> str:
            zone = zone_of(obj)
            if zone is None or type(zone) is datetime.timezone or type(zone) is zoneinfo.ZoneInfo:
                return str(base.isoformat(obj))
            # `replace` on a subclass would call its constructor.
            bare = base.isoformat(base.replace(obj, tzinfo=None)) if exact else "?"
            return f"{bare} <{name_of(type(zone))}>"

        return Instead(words)

    return kind


def _uuid(obj: uuid.UUID) -> str:
    number = uuid.UUID.__dict__["int"].__get__(obj)
    return str(uuid.UUID(int=number)) if type(number) is int else "<UUID>"


def _bytes(size: int) -> str:
    return "<1 byte>" if size == 1 else f"<{size:,} bytes>"


_KINDS: tuple[tuple[type, Kind | Callable[[type], Kind]], ...] = (
    (Enum, _enum),
    (str, Instead(str.__str__)),
    (int, Instead(int.__int__)),
    (float, Instead(float.__float__)),
    (complex, Instead(complex.__repr__)),
    (bytes, Instead(lambda obj: _bytes(bytes.__len__(obj)))),
    (bytearray, Instead(lambda obj: _bytes(bytearray.__len__(obj)))),
    (memoryview, Instead(lambda obj: _bytes(obj.nbytes))),
    (dict, Paired(None, dict.items)),
    (list, Listed(list.__iter__, list.__len__)),
    (tuple, _tuple),
    (set, Listed(set.__iter__, set.__len__, ordered=False)),
    (frozenset, Listed(frozenset.__iter__, frozenset.__len__, ordered=False)),
    (collections.deque, Listed(collections.deque.__iter__, collections.deque.__len__)),
    (datetime.datetime, _moment(datetime.datetime)),
    (datetime.time, _moment(datetime.time)),
    (datetime.date, Instead(lambda obj: datetime.date.isoformat(obj))),
    (datetime.timedelta, Instead(datetime.timedelta.__str__)),
    (datetime.timezone, Instead(datetime.timezone.__str__)),
    (decimal.Decimal, Instead(decimal.Decimal.__str__)),
    (uuid.UUID, Instead(_uuid)),
    (range, Instead(range.__repr__)),
    (BaseException, _exception),
    (type, Instead(_class)),
    (types.ModuleType, Instead(_module)),
    (types.FunctionType, _named("function", "__qualname__")),
    (types.BuiltinFunctionType, _named("function", "__name__")),
    (types.MethodType, Instead(_method)),
    (types.GeneratorType, _named("generator", "__qualname__", "gi_running")),
    (types.CoroutineType, _named("coroutine", "__qualname__", "cr_running")),
    (types.AsyncGeneratorType, _named("async generator", "__qualname__", "ag_running")),
    (asyncio.Future, _future),
    (asyncio.Lock, _lock),
    (asyncio.Event, _flag),
    (asyncio.Semaphore, _semaphore),
    (asyncio.Queue, _queue),
)
"""Tried in this order. A function makes the kind of one class."""

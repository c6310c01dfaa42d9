"""Trees of plain values: of every kind of object, of hostile ones, and within their limits."""

from __future__ import annotations

import asyncio
import collections
import functools
import gc
import json
import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, IntEnum
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr

from tests.steady import STEADY
from trellis.replay.values import Fields, Limits, Reader, Tree, plain, shown, tree, variables


class Called(BaseException):
    """A snapshot ran a line of user code. No `except Exception` hides it."""


def never(*_: object, **__: object) -> NoReturn:
    raise Called


HOOKS = """
    __repr__ __str__ __format__ __eq__ __ne__ __hash__ __lt__ __bool__ __len__ __iter__ __next__ __contains__
    __getitem__ __getattr__ __getattribute__ __dir__ __sizeof__ __reduce__ __reduce_ex__ __copy__ __deepcopy__
    __int__ __float__ __index__ __complex__ __bytes__ __call__ __reversed__ __length_hint__ __instancecheck__
    __subclasscheck__ items keys values get isoformat tzinfo total_seconds __missing__
"""
"""What a snapshot could be tempted to call."""


class HostileMeta(type):
    __eq__ = __hash__ = __repr__ = __instancecheck__ = __subclasscheck__ = __len__ = __iter__ = never

    def __getattribute__(cls, name: str) -> Any:
        raise Called


def hostile(base: type = object, *, meta: type = type, **more: Any) -> Any:
    """A class of which every special method raises, and whose `__class__` is a property."""
    hooks = dict.fromkeys(HOOKS.split(), never)
    return meta("Hostile", (base,), {**hooks, "__class__": property(never), **more})


class Plain:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def name(self) -> str:
        raise Called


def test_scalars_stay_themselves() -> None:
    """None, booleans, numbers and short texts are shown as they are, with their kinds."""
    for value in (None, True, False, 0, 1, -7, 1.5, "", "text", "größer"):
        found = tree(value)
        assert found is value or (found == value and type(found) is type(value))


class Rank(IntEnum):
    LOW = 1


class State(Enum):
    OPEN = "open"


class Name(str): ...


class Cents(int): ...


class Ratio(float): ...


class Zone(tzinfo):
    utcoffset = dst = tzname = never


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (State.OPEN, "open"),
        (Rank.LOW, 1),
        (Name("a"), "a"),
        (Cents(5), 5),
        (Ratio(0.5), 0.5),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (time(3, 4), "03:04:00"),
        (timedelta(seconds=90), "0:01:30"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (b"abc", "<3 bytes>"),
        (bytearray(b"a"), "<1 byte>"),
        (memoryview(b"ab"), "<2 bytes>"),
        (1j, "1j"),
        (range(3), "range(0, 3)"),
        (len, "<function len>"),
        (json.dumps, "<function dumps>"),
        (json, "<module json>"),
        (Plain, f"<class {__name__}.Plain>"),
        (Plain().name, "<method Plain.name>"),
        (object(), "<object>"),
        (UTC, "UTC"),
    ],
    ids=lambda value: type(value).__name__ if " at 0x" in str(value) else str(value),
)
def test_a_value_of_the_standard_library_is_shown_in_its_own_words(value: object, expected: Tree) -> None:
    """Times, numbers and identifiers as text, a subclass as its built-in value, code by its qualified name."""
    assert tree(value) == expected
    assert type(tree(value)) is type(expected)


def test_a_time_zone_of_the_user_is_not_asked() -> None:
    """It would be asked for its offset, which is code: it is named instead."""
    assert tree(datetime(2026, 1, 2, 3, tzinfo=Zone())) == "2026-01-02T03:00:00 <Zone>"


class Point(NamedTuple):
    x: int
    y: int


@dataclass(frozen=True)
class Item:
    sku: str
    price: int


class Base:
    __slots__ = ("__pin", "size", "unset")

    def __init__(self) -> None:
        self.size = 2
        self.__pin = 1


class Derived(Base):
    __slots__ = ("colour",)

    def __init__(self) -> None:
        super().__init__()
        self.colour = "red"


class WithBoth(Derived):
    def __init__(self) -> None:
        super().__init__()
        self.note = "x"


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str
    _seen: int = PrivateAttr(default=3)


class Failed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("no", code)
        self.code = code


@pytest.mark.parametrize(
    ("value", "type_", "fields"),
    [
        (Point(1, 2), "Point", {"x": 1, "y": 2}),
        (Item("A", 5), "Item", {"sku": "A", "price": 5}),
        (Derived(), "Derived", {"_Base__pin": 1, "size": 2, "colour": "red"}),
        (WithBoth(), "WithBoth", {"note": "x", "_Base__pin": 1, "size": 2, "colour": "red"}),
        (Model.model_validate({"name": "n", "more": 1}), "Model", {"name": "n", "more": 1, "_seen": 3}),
        (SimpleNamespace(a=1), "SimpleNamespace", {"a": 1}),
        (Failed(7), "Failed", {"args": ["no", 7], "code": 7}),
        (collections.UserDict({"a": 1}), "UserDict", {"data": {"a": 1}}),
        (slice(1, 2), "slice", {"start": 1, "stop": 2, "step": None}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_object_is_shown_with_all_its_fields(value: object, type_: str, fields: dict[str, Tree]) -> None:
    """Attributes and slots, inherited and private ones, Pydantic's additional fields; not the slots that are unset."""
    found = tree(value)
    assert isinstance(found, Fields)
    assert (found.type, dict(found)) == (type_, fields)


def test_a_failure_is_shown_with_its_cause() -> None:
    """The cause says why, and is a failure like the other."""
    failure = Failed(1)
    failure.__cause__ = ValueError("bad")
    assert tree(failure) == {"args": ["no", 1], "code": 1, "cause": {"args": ["bad"]}}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, [2]], [1, [2]]),
        ((1, 2), [1, 2]),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (collections.deque([1, 2], maxlen=2), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ({1: "a", None: "b", False: "c", (1, "x"): "d"}, {"1": "a", "None": "b", "False": "c", '[1, "x"]': "d"}),
        ({1: "number", "1": "text"}, {"1": "number", "1'": "text"}),
        ({State.OPEN: 1, Item("A", 5): 2}, {"open": 1, 'Item(sku="A", price=5)': 2}),
    ],
)
def test_containers_become_lists_and_dicts(value: object, expected: Tree) -> None:
    """Sets in order, keys as text, and two keys with one text stay two."""
    assert tree(value) == expected


async def test_what_runs_is_shown_by_its_type_and_whether_it_is_done() -> None:
    """Tasks, futures, locks, queues and generators: their inside belongs to asyncio."""

    async def work() -> int:
        return 1

    async def stream() -> Any:
        yield 1

    def count() -> Iterator[int]:
        yield 1

    task = asyncio.create_task(work())
    lock, event, queue = asyncio.Lock(), asyncio.Event(), asyncio.Queue[Any]()
    await lock.acquire()
    queue.put_nowait({"a": 1})
    where = "test_what_runs_is_shown_by_its_type_and_whether_it_is_done.<locals>"
    assert tree(task) == f"<Task {where}.work: pending>"
    await task
    assert tree(task) == f"<Task {where}.work: done>"
    future = asyncio.get_running_loop().create_future()
    assert tree([future, lock, event, asyncio.Semaphore(2), queue]) == [
        "<Future: pending>", "<Lock: locked>", "<Event: not set>", "<Semaphore: 2 left>", {"items": [{"a": 1}]},
    ]  # fmt: skip
    future.cancel()
    assert tree(future) == "<Future: cancelled>"
    assert tree(asyncio.get_running_loop()).startswith("<")  # type: ignore[union-attr]
    assert tree(stream()) == f"<async generator {where}.stream: not running>"
    assert tree(count()) == f"<generator {where}.count: not running>"
    coroutine = work()
    assert tree(coroutine) == f"<coroutine {where}.work: not running>"
    coroutine.close()


@pytest.mark.parametrize("meta", [type, HostileMeta], ids=["plain class", "hostile metaclass"])
@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        (dict, {"a": 1}, {"a": 1}),
        (list, [1, 2], [1, 2]),
        (tuple, (1, 2), [1, 2]),
        (set, {1}, [1]),
        (frozenset, {1}, [1]),
        (collections.deque, [1], [1]),
        (str, "text", "text"),
        (int, 5, 5),
        (float, 0.5, 0.5),
        (bytes, b"ab", "<2 bytes>"),
        (Decimal, "1.5", "1.5"),
        (object, None, {}),
        (Exception, "bad", {"args": ["bad"]}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_no_code_of_a_class_is_called(base: type, given: Any, expected: Tree, meta: type) -> None:
    """Every method that a snapshot might use raises an error that nothing catches, on the class and its metaclass."""
    class_ = hostile(base, meta=meta)
    if base in (dict, list, set, collections.deque):
        value = base.__new__(class_)
        base.__init__(value, given)
    else:
        value = base.__new__(class_) if base is object else base.__new__(class_, given)
    for shape in (value, [value], {"key": value}, Plain(field=value), (Plain(deep=[value]),)):
        reading = tree(shape)
        json.dumps(plain(reading), allow_nan=False)
    found, by_name = tree(value), variables(value)
    assert found == expected
    assert by_name == (expected if base in (object, Exception) else {})


def test_attributes_of_a_hostile_object_are_read() -> None:
    """Its own `__getattribute__`, `__dict__` and properties hide them from everybody else."""
    hides = hostile(hostile(), __dict__=property(never))
    for class_ in (hostile(total=property(never)), hostile(meta=HostileMeta), hides):
        value = object.__new__(class_)
        object.__setattr__(value, "pin", 1)
        # Read before the assertion: pytest looks at the arguments of what it asserts.
        found, by_name = tree(value), variables(value)
        assert found == by_name == {"pin": 1}


def test_attributes_that_nothing_can_read_are_left_out() -> None:
    """A `__dict__` of the class's own leaves no way to the real one."""
    found = tree(object.__new__(hostile(__dict__=property(never))))
    assert found == "<Hostile>"


def test_a_hostile_key_is_not_hashed_and_not_compared() -> None:
    """A dict's items are walked and never looked up."""

    class Key:
        armed = False

        def __hash__(self) -> int:
            if Key.armed:
                raise Called
            return 1

        __eq__ = never
        __repr__ = never

    value = {Key(): 1, "a": 2}
    several = {Key()}
    Key.armed = True
    assert tree([value, several]) == [{"Key()": 1, "a": 2}, [{}]]


def test_a_hostile_name_of_an_attribute_is_not_hashed() -> None:
    """An instance's `__dict__` may hold names that are no plain text, beside slots and without."""

    class Label(str):
        armed = False

        def __hash__(self) -> int:
            if Label.armed:
                raise Called
            return 1

        __eq__ = never

    class Both(Derived): ...

    values = [Plain(), Both(), Failed(1)]
    for value in values:
        value.__dict__[Label("odd")] = 1
    Label.armed = True
    found = [tree(value) for value in values]
    assert [each["odd"] for each in found if isinstance(each, dict)] == [1, 1, 1]


def test_descriptors_of_the_user_are_not_asked() -> None:
    """Properties, cached properties and data descriptors run code: only what they stored is shown."""

    class Loud:
        __get__ = __set__ = never

    class Holder:
        loud = Loud()
        cost = property(never)

        @functools.cached_property
        def late(self) -> int:
            raise Called

        def __init__(self) -> None:
            self.__dict__["loud"] = "stored"
            self.own = 1

    assert tree(Holder()) == {"loud": "stored", "own": 1}


def test_a_cycle_says_where_it_leads() -> None:
    """An object inside itself is named by its path."""
    one, other = Plain(name="one"), Plain(name="other")
    one.other, other.back, other.others = other, one, [other]  # type: ignore[attr-defined]
    found = tree({"first": one})
    assert found == {
        "first": {
            "name": "one",
            "other": {"name": "other", "back": "<cycle: first>", "others": ["<cycle: first.other>"]},
        }
    }
    assert variables(one)["other"] == {"name": "other", "back": "<cycle: self>", "others": ["<cycle: other>"]}


def test_an_object_that_is_there_twice_is_no_cycle() -> None:
    """It is shown twice."""
    item = Item("A", 1)
    assert tree([item, item, {"again": item}]) == [{"sku": "A", "price": 1}] * 2 + [{"again": {"sku": "A", "price": 1}}]


def test_long_values_are_cut_and_say_so() -> None:
    """50 million characters, 100,000 items, a deep nesting, a number that Python would not write."""
    text = tree("x" * 50_000_000)
    assert text == "x" * 2000 + "… (50,000,000 characters)"
    many = tree(list(range(100_000)))
    assert isinstance(many, list)
    assert many == [*range(200), "<99,800 more>"]
    keys = tree(dict.fromkeys(range(1000), 0))
    assert isinstance(keys, dict)
    assert (len(keys), keys["…"]) == (201, "<800 more>")
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert "16 levels deep" in json.dumps(tree(deep))
    assert tree(10**5000) == "<integer of 16,610 bits>"
    assert len(str(tree({"k" * 10_000: 1}))) < 300


def test_one_snapshot_reads_a_bounded_number_of_values() -> None:
    """Shared lists, nested fourteen times, would be thirty thousand values. The rest is counted."""
    value: Any = [0]
    for _ in range(14):
        value = [value, value]
    limits = Limits(nodes=1000)

    def size(tree: Tree) -> int:
        return 1 + (sum(map(size, tree)) if isinstance(tree, list) else 0)

    found = tree(value, limits)
    assert 1000 <= size(found) <= 1000 + 14 * 200
    assert "more>" in json.dumps(found)


def test_one_reader_reads_many_snapshots() -> None:
    """What it knows of a class does not mix up classes, and each snapshot has a whole budget."""
    reader = Reader(Limits(nodes=3))
    for number in range(5):
        assert reader.tree([number, Item("A", number)]) == [number, {"sku": "A", "…": "<1 more>"}]
        assert reader.tree(Point(1, number)) == {"x": 1, "y": number}


def test_a_class_that_is_gone_leaves_no_trace_in_the_next_one() -> None:
    """Classes are known by id, and an id can be taken again: the reader keeps its classes."""
    reader = Reader()
    for number in range(200):
        made = type(f"Made{number}", (), {"__slots__": (f"slot{number}",)})
        value = made()
        setattr(value, f"slot{number}", number)
        assert reader.tree(value) == {f"slot{number}": number}


def test_a_text_that_utf8_cannot_hold_is_escaped() -> None:
    """A lone surrogate would make the saved file unwritable."""
    found = tree({"\ud800": "a\udfff"})
    assert json.dumps(found, ensure_ascii=False).encode()


def test_the_sandbox_is_not_asked() -> None:
    """A proxy of the SDK's sandbox refuses what it guards, and would fail the replay."""
    from temporalio.worker.workflow_sandbox import SandboxMatcher
    from temporalio.worker.workflow_sandbox._restrictions import RestrictionContext, _RestrictedProxy

    proxy = _RestrictedProxy("it", Plain(a=1), RestrictionContext(), SandboxMatcher(access={"*"}, use={"*"}))
    assert tree([proxy]) == ["<restricted by the sandbox>"]


def test_a_recursion_of_values_ends() -> None:
    """An Enum whose value holds the Enum again is a cycle like any other."""

    class Odd(Enum):
        ONE = 1

    object.__setattr__(Odd.ONE, "_value_", [Odd.ONE])
    assert tree({"a": Odd.ONE}) == {"a": ["<cycle: a>"]}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars | st.binary() | st.datetimes() | st.decimals() | st.uuids() | st.timedeltas(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner)
        | st.builds(lambda value: Plain(value=value), inner)
        | st.builds(Point, inner, inner)
        | st.frozensets(st.text() | st.integers())
    ),
    max_leaves=30,
)


@STEADY
@given(values)
def test_every_tree_is_strict_json(value: object) -> None:
    """NaN and infinities become text, and no surrogate is left."""
    json.dumps(plain(tree(value)), allow_nan=False, ensure_ascii=False).encode()


@STEADY
@given(values, st.integers(1, 80))
def test_a_shown_value_fits_its_width(value: object, width: int) -> None:
    """One line, never longer than asked."""
    assert 1 <= len(shown(tree(value), width)) <= width


def test_a_value_is_shown_as_python_would_write_it() -> None:
    """Short enough for a sentence, with the names of fields."""
    assert shown(tree([Item("A", 5), {"a": None}, True, b"abc"]), 100) == (
        '[Item(sku="A", price=5), {a: None}, True, <3 bytes>]'
    )
    assert shown("x" * 100, 10) == '"xxxxxxxx…'


def test_numbers_that_json_lacks_become_text() -> None:
    """Strict readers refuse NaN."""
    assert plain(tree([math.nan, math.inf, -math.inf])) == ["nan", "inf", "-inf"]


def test_reading_a_value_keeps_nothing_of_it() -> None:
    """A snapshot that held the objects would keep a workflow's memory alive for the whole replay."""
    value = Plain(entries=[Plain(a=1), {"b": Plain()}])
    alive = weakref.ref(value), weakref.ref(value.__dict__["entries"][0])
    reader = Reader()
    kept = reader.variables(value)
    del value
    gc.collect()
    assert [each() for each in alive] == [None, None]
    assert kept == {"entries": [{"a": 1}, {"b": {}}]}

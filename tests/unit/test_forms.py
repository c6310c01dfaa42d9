"""Forms from type hints: what a person gives becomes what the user's own client would send."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import functools
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, RootModel, SecretStr, field_validator, model_validator
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter

from trellis.lab.flights.forms import Form, form_of, handlers_of

T = TypeVar("T")
Sku = NewType("Sku", str)


class Colour(enum.Enum):
    RED = "red"
    BLUE = 3


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass(frozen=True)
class Leg:
    to: str
    """Where it goes."""
    km: Annotated[int, Field(ge=1, le=5000, description="Along the road")] = 3
    at: datetime | None = None
    tags: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Tree:
    value: int
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Box(Generic[T]):
    inside: T


@dataclasses.dataclass
class Fussy:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Spot(NamedTuple):
    x: int
    y: float = 2.5


class Wish(TypedDict):
    what: str
    why: NotRequired[str]


class Traveller(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)

    name: str = Field(alias="fullName", min_length=2, description="Both names")
    age: int = Field(default=30, gt=0)
    site: HttpUrl | None = None
    legs: list[Leg] = []

    @field_validator("name")
    @classmethod
    def _no_numbers(cls, name: str) -> str:
        if any(letter.isdigit() for letter in name):
            raise ValueError("a name has no digits")
        return name

    @model_validator(mode="after")
    def _grown(self) -> Traveller:
        if self.legs and self.age < 18:
            raise ValueError("nobody below 18 travels alone")
        return self


class Names(RootModel[list[str]]):
    pass


class Word(str):
    """A subclass of str that pydantic does not know."""


class Odd:
    """A class of which nothing is known."""


ODD = Odd()


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    bytes: st.binary(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    datetime: st.datetimes() | st.datetimes(timezones=st.just(UTC)),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(),
    uuid.UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Literal["a", 1, True]: st.sampled_from(["a", 1, True]),
    int | None: st.none() | st.integers(),
    int | str: st.integers() | st.text(),
    bool | int | list[str] | None: st.none() | st.booleans() | st.integers() | st.lists(st.text()),
    list[int]: st.lists(st.integers()),
    set[str]: st.sets(st.text()),
    frozenset[int]: st.frozensets(st.integers()),
    tuple[int, str]: st.tuples(st.integers(), st.text()),
    tuple[date, ...]: st.lists(st.dates()).map(tuple),
    collections.deque[int]: st.lists(st.integers()).map(collections.deque),
    dict[str, Decimal]: st.dictionaries(st.text(), st.decimals(allow_nan=False, allow_infinity=False)),
    Mapping[int, bool]: st.dictionaries(st.integers(), st.booleans()),
    Sku: st.text(),
    Word: st.text().map(Word),
    Leg: st.builds(
        Leg, st.text(), st.integers(1, 5000), st.none() | st.datetimes(timezones=st.just(UTC)), st.lists(st.text())
    ),
    Box[int]: st.builds(Box, st.integers()),
    Spot: st.builds(Spot, st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    Wish: st.fixed_dictionaries({"what": st.text()}, optional={"why": st.text()}),
    Names: st.lists(st.text()).map(Names),
    Traveller: st.builds(
        lambda name, age: Traveller.model_validate({"name": name, "age": age}, by_name=True, by_alias=False),
        st.text("abc", min_size=2), st.integers(18, 99),
    ),
    Tree: st.builds(Tree, st.integers(), st.lists(st.builds(Tree, st.integers()))),
    Any: st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
}  # fmt: skip


@functools.cache
def form_for(hint: Any) -> Form:
    """`of`, made once: a hundred examples need one form."""
    return of(hint)


def of(hint: Any, default: Any = ...) -> Form:
    """The form of a function with one argument of this type."""

    def function(value: Any) -> None: ...

    function.__annotations__ = {"value": hint, "return": None}
    if default is not ...:
        function.__defaults__ = (default,)
    return form_of(function)


def wrong(made: Form, raw: Any) -> str:
    """The one sentence about the argument."""
    args, errors = made.read({"value": raw})
    assert args is None
    [(path, sentence)] = errors.items()
    assert path == "value"
    assert sentence.endswith((".", "}."))
    return sentence


@pytest.mark.parametrize("hint", VALUES, ids=str)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_is_shown_is_read_back_as_the_same_value(hint: Any, data: st.DataObject) -> None:
    """For each type: a value, shown, sent as JSON by the page, and read, is equal and of the same class."""
    value = data.draw(VALUES[hint])
    raw = json.loads(json.dumps(form_for(hint).show(value)))
    args, errors = form_for(hint).read(raw)
    assert errors == {}
    assert args == [value]
    assert args is not None
    assert type(args[0]) is type(value)


@pytest.mark.parametrize("hint", VALUES, ids=str)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    raw=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
)
def test_nonsense_becomes_sentences_and_never_an_exception(hint: Any, raw: Any) -> None:
    """Any JSON value may come from a page. It gives arguments, or a sentence for each path."""
    args, errors = form_for(hint).read({"value": raw})
    assert (args is None) == bool(errors)
    assert all(path.startswith("value") and sentence for path, sentence in errors.items())


@pytest.mark.parametrize("converter", [DataConverter.default, pydantic_data_converter], ids=["default", "pydantic"])
def test_what_a_form_gives_is_encoded_as_the_values_of_the_users_own_client(converter: DataConverter) -> None:
    """The payloads are the same bytes, and a worker decodes them to equal values by its hints."""
    cases: list[tuple[Any, Any]] = [
        (Leg, Leg("Ulm", 7, datetime(2026, 1, 31, 12, 30, tzinfo=UTC), ["a"])),
        (Leg | None, None),
        (list[Leg], [Leg("Ulm"), Leg("Bonn", 9)]),
        (dict[str, int], {"a": 1}),
        (Level, Level.HIGH),
        (uuid.UUID, uuid.UUID(int=7)),
        (bytes, b"\x00\xff"),
        (Tree, Tree(1, [Tree(2)])),
    ]
    if converter is pydantic_data_converter:
        cases += [
            (Traveller, Traveller.model_validate({"fullName": "Ada Lovelace", "legs": [{"to": "Ulm"}]})),
            (Decimal, Decimal("12.50")),
            (timedelta, timedelta(minutes=90)),
            (tuple[int, date], (1, date(2026, 1, 31))),
            (Names, Names(["a"])),
            (set[str], {"x"}),
        ]

    async def encoded(value: Any) -> Any:
        return await converter.encode([value])

    for hint, value in cases:
        form = of(hint)
        args, errors = form.read(form.show(value))
        assert errors == {}
        assert args is not None
        payloads = asyncio.run(encoded(args[0]))
        assert payloads == asyncio.run(encoded(value))
        assert asyncio.run(converter.decode(payloads, [hint])) == [value], hint


def test_every_mistake_is_told_at_once_beside_its_field() -> None:
    """Paths lead through groups, lists and mappings; what is right is not complained about."""

    def run(leg: Leg, who: Traveller, prices: dict[str, Decimal], colour: Colour, spot: Spot | None = None) -> None: ...

    args, errors = form_of(run).read(
        {
            "leg": {"to": "Ulm", "km": "9000", "at": "yesterday", "tags": ["a", 3]},
            "who": {"name": "A", "age": "0", "site": None, "legs": [{"to": "x", "km": "1", "at": None, "tags": []}]},
            "prices": [["a", "1.20"], ["b", "cheap"], ["a", "3"]],
            "colour": "",
            "spot": {"x": "", "y": "1"},
        }
    )
    assert args is None
    assert set(errors) == {
        "leg.km", "leg.at", "leg.tags.1", "who.name", "who.age", "prices.1.value", "prices.2.key", "colour", "spot.x",
    }  # fmt: skip
    assert errors["leg.km"] == "Input should be less than or equal to 5000."
    assert errors["prices.2.key"] == "This key is there twice."


def test_a_types_own_checks_are_told_in_its_words() -> None:
    """`__post_init__` of a dataclass and validators of a model speak at the group or at the field."""
    assert of(Fussy).read({"value": {"low": "3", "high": "2"}}) == (None, {"value": "low is above high."})
    raw: dict[str, Any] = {"name": "4da", "age": "20", "site": None, "legs": []}
    assert of(Traveller).read({"value": raw}) == (None, {"value.name": "a name has no digits."})
    young = raw | {"name": "Ada", "age": "12", "legs": [{"to": "x", "km": "1", "at": None, "tags": []}]}
    assert of(Traveller).read({"value": young}) == (None, {"value": "nobody below 18 travels alone."})
    site = raw | {"name": " Ada ", "site": "no address"}
    assert set(of(Traveller).read({"value": site})[1]) == {"value.site"}
    args, _ = of(Traveller).read({"value": site | {"site": "http://a.b"}})
    assert args is not None
    assert (args[0].name, str(args[0].site)) == ("Ada", "http://a.b/")


@pytest.mark.parametrize(
    ("hint", "raw", "says"),
    [
        (int, "1.5", "whole number"),
        (float, "nan", "must be a number"),
        (Decimal, "Infinity", "decimal number"),
        (bool, "yes", "yes or no"),
        (timedelta, "soon", "duration"),
        (timedelta, "", "duration"),
        (bytes, "base64:?", "not base64"),
        (Any, "{", "not JSON"),
        (Any, "NaN", "NaN is not JSON"),
        (Any, "", "JSON value is needed"),
        (list[int], "7", "must be a list"),
        (list[int], ["1"] * 1001, "at most 1,000"),
        (Colour, "9", "Choose one"),
        (int | str, {"case": 7}, "Choose one"),
        (uuid.UUID, "12", "must be a UUID"),
        (set[Any], ["[1]"], "unhashable"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_is_expected(hint: Any, raw: Any, says: str) -> None:
    """The sentence names the kind of value, and nothing is sent."""
    assert says in wrong(of(hint), raw)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90 s", 90),
        ("1h 30m", 5400),
        ("1h30min", 5400),
        ("250 ms", 0.25),
        ("-2 d", -172800),
        ("1.5 h", 5400),
    ],
)
def test_durations_are_typed_as_people_write_them(text: str, seconds: float) -> None:
    """Units may follow each other, and a plain number is seconds."""
    assert of(timedelta).read({"value": text}) == ([timedelta(seconds=seconds)], {})


def test_defaults_are_shown_and_those_that_cannot_be_shown_count_when_nothing_is_given() -> None:
    """A default of another type than its hint, or one made anew each time, stays the code's own business."""

    def run(a: int, b: str = "x", c: str = None, d: Odd = ODD, e: float = 1) -> None: ...  # type: ignore[assignment] # noqa: RUF013

    form = form_of(run)
    assert form.raw() == {"a": "", "b": "x", "c": None, "d": None, "e": "1"}
    args, _ = form.read(form.raw() | {"a": "7"})
    assert args is not None
    assert args == [7, "x", None, ODD, 1.0]
    assert form.read({"a": "7", "b": "y", "c": None, "d": None})[1] == {"e": "This must be a number, such as 2.5."}

    @dataclasses.dataclass
    class Stamped:
        id: uuid.UUID = dataclasses.field(default_factory=uuid.uuid4)

    stamped = of(Stamped)
    assert stamped.raw() == {"value": {"id": None}}
    first, second = stamped.read(stamped.raw())[0], stamped.read(stamped.raw())[0]
    assert first != second


def test_an_argument_without_a_value_is_sent_with_its_default() -> None:
    """The SDK ignores all type hints of a call that has fewer arguments than hints."""

    def run(a: int = 1, b: Sequence[int] = (), c: Sequence[int] = ()) -> None: ...

    assert form_of(run).raw() == {"a": "1", "b": None, "c": None}
    assert form_of(run).read({"a": "1", "b": None, "c": None}) == ([1, (), ()], {})
    assert form_of(run).read({"a": "1", "b": None, "c": ["2"]}) == ([1, (), [2]], {})


def test_labels_limits_and_docs_reach_the_page() -> None:
    """Docstrings of attributes and arguments, descriptions and limits are in the fields."""

    def run(self: Any, leg: Leg, who: Traveller) -> None:
        """Go.

        Args:
            leg: The first part of the way.
        """

    leg, who = form_of(run).to_json()["fields"]
    assert (leg["label"], leg["help"], leg["says"]) == ("leg", "The first part of the way.", "Leg")
    to, km, at, tags = leg["fields"]
    assert to["help"] == "Where it goes."
    assert (km["help"], km["limits"], km["raw"]) == ("Along the road", {"least": "1", "most": "5000"}, "3")
    assert (at["kind"], at["inside"]["kind"], tags["kind"]) == ("optional", "datetime", "list")
    name, age, *_ = who["fields"]
    assert (name["name"], name["help"]) == ("name", "Both names")
    assert (age["limits"], age["raw"]) == ({"above": "0"}, "30")
    json.dumps(form_of(run).to_json())


def test_a_type_that_holds_itself_ends_in_json() -> None:
    """A form is finite, and what lies deeper can still be given."""
    form = of(Tree)
    deep = json.dumps(form.to_json())
    assert len(deep) < 10_000
    value = Tree(1, [Tree(2, [Tree(3, [Tree(4, [Tree(5)])])])])
    assert form.read(form.show(value)) == ([value], {})


def test_unknown_types_and_missing_hints_are_json() -> None:
    """Whatever cannot be drawn is one field of JSON, never a failure."""

    def run(a, b: Odd, c: Sequence[Odd], d: "Missing", *rest: int) -> None: ...  # type: ignore[no-untyped-def,name-defined] # noqa: F821, UP037

    def named(a, b: Odd, c: memoryview, d: T) -> None: ...  # type: ignore[no-untyped-def]

    assert [field["kind"] for field in form_of(named).to_json()["fields"]] == ["json"] * 4
    assert form_of(named).read({"a": "1", "b": '{"x": 1}', "c": "null", "d": "[]"}) == ([1, {"x": 1}, None, []], {})
    assert form_of(run).spread


def test_pydantics_special_types_are_typed_as_text() -> None:
    """Addresses, secrets and paths are read by their own type; a secret's default is not shown."""
    args, errors = of(SecretStr).read({"value": "hush"})
    assert errors == {}
    assert args is not None
    assert args[0].get_secret_value() == "hush"
    assert of(SecretStr, SecretStr("old")).raw() == {"value": None}
    assert "valid URL" in wrong(of(HttpUrl), "nowhere")


@workflow.defn
class Trip:
    """A trip from here to there."""

    @workflow.run
    async def run(self, leg: Leg) -> str:
        return leg.to

    @workflow.signal
    def hurry(self, minutes: int = 5) -> None:
        """Be faster."""

    @workflow.signal(dynamic=True)
    def anything(self, name: str, args: Sequence[RawValue]) -> None: ...

    @workflow.update(description="Change the goal.")
    def turn(self, to: str) -> str:
        return to

    @workflow.query(name="where")
    def position(self) -> str:
        return ""


def test_a_workflow_tells_what_can_be_said_to_it() -> None:
    """Start, signals, updates and queries with their docs; a dynamic one takes a name and JSON."""
    handlers = handlers_of(Trip)
    assert (handlers.run.name, handlers.run.doc) == ("Trip", "A trip from here to there.")
    assert [(one.name, one.doc) for one in handlers.signals] == [("hurry", "Be faster."), (None, "")]
    assert handlers.signals[0].form.raw() == {"minutes": "5"}
    assert handlers.signals[1].form.read({"arguments": ["1", '"x"']}) == ([1, "x"], {})
    assert [(one.name, one.doc) for one in handlers.updates] == [("turn", "Change the goal.")]
    assert [one.name for one in handlers.queries] == ["where"]
    assert handlers.queries[0].form.read({}) == ([], {})

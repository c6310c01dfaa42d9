"""An app is found in a file and checked before a worker gets it; what cannot be flown is one sentence."""

from __future__ import annotations

import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from temporalio import activity, workflow

from tests.apps import trips
from trellis.errors import BadInput
from trellis.flying.app import app_of
from trellis.flying.finding import Found, found_in
from trellis.flying.places import queue_of

Find = Callable[..., Found]


@pytest.fixture
def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Find]:
    """Finds the app in a new file with this text, or in several files of a package."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def find(text: str = "", *, target: str = "", **more: str) -> Found:
        name = f"app_{uuid.uuid4().hex[:8]}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        for other, inside in more.items():
            path = tmp_path / other.replace("__", "/", 1) if "__" in other else tmp_path / other
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".py").write_text(textwrap.dedent(inside))
        return found_in(target or f"{name}.py")

    yield find
    for name in set(sys.modules) - before:
        del sys.modules[name]


HEAD = """
from temporalio import activity, workflow

@workflow.defn
class Trip:
    @workflow.run
    async def run(self) -> None: ...
"""


def sentence(find: Find, *given: Any, **more: Any) -> str:
    with pytest.raises(BadInput) as caught:
        find(*given, **more)
    return str(caught.value)


def test_workflows_and_activities_of_a_file_are_found(find: Find) -> None:
    """Functions, methods of a class without arguments, and methods of an instance that the module holds."""
    found = find(
        HEAD
        + """
@activity.defn(name="reserve")
async def book() -> None: ...

class Bank:
    @activity.defn
    def pay(self) -> None: ...

class Post:
    def __init__(self, url: str) -> None: ...
    @activity.defn
    async def mail(self) -> None: ...

class Other:
    def __init__(self, url: str) -> None: ...
    @activity.defn
    async def tell(self) -> None: ...

post = again = Post("https://x")
"""
    )
    assert found.app.workflow_types == ("Trip",)
    assert sorted(found.app.activity_types) == ["mail", "pay", "reserve"]
    assert found.app.threaded == ("pay",)
    assert found.app.in_words().startswith("workflow Trip; activities ")
    [note] = found.notes
    assert "tell of Other" in note
    assert "Make an instance" in note


def test_a_package_and_a_dotted_name_are_found_too(find: Find) -> None:
    """A package that holds nothing itself is searched module by module."""
    files = {
        "shop__workflows": HEAD,
        "shop__jobs": HEAD.partition("@workflow")[0] + "@activity.defn\nasync def job(): ...",
    }
    for target in ("shop", "./shop"):
        found = find(target=target, shop____init__="", **files)
        assert (found.name, found.app.workflow_types, found.app.activity_types) == ("shop", ("Trip",), ("job",))
    assert find(target="shop.jobs").app.activity_types == ("job",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "has no workflow and no activity"),
        ("def f(:\n  pass", "line 1: "),
        ("\nimport not_there_at_all", "line 2: ModuleNotFoundError: No module named 'not_there_at_all'."),
        ("\n\n1 / 0", "line 3: ZeroDivisionError: division by zero."),
        ("import sys\nsys.exit(3)", "line 2: the module ends the process"),
        ("import json\njson.loads('{')", "line 2: JSONDecodeError"),
    ],
)
def test_a_file_that_cannot_be_flown_is_one_sentence_with_its_line(find: Find, text: str, says: str) -> None:
    """Python's own error, and where it is in the user's file, not in a library."""
    assert says in sentence(find, text)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nowhere.py", "There is no file nowhere.py."),
        ("no.such.module", "There is no module no.such.module."),
        ("two words", "is no Python file, and no name of a module."),
        ("my-app.py", "cannot be imported by its name"),
        ("json.py", "has the name of another module, json"),
    ],
)
def test_a_target_that_is_no_module_is_one_sentence(find: Find, tmp_path: Path, target: str, says: str) -> None:
    """Missing files, and names that Python could not import."""
    for name in ("my-app.py", "json.py"):
        (tmp_path / name).write_text("x = 1\n")
    assert says in sentence(find, target=target)


@workflow.defn(name="Trip")
class AnotherTrip:
    @workflow.run
    async def run(self) -> None: ...


class Bank:
    @activity.defn
    def refund(self) -> None: ...


@activity.defn(name="book")
async def another_book() -> None: ...


@pytest.mark.parametrize(
    ("workflows", "activities", "says"),
    [
        ([], [], "There is nothing to fly"),
        ([trips.Leg], [], "Leg is no workflow class: it has no @workflow.defn."),
        ([trips.book], [], "book is no workflow class"),
        (trips.Trip, [], r"workflows must be a list, such as workflows=\[Trip\]."),
        ([], trips.book, r"activities must be a list, such as activities=\[book\]."),
        ([], [trips.Leg("x").__repr__], "is no activity: it has no @activity.defn."),
        ([], ["book"], "is no activity"),
        ([], [MagicMock()], "is no activity"),
        ([], [Bank], r"Bank is a class. Give the methods of an instance"),
        ([], [Bank.refund], r"Give it as Bank\(...\).refund."),
        ([trips.Trip, AnotherTrip], [], "Trip and AnotherTrip have the same workflow type, Trip."),
        ([], [trips.book, another_book], "book and another_book have the same activity type, book."),
    ],
)
def test_what_is_no_workflow_or_no_activity_is_one_sentence(workflows: Any, activities: Any, says: str) -> None:
    """The sentence names the class or function, and what is missing."""
    with pytest.raises(BadInput, match=says):
        app_of(workflows, activities)


def test_an_app_is_checked_before_a_workflow_is_started() -> None:
    """An unknown type and a wrong number of arguments are refused; defaults are added."""
    app = app_of([trips.Trip, trips.Trip], [trips.book, trips.pay, Bank().refund])
    assert app.workflow_types == ("Trip",)
    assert app.activity_types == ("book", "pay", "refund")
    assert queue_of(app) == "trips"
    assert app.completed("Trip", [{}]) == [{}, False]
    assert app.completed("Trip", [{}, True]) == [{}, True]
    for type_, args, says in (("Tour", [], "Known are Trip"), ("Trip", [], "plan"), ("Trip", [1, 2, 3], "too many")):
        with pytest.raises(BadInput, match=says):
            app.completed(type_, args)

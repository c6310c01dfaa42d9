"""Invariants of one's own, without servers: what a module may hold, what a check may answer, what is said of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trellis.audit import Report, invariant, invariants_of
from trellis.audit.own import Frames, check_own
from trellis.cli.printing import report_json
from trellis.errors import BadInput, DatabaseUnavailable

WORKFLOWS = pd.DataFrame({"order_id": ["trip-1", "trip-2"], "state": ["COMPLETED", "FAILED"], "seconds": [1.5, np.nan]})


class Given(Frames):
    """Frames that are there already. A missing one cannot be read."""

    def __init__(self, **frames: pd.DataFrame) -> None:
        self._read = frames

    async def get(self, name: str) -> pd.DataFrame:
        if name not in self._read:
            raise DatabaseUnavailable("Postgres does not answer.")
        return self._read[name]


async def found(*checks: Callable[..., Any], **frames: pd.DataFrame) -> Report:
    """The report of an audit that checked only these."""
    report = Report(orders=1, histories=1)
    own = [check.__trellis_invariant__ for check in checks]  # type: ignore[attr-defined]
    await check_own(own, Given(**{"workflows": WORKFLOWS, **frames}), report, lambda number: None)
    return report


async def answering(answer: Any) -> Report:
    @invariant("it holds")
    def check(workflows: pd.DataFrame) -> Any:
        return answer(workflows) if callable(answer) else answer

    return await found(check)


async def test_bad_rows_are_violations_with_their_values() -> None:
    """One violation a row: its id, the invariant's name, the row as evidence, all as JSON has it."""
    report = await answering(lambda workflows: workflows[workflows["state"] == "FAILED"])
    (violation,) = report.violations
    assert (violation.order_id, violation.invariant) == ("trip-2", "it holds")
    assert violation.evidence == {"order_id": "trip-2", "state": "FAILED", "seconds": None}
    json = report_json(report)
    assert json["verdict"] == "VIOLATED"
    assert json["violations_by_invariant"] == {"it holds": 1}
    assert set(json["violations"][0]) == {"order_id", "invariant", "sentence", "evidence"}


async def test_a_column_called_sentence_says_what_is_wrong() -> None:
    """Each row may say it in words of its own. Without an id's column, the index names it."""
    rows = pd.DataFrame({"sentence": ["no hotel"]}, index=["trip-9"])
    (violation,) = (await answering(rows)).violations
    assert (violation.order_id, violation.sentence) == ("trip-9", "no hotel")


@pytest.mark.parametrize("ids", [["trip-1"], {"trip-1"}, ("trip-1",), pd.Series(["trip-1"]), np.array(["trip-1"])])
async def test_a_list_of_ids_names_what_is_wrong(ids: Any) -> None:
    """Any kind of list."""
    assert [one.order_id for one in (await answering(ids)).violations] == ["trip-1"]


@pytest.mark.parametrize(
    "answer", [True, np.True_, (True, "all is well"), [], pd.DataFrame(), pd.Series([], dtype=str)]
)
async def test_nothing_wrong_is_clean(answer: Any) -> None:
    """True, or nothing in a frame or list."""
    report = await answering(answer)
    assert report.clean
    assert report.own == 1


@pytest.mark.parametrize(
    ("answer", "word"), [(False, "it holds"), (np.False_, "it holds"), ((False, "2 of 3"), "2 of 3")]
)
async def test_false_is_one_violation_with_the_sentence_that_came(answer: Any, word: str) -> None:
    """A sentence may come with it."""
    (violation,) = (await answering(answer)).violations
    assert word in violation.sentence


@pytest.mark.parametrize(
    ("answer", "word"),
    [(None, "NoneType"), ("trip-1", "str"), (3, "int"), (lambda workflows: workflows["state"] == "FAILED", "mask"),
     (lambda workflows: 1 / 0, "ZeroDivisionError"), (lambda workflows: workflows["nothing"], "nothing"),
     (lambda workflows: exit(3), "SystemExit"), ((WORKFLOWS.iloc[:0], "none has a hotel"), "frame")],
)  # fmt: skip
async def test_a_broken_check_is_said_and_stops_no_other(answer: Any, word: str) -> None:
    """What raises, and what answers something else, could not be checked; the next one is."""

    @invariant("first")
    def broken(workflows: pd.DataFrame) -> Any:
        return answer(workflows) if callable(answer) else answer

    @invariant("second")
    def second(workflows: pd.DataFrame) -> bool:
        return False

    report = await found(broken, second)
    assert [(one.invariant, word in one.error) for one in report.broken] == [("first", True)]
    assert dict(report.found) == {"second": 1}
    alone = await found(broken)
    assert not alone.clean
    assert report_json(alone)["verdict"] == "BROKEN"


async def test_a_frame_that_cannot_be_read_breaks_its_checks_only() -> None:
    """A check of flights is broken where there is no book; one of workflows goes on."""

    @invariant("flights")
    def of_flights(flights: pd.DataFrame) -> bool:
        return True

    @invariant("workflows")
    def of_workflows(workflows: pd.DataFrame) -> bool:
        return True

    report = await found(of_flights, of_workflows)
    assert [one.invariant for one in report.broken] == ["flights"]
    assert "Postgres" in report.broken[0].error
    assert report.own == 1


async def test_a_check_of_empty_frames_proves_nothing() -> None:
    """The audit is void then, and names the check. One frame with rows is enough."""

    @invariant("nobody is lost")
    def check(flights: pd.DataFrame, workflows: pd.DataFrame) -> bool:
        return True

    void = await found(check, flights=pd.DataFrame(), workflows=WORKFLOWS.iloc[:0])
    assert (void.void, void.clean, void.nothing_to_check) == (True, False, ["nobody is lost"])
    assert report_json(void)["verdict"] == "VOID"
    assert not (await found(check, flights=pd.DataFrame())).void


async def test_a_check_cannot_change_the_frame_of_the_next() -> None:
    """Each check has copies."""

    @invariant("first")
    def first(workflows: pd.DataFrame) -> bool:
        workflows["state"] = "LOST"
        return True

    @invariant("second")
    def second(workflows: pd.DataFrame) -> pd.DataFrame:
        return workflows[workflows["state"] == "LOST"]

    assert (await found(first, second)).clean


async def test_of_very_many_violations_all_are_counted_and_some_kept() -> None:
    """Memory does not grow with them."""
    report = await answering([f"trip-{number}" for number in range(2500)])
    assert (report.found["it holds"], len(report.violations)) == (2500, 1000)


def test_what_cannot_be_an_invariant_is_refused_in_words() -> None:
    """An unknown frame, no frame, a coroutine, no sentence."""
    with pytest.raises(BadInput, match="'flight', and there is no such frame"):
        invariant("x")(lambda flight: True)
    with pytest.raises(BadInput, match="asks for no frame"):
        invariant("x")(lambda: True)
    with pytest.raises(BadInput, match="coroutine"):

        @invariant("x")
        async def check(flights: pd.DataFrame) -> bool:
            return True

    with pytest.raises(BadInput, match="what must hold"):
        invariant(" ")


def test_an_argument_with_a_default_is_no_frame() -> None:
    """A check may have settings of its own."""

    @invariant("x")
    def check(flights: pd.DataFrame, limit: int = 3) -> bool:
        return True

    assert check.__trellis_invariant__.frames == ("flights",)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def path_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a module of checks joins the path of the process. No other test must see it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_a_file_gives_its_invariants_in_order(tmp_path: Path) -> None:
    """Also a file with the name of an installed module, and one that imports its neighbour."""
    (tmp_path / "trips_in_words.py").write_text("NAME = 'no trip without a hotel'\n")
    file = tmp_path / "json.py"
    file.write_text(
        "from trellis.audit import invariant\nfrom trips_in_words import NAME\n"
        "@invariant(NAME)\ndef one(flights): return True\n"
        "@invariant('two')\ndef two(orders, events): return True\n"
    )
    assert [(one.name, one.frames) for one in invariants_of(str(file))] == [
        ("no trip without a hotel", ("flights",)), ("two", ("orders", "events")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "no invariant"), ("import nothing_of_this_name", "fails on import"), ("1 +", "SyntaxError"),
     ("exit(1)", "SystemExit"),
     ("from trellis.audit import invariant\n@invariant('x')\ndef one(boat): return True", "'boat'"),
     ("from trellis.audit import invariant\n@invariant('x')\ndef one(flights): return True\n"
      "@invariant('x')\ndef two(flights): return True", "two invariants called 'x'")],
)  # fmt: skip
def test_a_module_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    """Nothing in it, an error in it, an unknown frame, the same name twice."""
    file = tmp_path / "my_checks.py"
    file.write_text(text)
    with pytest.raises(BadInput, match=word) as refused:
        invariants_of(str(file))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["no_such_module_of_checks", "nowhere/checks.py"])
def test_a_module_that_is_not_there_is_said(name: str) -> None:
    """By its name or its file."""
    with pytest.raises(BadInput, match="There is no"):
        invariants_of(name)

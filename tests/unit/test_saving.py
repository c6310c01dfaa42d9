"""A recording as its page draws it, redacted, and beside another one."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.recordings import FILE, START, address, line, recorded, variables
from tests.unit.test_pages import data_of
from trellis.cli.replay import replay as command
from trellis.errors import BadInput
from trellis.replay.beside import part
from trellis.replay.redact import REDACTED, Redactor
from trellis.replay.saving import TYPE, page_json, save
from trellis.replay.steps import Broken, Command, Line
from trellis.replay.values import Fields, Tree


def follow(changes: list[list[Any]], value: Any) -> Any:
    """The variables after one step's changes, as the page works them out."""
    for path, *new in changes:
        copy = value = dict(value)
        for key in path[:-1]:
            copy[key] = dict(copy[key]) if isinstance(copy[key], dict) else list(copy[key])
            copy = copy[key]
        if not new and isinstance(copy, list):
            del copy[path[-1] :]
        elif not new:
            del copy[path[-1]]
        elif isinstance(copy, list) and path[-1] == len(copy):
            copy.append(new[0])
        else:
            copy[path[-1]] = new[0]
    return value


def named(tree: Tree) -> Any:
    """The tree as the page has it: objects carry the name of their class."""
    if isinstance(tree, dict):
        own = {TYPE: tree.type} if isinstance(tree, Fields) else {}
        return own | {key: named(value) for key, value in tree.items()}
    return [named(value) for value in tree] if isinstance(tree, list) else tree


def test_the_differences_give_the_variables_of_every_step() -> None:
    """Values that come, change, grow, shrink and go are all there again, step by step."""
    page = page_json(recorded(120))
    now: Any = {}
    for number, step in enumerate(page["runs"][0]["steps"], 1):
        now = follow(step["changed"], now)
        assert now == {name: named(value) for name, value in variables(number).items()}


def test_the_page_is_plain_json_and_says_what_each_step_did() -> None:
    """Lines with how often each ran, waits, commands with their input, what woke it with the event's details."""
    page = json.loads(json.dumps(page_json(recorded(3)), allow_nan=False))
    step = page["runs"][0]["steps"][1]
    place = {index: tuple(one) for index, one in enumerate(page["lines"])}
    file = "workflows/order.py"
    assert [(place[index], times) for index, times in step["lines"]] == [
        ((file, 10, "Order.run"), 1), ((file, 11, "Order.run"), 1), ((file, 12, "Order.review"), 3),
    ]  # fmt: skip
    assert [[task, [place[index][1] for index in frames]] for task, frames in step["waits"]] == [["run", [10, 12]]]
    (command,) = step["commands"]
    assert (command["kind"], command["name"], place[command["line"]][1]) == ("activity", "charge", 12)
    assert command["input"][0]["amount"] == 25
    assert step["woken"] == [
        {
            "words": "the answer of `charge`", "event": 5,
            "details": {"result": [{"charged": True, "city": "Springfield"}]},
        }
    ]  # fmt: skip
    assert "the answer of `charge`" in step["says"]


def test_paths_of_the_machine_stay_out_of_the_page() -> None:
    """A file is named from the folder that holds all of them: a whole path tells who saved it."""
    page = page_json(recorded(3))
    assert "somebody" not in json.dumps(page)
    assert list(page["runs"][0]["files"]) == ["workflows/order.py"]


def test_a_click_on_an_event_goes_to_the_step_that_it_belongs_to() -> None:
    """What a task wrote belongs to the step that asked for it, and what came from outside to the step that it woke."""
    events = page_json(recorded(3))["runs"][0]["events"]
    completed, scheduled, started, asked = events[4:8]
    assert [one["step"] for one in (completed, scheduled, started)] == [1, 1, 1], "they woke the second step"
    assert asked["step"] == 1, "the second step asked for it"
    assert [one.get("stops") for one in events[:4]] == [None, None, [0, 0], None]


def test_numbers_that_a_browser_cannot_hold_become_text() -> None:
    """NaN is no JSON, and a whole number beyond 2**53 would lose its last digits."""

    def change(_: int, given: dict[str, Any]) -> None:
        given["variables"] = {"big": 2**60, "nan": float("nan"), "yes": True}

    (step,) = page_json(recorded(1, change=change))["runs"][0]["steps"]
    assert {path[0]: value for path, value in step["changed"]} == {"big": str(2**60), "nan": "nan", "yes": True}


def test_children_and_earlier_runs_are_tabs_of_one_page() -> None:
    """Each run is there once, however the recordings refer to each other."""
    main, child, before = recorded(3), recorded(2, "shipping-1"), recorded(4)
    main.children = (child,)
    main.before, before.after = before, main
    page = page_json(main)
    assert [(run["title"], len(run["steps"])) for run in page["runs"]] == [
        ("Order", 3), ("shipping-1", 2), ("1 run before", 4),
    ]  # fmt: skip
    assert page["sides"] == [[0, 1, 2]]


def test_trouble_shows_both_sides_and_the_line() -> None:
    """Code that no longer fits: the last good step is there, and what history and code say."""
    recording = recorded(2)
    recording.trouble = "The code does not fit this history at event 9."
    recording.broken = Broken(9, "activity `validate` scheduled", "timer of 5 s", line(50))
    page = page_json(recording)
    assert page["runs"][0]["trouble"] == recording.trouble
    broken = page["runs"][0]["broken"]
    assert (broken["event"], broken["history"], broken["code"]) == (9, "activity `validate` scheduled", "timer of 5 s")
    assert page["lines"][broken["line"]][1] == 50


def test_a_recording_without_steps_can_be_saved(tmp_path: Path) -> None:
    """A history cut short has events and perhaps a sentence, and no step."""
    recording = recorded(0)
    recording.trouble = "The history has no workflow task."
    page: Any = data_of(save(recording, tmp_path / "order.html").read_text("utf-8"))
    assert page["runs"][0]["steps"] == []
    assert page["runs"][0]["trouble"] == recording.trouble


def test_books_are_sorted_by_time_and_may_be_frames() -> None:
    """Rows are dicts or a DataFrame; each has its time under `at`."""
    rows = [
        {"at": START + timedelta(seconds=2), "entry": "refund", "amount": None},
        {"at": START, "entry": "charge", "amount": 25.0},
    ]
    for given in (rows, pd.DataFrame(rows)):
        (book,) = page_json(recorded(1), books={"provider": given})["books"]
        assert book["columns"] == ["entry", "amount"]
        assert [row[1:] for row in book["rows"]] == [["charge", 25.0], ["refund", None]]
        assert book["rows"][0][0] == START.timestamp() * 1000
    with pytest.raises(BadInput, match="no time under 'at'"):
        page_json(recorded(1), books={"provider": [{"entry": "charge"}]})


# --- redaction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["city", "CITY", "c?ty", "address.city", "addr*.city", re.compile("ci.y")])
def test_a_redacted_value_is_nowhere_in_the_file(tmp_path: Path, pattern: str | re.Pattern[str]) -> None:
    """Variables, inputs, details of events, sentences and books: the value is in none of them."""

    def change(number: int, given: dict[str, Any]) -> None:
        given["variables"]["note"] = "to Springfield, soon"
        given["variables"]["address"] = address("Shelbyville" if number > 2 else "Springfield")

    books = {"ledger": [{"at": START, "why": "moved to Shelbyville"}]}
    file = save(recorded(4, change=change), tmp_path / "order.html", redact=[pattern], books=books)
    text = file.read_text("utf-8")
    assert "Springfield" not in text
    assert "Shelbyville" not in text
    page: Any = data_of(text)
    first = {path[0]: value for path, value in page["runs"][0]["steps"][0]["changed"]}
    assert first["address"] == {TYPE: "Address", "line1": "1 Main Street", "city": REDACTED}
    assert first["note"] == f"to {REDACTED}, soon"
    assert not any(path[0] == "address" for step in page["runs"][0]["steps"][1:] for path, *_ in step["changed"]), (
        "what is redacted does not show that it changed"
    )


def test_all_below_a_field_and_numbers_are_redacted_by_their_names() -> None:
    """A whole object may be named; a number is replaced under its name only."""
    page = page_json(recorded(2), redact=("address", "amount"))
    text = json.dumps(page)
    assert "1 Main Street" not in text
    assert page["runs"][0]["steps"][0]["commands"][0]["input"][0]["amount"] == REDACTED
    assert '"tries": 1' in text


def test_a_redacted_number_is_in_no_sentence() -> None:
    """A sentence tells what a variable was set to. It tells so of a redacted number, too, without the number."""

    def change(number: int, given: dict[str, Any]) -> None:
        given["variables"]["amount"] = 43210 + number
        given["commands"] = [Command("complete", None, {"amount": 43210 + number})]

    recording = recorded(3, change=change)
    assert "43212" in recording.explain()
    page = page_json(recording, redact=["amount"])
    assert "4321" not in json.dumps(page)
    assert "completed the workflow" in page["runs"][0]["steps"][1]["says"]


def test_a_value_that_was_cut_off_leaves_no_beginning() -> None:
    """A sentence cuts long values. The beginning of a secret would be in it."""
    redactor = Redactor(["token"])
    redactor.note({"token": "abcdefghijklmnop"})
    assert redactor.text("set token to abcdefgh… and more") == f"set token to {REDACTED}… and more"
    assert redactor.text("abc… is short") == "abc… is short"


def test_what_names_no_field_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """A mistake in a pattern must not end in a file with the secret in it."""
    for wrong in ("", "  ", 3):
        with pytest.raises(BadInput, match="names no field"):
            save(recorded(1), tmp_path / "order.html", redact=[wrong])  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_source_code_is_not_redacted() -> None:
    """The docs say so: a secret in the code is in the file."""
    (run,) = page_json(recorded(1), redact=["*"])["runs"]
    assert "of the order" in run["files"]["workflows/order.py"]


# --- side by side ----------------------------------------------------------------------------------------------


def test_two_recordings_part_at_the_first_step_that_differs() -> None:
    """Another command, another wait, another waking: the step and both sides in words."""

    def other(number: int, given: dict[str, Any]) -> None:
        if number == 3:
            given["commands"] = [Command("timer", "5", None, {"seconds": 5}, line(12))]

    found = part(recorded(5), recorded(5, "order-2", change=other))
    assert found.step == 3
    assert found.words == (
        "They part at step 3. order-1 asks for activity charge; order-2 asks for timer 5."
    )  # fmt: skip


def test_moved_lines_and_other_values_do_not_part_two_recordings() -> None:
    """Two orders have other values, and an edit moves lines. That alone is no difference."""

    def moved(_: int, given: dict[str, Any]) -> None:
        given["waits"] = [
            type(wait)(wait.task, tuple(Line(FILE, at.line + 7, at.function) for at in wait.frames))
            for wait in given["waits"]
        ]
        given["variables"]["address"] = address("Shelbyville")

    found = part(recorded(4), recorded(4, "order-2", change=moved))
    assert found.step is None


def test_a_recording_that_goes_on_parts_after_the_end_of_the_other(tmp_path: Path) -> None:
    """The longer one is named. The file holds both as two sides."""
    found = part(recorded(4), recorded(6, "order-2"))
    assert (found.step, found.words) == (5, "They part at step 5: only order-2 goes on.")
    page: Any = data_of(
        save(recorded(4), tmp_path / "both.html", beside=recorded(6, "order-2")).read_text("utf-8")
    )  # fmt: skip
    assert page["sides"] == [[0], [1]]
    assert page["parted"]["step"] == 5


def test_the_command_writes_the_same_file(tmp_path: Path) -> None:
    """`trellis replay --html` saves a history with its child and its code, and without what is to be redacted."""
    history = Path(__file__).parents[1] / "replay" / "histories" / "calm.json"
    command(file=history, html=tmp_path / "order.html", redact=["line1"])
    text = (tmp_path / "order.html").read_text("utf-8")
    assert len(text.encode()) <= 1_000_000
    page: Any = data_of(text)
    assert [run["type"] for run in page["runs"]] == ["OrderWorkflow", "ShippingWorkflow"]
    assert "class OrderWorkflow" in page["runs"][0]["files"]["trellis/workflows/order.py"]
    assert str(Path(__file__).parents[2]) not in text
    command(file=history, html=tmp_path / "whole.html")
    assert "1 Main Street" in (tmp_path / "whole.html").read_text("utf-8")
    assert "1 Main Street" not in text

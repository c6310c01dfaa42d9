"""Recordings: steps, differences and whole copies, the table, JSON, and the sentences."""

from __future__ import annotations

import json
import math
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.steady import STEADY
from trellis.errors import BadInput
from trellis.replay.changes import same
from trellis.replay.explain import STOPS, command_words, waiting_at
from trellis.replay.recording import Broken, Command, Event, Line, Recorder, Recording, Wait, Woken
from trellis.replay.values import GONE, Fields, Tree

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FILE = "/home/user/shop/order.py"
RUN, FULFIL = Line(FILE, 120, "OrderWorkflow.run"), Line(FILE, 165, "OrderWorkflow._fulfil")


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def recorder(events: int, id_: str = "order-7") -> Recorder:
    return Recorder(id_, f"run-{id_}", "OrderWorkflow", [Event(n + 1, at(n), "X", "x") for n in range(events)])


def step(to: Recorder, event: int, variables: dict[str, Tree], **other: Any) -> None:
    """One step, at one second for each event."""
    nothing: dict[str, Any] = {"woken_by": [], "lines": None, "waits": [], "commands": []}
    to.step(event=event, at=at(event - 1), variables=variables, **{**nothing, **other})


def an_order() -> Recording:
    """Three steps: two at one workflow task, since a local activity's marker came between."""
    of = recorder(12)
    progress = Fields("Progress", {"state": "RECEIVED"})
    step(
        of, 3, {"_progress": progress, "_round": 0},
        woken_by=[Woken("start", "the workflow's start", 1)],
        lines=[RUN, FULFIL, RUN],
        waits=[Wait("run", (RUN,)), Wait("_fulfil", (RUN, FULFIL))],
        commands=[Command("activity", "charge", [{"amount": 5}], {"id": "1"}, FULFIL)],
    )  # fmt: skip
    step(
        of, 9, {"_progress": Fields("Progress", {"state": "CHARGED"}), "_round": 0, "_rate": math.nan},
        woken_by=[Woken("activity resolved", "the answer of `charge`", 8)],
        lines=[FULFIL], lines_cut=4,
        waits=[Wait("run", (RUN, FULFIL))],
        commands=[Command("child workflow", "ShippingWorkflow", None, {"id": "shipping-7-1"}, FULFIL)],
    )  # fmt: skip
    step(
        of, 9, {"_progress": Fields("Progress", {"state": "CHARGED"}), "_round": 1},
        woken_by=[Woken("local activity resolved", "the answer of `note`", 9)],
        commands=[Command("complete", None, {"state": "DONE"})],
    )  # fmt: skip
    return of.finish({FILE: "text"})


def test_a_step_knows_what_changed() -> None:
    """New, changed and gone variables by path, against the step before."""
    first, second, third = an_order().steps
    assert list(first.changed) == ["_progress", "_round"]
    assert dict(second.changed) == {"_progress.state": "CHARGED", "_rate": pytest.approx(math.nan, nan_ok=True)}
    assert dict(third.changed) == {"_round": 1, "_rate": GONE}


@STEADY
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=4)),
        min_size=1,
        max_size=130,
    )
)
def test_the_variables_of_each_step_come_back(snapshots: list[dict[str, Tree]]) -> None:
    """Whole copies and differences give what was recorded, whichever step is asked for, before the end and after."""
    of = recorder(len(snapshots))
    for number, variables in enumerate(snapshots, 1):
        step(of, number, variables)
        now = of.recording
        assert same(dict(now.variables(number)), variables)
    recording = of.finish({})
    assert [dict(found) for _, found in recording.snapshots()] == snapshots
    assert [dict(recording.variables(each)) for each in recording.steps] == snapshots


def test_the_state_at_an_event_is_that_of_the_last_step_up_to_it() -> None:
    """Between two steps the workflow stands still; of two at one event the later counts."""
    recording = an_order()
    assert [recording.at(event).number for event in (3, 4, 8, 9, 12)] == [1, 1, 1, 3, 3]


@pytest.mark.parametrize(
    ("event", "sentence"),
    [(2, "had not run at event 2. Its first step is at event 3"), (0, "no event 0"), (13, "has 12 events")],
)
def test_an_event_without_a_step_is_refused(event: int, sentence: str) -> None:
    """The sentence says which events there are."""
    with pytest.raises(BadInput, match=sentence):
        an_order().at(event)


@pytest.mark.parametrize("number", [0, 4, -1])
def test_a_step_that_is_not_there_is_refused(number: int) -> None:
    """For its variables as for its sentence."""
    recording = an_order()
    for ask in (recording.variables, recording.explain):
        with pytest.raises(BadInput, match="steps 1 to 3"):
            ask(number)


def test_a_recording_without_steps_says_so() -> None:
    """A history whose code cannot be found has events only."""
    recording = recorder(3).finish({}, "There is no class for it.")
    assert recording.frame().empty
    assert recording.to_json()["steps"] == []
    assert recording.explain().endswith("There is no class for it.")
    for ask in (lambda: recording.at(1), lambda: recording.explain(1), lambda: recording.variables(1)):
        with pytest.raises(BadInput):
            ask()


def test_the_table_has_the_types_it_names() -> None:
    """Also when it is empty, so that two tables can be joined."""
    frame, empty = an_order().frame(), recorder(0).recording.frame()
    assert list(frame.dtypes) == list(empty.dtypes)
    assert str(frame.dtypes["at"]) == "datetime64[us, UTC]"
    assert frame["step"].tolist() == [1, 2, 3]
    assert frame["seconds"].tolist() == [2.0, 8.0, 8.0]
    assert frame["lines"].tolist() == [3, 5, pd.NA]
    assert frame["line"].tolist() == [120, 165, pd.NA]
    assert frame["function"].tolist()[:2] == ["OrderWorkflow.run", "OrderWorkflow._fulfil"]
    assert frame["waits"].tolist() == [2, 1, 0]
    assert frame["waiting"][0] == "order.py:120 in `run`; order.py:120 in `run` (within `_fulfil`, order.py:165)"
    assert frame["commands"][0] == "asked for the activity `charge`"
    assert frame["changed"].tolist() == ["_progress, _round", "_progress.state, _rate", "_round, _rate"]


def test_the_json_has_the_form_of_the_command_line() -> None:
    """Strict JSON; one entry of `waits` for each frame, the outermost first; all variables and what changed."""
    recording = an_order()
    found = json.loads(json.dumps(recording.to_json(), allow_nan=False))
    assert found["workflow_id"] == "order-7"
    first, second, third = found["steps"]
    assert set(first) == {"event", "at", "woken_by", "waits", "commands", "changed", "variables"}
    assert [(wait["task"], wait["line"]) for wait in first["waits"]] == [
        ("run", 120),
        ("_fulfil", 120),
        ("_fulfil", 165),
    ]
    assert first["waits"][0] == {"task": "run", "file": FILE, "line": 120, "function": "OrderWorkflow.run"}
    assert first["at"] == "2026-01-02T03:04:07+00:00"
    assert first["woken_by"] == [{"kind": "start", "words": "the workflow's start", "event": 1}]
    assert first["commands"] == [
        {
            "kind": "activity", "name": "charge", "input": [{"amount": 5}], "options": {"id": "1"},
            "asked_at": {"file": FILE, "line": 165, "function": "OrderWorkflow._fulfil"},
        }
    ]  # fmt: skip
    assert second["changed"] == {"_progress.state": "CHARGED", "_rate": "nan"}
    assert third["changed"] == {"_round": 1, "_rate": "<gone>"}
    assert third["variables"] == {"_progress": {"state": "CHARGED"}, "_round": 1}


def test_a_chain_of_runs_and_its_children_are_in_the_json_once() -> None:
    """Seen from the middle of a chain: what came before and after, each in its direction, and no circle."""
    first, middle, last, child = (recorder(1, id_).finish({}) for id_ in ("a", "b", "c", "child"))
    middle.before, middle.after, first.after, last.before = first, last, middle, middle
    middle.children = (child,)
    found = middle.to_json()
    assert found["before"]["workflow_id"] == "a"
    assert found["after"]["workflow_id"] == "c"
    assert found["before"]["before"] is None
    assert found["after"]["after"] is None
    assert [each["workflow_id"] for each in found["children"]] == ["child"]
    assert "It goes on as the run run-c." in middle.explain()


def test_where_the_code_does_not_fit_is_told_once() -> None:
    """Both sides and the line; in the JSON too."""
    broken = Broken(12, "activity `validate` scheduled", "timer of 5 s", FULFIL)
    recording = recorder(12).finish({}, broken=broken)
    assert recording.to_json()["broken"]["line"]["line"] == 165
    words = recording.explain()
    assert words.count("activity `validate` scheduled") == 1
    assert "at event 12" in words
    assert "order.py:165" in words
    told = recorder(12).finish({}, "The code does not fit: timer of 5 s.", broken)
    assert told.explain().count("timer of 5 s") == 1


def test_a_recording_explains_itself() -> None:
    """One sentence for each step, for somebody who does not know the code; what a stop is, is said once."""
    recording = an_order()
    heading, stops, _, first, second, third = recording.explain().splitlines()
    assert heading == "OrderWorkflow order-7: 3 steps, 12 events, 11.0 s."
    assert stops == STOPS
    assert first == (
        "Event 3, after 2.00 s: woken by the workflow's start; began with 2 variables; "
        "asked for the activity `charge`; now 2 tasks wait, "
        "at order.py:120 in `run` and order.py:120 in `run` (within `_fulfil`, order.py:165)."
    )
    assert second == (
        'Event 9, after 8.00 s: woken by the answer of `charge`; set `_progress.state` to "CHARGED" and `_rate` '
        "to nan; asked for the child workflow `shipping-7-1`; "
        "now waits at order.py:120 in `run` (within `_fulfil`, order.py:165)."
    )
    assert third == (
        "Event 9, after 8.00 s: woken by the answer of `note`; set `_round` to 1 and removed `_rate`; "
        'completed the workflow with {state: "DONE"}.'
    )
    assert recording.explain(2) == second
    assert recording.explain(recording.steps[1]) == second


def test_a_wait_is_told_at_the_line_of_its_own_function() -> None:
    """Not in a decorator's wrapper around it, and not in the helper alone that holds the await."""
    wrapper, helper = Line("/x/tools.py", 3, "checked.<locals>.wrapper"), Line("/x/calls.py", 9, "outside")
    assert waiting_at(Wait("run", (wrapper, RUN))) == "order.py:120 in `run`"
    assert waiting_at(Wait("run", (wrapper, RUN, helper))) == "order.py:120 in `run` (within `outside`, calls.py:9)"
    assert waiting_at(Wait("run", (wrapper,))) == "tools.py:3 in `wrapper`"


def test_what_happens_several_times_in_a_step_is_told_once() -> None:
    """Ten workers at one line are one clause, with their number."""
    of = recorder(2)
    step(of, 1, {})
    waits = [Wait(f"worker-{number}", (RUN,)) for number in range(10)]
    step(of, 2, {}, commands=[Command("timer", "5"), Command("patch", "p"), Command("timer", "5")], waits=waits)
    assert of.recording.explain(2) == (
        "Event 2, after 1.00 s: started a timer of 5 s (2 times) and marked the patch `p`; "
        "now 10 tasks wait, at order.py:120 in `run` (10 of them)."
    )


def test_long_sentences_are_shortened() -> None:
    """Many changes are counted, and long values are cut."""
    of = recorder(3)
    step(of, 1, {})
    step(of, 2, {f"v{number}": "x" * 1000 for number in range(10)})
    step(of, 3, {f"v{number}": "x" * 1000 for number in range(10)})
    recording = of.finish({})
    assert recording.explain(1) == "Event 1, after 0.00 s: nothing changed."
    assert recording.explain(2).endswith("… and 6 more.")
    assert len(recording.explain(2)) < 400


def test_the_trouble_of_a_step_follows_its_sentence() -> None:
    """It is a sentence of its own."""
    of = recorder(1)
    step(of, 1, {}, trouble="The code raised ValueError: bad.")
    assert of.recording.explain(1) == "Event 1, after 0.00 s: nothing changed. The code raised ValueError: bad."


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Command("timer", "5", None, {"seconds": 5.0}), "started a timer of 5 s"),
        (Command("local activity", "note"), "asked for the local activity `note`"),
        (Command("signal", "stop", [1], {"to": "order-8"}), "sent the signal `stop` to `order-8`"),
        (Command("signal", "stop"), "sent the signal `stop`"),
        (Command("fail", None, "ApplicationError: no"), 'failed the workflow with "ApplicationError: no"'),
        (Command("update rejected", "approve", "too late"), 'rejected the update `approve` with "too late"'),
        (Command("query answered", None, 5), "answered the query with 5"),
        (Command("complete"), "completed the workflow"),
        (Command("search attributes", None, {"State": "x"}), 'set search attributes to {State: "x"}'),
        (Command("cancel timer", "15", None, {"id": "3"}), "cancelled the timer of 15 s"),
        (
            Command("cancel child workflow", "Ship", None, {"id": "ship-7"}),
            "asked to cancel the child workflow `ship-7`",
        ),
        (Command("some new command", "x"), "issued the command some new command `x`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_command_is_told_in_words(command: Command, words: str) -> None:
    """A kind that a later SDK brings too."""
    assert command_words(command) == words


def test_a_long_recording_is_small() -> None:
    """200 steps of a workflow with a large variable that does not change: whole copies would take 10 MB."""
    lines = [Line(FILE, number, "OrderWorkflow.run") for number in range(100)]

    def snapshot(number: int) -> dict[str, Tree]:
        table: list[Tree] = [{"sku": f"book-{row}", "price": row} for row in range(200)]
        return {"table": table, "done": number, "last": list(range(number % 50)), "text": "x" * 2000}

    of = recorder(1)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(200):
        step(of, number + 1, snapshot(number), lines=lines, waits=[Wait("run", (Line(FILE, number % 7, "run"),))])
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 4e6
    assert same(dict(of.recording.variables(133)), snapshot(132))


def test_a_queue_that_moves_at_each_step_is_not_copied() -> None:
    """A list of the last twenty orders is a new list at each step, made of the rows that were there before."""
    of = recorder(1)
    for number in range(4):
        rows: list[Tree] = [Fields("Row", {"sku": f"book-{row}", "price": row}) for row in range(number, number + 20)]
        step(of, number + 1, {"last": rows})
    third, fourth = (each.changed["last"] for each in of.recording.steps[2:])
    assert isinstance(third, list)
    assert isinstance(fourth, list)
    assert all(mine is before for mine, before in zip(fourth, third[1:], strict=False))
    assert same(fourth, rows)


def test_lines_beyond_the_bound_are_counted() -> None:
    """A workflow that runs in a loop for ever would otherwise fill the memory with lines."""
    of = recorder(30)
    lines = [Line(FILE, number % 10, "OrderWorkflow.run") for number in range(50_000)]
    for number in range(30):
        step(of, number + 1, {}, lines=lines, lines_cut=1)
    steps = of.recording.steps
    assert sum(len(each.lines or ()) for each in steps) <= 1_001_000
    assert all(len(each.lines or ()) + each.lines_cut == 50_001 for each in steps)
    assert len(steps[-1].lines or ()) == 100

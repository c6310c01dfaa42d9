"""A replay looks into workflows that do not want to be looked into, and changes nothing in them."""

from __future__ import annotations

import json

import pytest

from tests.unit.hostile_workflows import Hostile, Scopes, Slotted
from trellis.bench.made_history import MadeHistory
from trellis.replay import replay


@pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "no sandbox"])
def test_objects_that_bite_are_shown_and_not_touched(sandbox: bool) -> None:
    """None of their code runs, nor a property of the workflow, nor its `__getattr__`, which would count the calls."""
    made = MadeHistory("Hostile")
    made.task()
    made.signal("finish")
    made.task()
    made.complete(0)
    recording = replay(made.history, Hostile, family=False, sandbox=sandbox)
    assert recording.trouble == ""
    variables = recording.to_json()["steps"][-1]["variables"]
    assert variables["bites"] == {"inside": "calm"}
    assert variables["endless"] == [{}]
    assert variables["keys"] == {"[1, 2]": "tuple", "None": "none"}
    assert variables["huge"].endswith("(50,000,000 characters)")
    assert variables["many"][-1] == "<99,800 more>"
    assert variables["me"] == "<cycle: self>"
    assert variables["info"]["workflow_id"] == "made"
    assert variables["lock"] == "<Lock: unlocked>"
    assert variables["asked"] == 0
    assert recording.steps[-1].commands[-1].input == 0
    assert len(json.dumps(recording.to_json())) < 100_000


def test_a_workflow_with_slots_shows_them() -> None:
    """Private ones under the name that Python gives them, and not those that are unset."""
    made = MadeHistory("Slotted")
    made.task()
    for _ in range(2):
        made.signal("more")
        made.task()
    made.complete(7)
    recording = replay(made.history, Slotted, family=False)
    assert recording.trouble == ""
    assert [recording.variables(step)["count"] for step in recording.steps] == [0, 1, 2]
    assert recording.variables(1) == {"_Slotted__pin": 7, "count": 0}
    assert dict(recording.steps[1].changed) == {"count": 1}


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "no lines"])
def test_every_scope_shows_where_it_waits_and_how_it_ended(lines: bool) -> None:
    """In a task group one task fails, and the others are cancelled: their frames are shown before, their end after."""
    made = MadeHistory("Scopes")
    made.task()
    timer = made.timer(10)
    made.signal("let_go")
    made.task()
    made.cancel_timer(timer)
    made.complete(["first", "shielded", "over"])
    recording = replay(made.history, Scopes, family=False, lines=lines)
    assert recording.trouble == ""
    waits = {wait.task: [line.function.rpartition(".")[2] for line in wait.frames] for wait in recording.steps[0].waits}
    assert waits == {
        "run": ["run"],
        "shielded": ["_shielded"],
        "Scopes._waits": ["_waits"],
        "generated": ["_generated", "_stream", "_waits"],
        "fails": ["_fails"],
        "future": ["_of_a_future"],
    }
    assert recording.steps[0].waits[0].task == "run"
    before, after = recording.variables(1), recording.variables(2)
    assert before["future"] == "<Future: pending>"
    assert after["future"] == "<Future: cancelled>"
    assert after["seen"] == ["first", "shielded", "over"]
    assert after["failed"] == {"args": ["unhandled errors in a TaskGroup", [{"args": ["on purpose"]}]]}
    assert (recording.steps[1].lines is not None) is lines

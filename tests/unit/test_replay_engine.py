"""A replay shows what the workflow did: woken by what, which lines, waiting where, asking for what."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.client import WorkflowHistory

from tests.unit import replayed, replayed_changes
from tests.unit.replayed_histories import calls, recorded
from trellis.bench.made_history import MadeHistory
from trellis.replay import Recording, ReplayError, engine, replay, replay_async, sdk
from trellis.replay.breaking import command_key, history_key, left_by_a_command
from trellis.replay.commands import Seqs
from trellis.replay.events import Index
from trellis.replay.lines import Ran, Tracing, UserCode, watcher
from trellis.replay.steps import Line, Woken
from trellis.replay.waking import woken_by

HISTORIES = sorted((Path(__file__).parents[1] / "replay" / "histories").glob("*.json"))


def text(line: Line | None) -> str:
    """The source of a line."""
    assert line is not None
    return Path(line.file).read_text("utf-8").splitlines()[line.line - 1].strip()


def test_this_version_of_the_sdk_has_the_parts_that_a_replay_looks_at() -> None:
    """The SDK's private attributes are read in one module. This names those that the installed version lacks."""
    assert sdk.missing() == []


def test_an_instance_that_cannot_be_looked_into_is_a_sentence() -> None:
    """A runner of another kind has other instances."""
    with pytest.raises(ReplayError, match="_object, _tasks, _add_command"):
        sdk._inner(object())  # type: ignore[arg-type]


def test_each_step_says_what_woke_it_what_it_asked_for_and_where_it_waits() -> None:
    """The whole life of a small workflow: five workflow tasks, the line of each wait and of each command."""
    recording = recorded(calls(), replayed.Calls)
    assert recording.trouble == ""
    assert [step.event for step in recording.steps] == [3, 9, 15, 19, 24]
    assert [[(woken.words, woken.event) for woken in step.woken_by] for step in recording.steps] == [
        [("the workflow's start", 1)],
        [("the answer of `greet`", 7)],
        [("the answer of `bless`", 13)],
        [("the signal `release`", 17)],
        [("the timer of 5 s", 22)],
    ]
    assert [[(c.kind, c.name, c.input, text(c.asked_at)) for c in step.commands] for step in recording.steps] == [
        [("activity", "greet", ["Ada"], "return str(await workflow.execute_activity(what, name, "
          "start_to_close_timeout=_SOON, result_type=str))")],
        [("activity", "bless", ["Ada"], "return str(await workflow.execute_activity(what, name, "
          "start_to_close_timeout=_SOON, result_type=str))")],
        [],
        [("timer", "5", None, "await workflow.sleep(5)")],
        [("complete", None, "Hello Ada", 'return " ".join(self.answers)')],
    ]  # fmt: skip
    first = recording.steps[0].waits
    assert [(wait.task, [frame.function for frame in wait.frames]) for wait in first] == [
        ("run", ["Calls.run", "Calls._ask"])
    ]
    assert text(first[0].frames[0]) == 'self.answers.append(await self._ask("greet", name))'
    assert recording.steps[-1].waits == ()
    assert recording.variables(3) == {"answers": ["Hello", "Ada"], "released": False}
    assert recording.variables(5) == {"answers": ["Hello", "Ada"], "released": True}
    assert list(recording.sources) == [replayed.__file__]


def test_the_lines_of_a_step_are_those_that_ran_in_their_order() -> None:
    """A signal runs its handler, then the condition that waits for it, then what comes behind."""
    recording = recorded(calls(), replayed.Calls)
    assert [text(line) for line in recording.steps[3].lines or ()] == [
        "self.released = True",
        "await workflow.wait_condition(lambda: self.released)",
        "await workflow.sleep(5)",
    ]


def test_without_lines_everything_else_is_the_same() -> None:
    """The lines cost time. Who does not want them gets the same steps; only the line of the return is not known."""
    plain, traced = (recorded(calls(), replayed.Calls, lines=lines) for lines in (False, True))
    assert [step.lines for step in plain.steps] == [None] * 5
    assert [(s.event, s.waits, s.woken_by, s.changed) for s in plain.steps] == [
        (s.event, s.waits, s.woken_by, s.changed) for s in traced.steps
    ]
    assert [s.commands for s in plain.steps[:4]] == [s.commands for s in traced.steps[:4]]


def test_every_task_shows_all_its_frames() -> None:
    """Tasks, async generators and awaitable objects are looked through; tasks have the names of their functions."""
    made = MadeHistory("ManyTasks")
    made.task()
    recording = recorded(made, replayed.ManyTasks)
    assert [(wait.task, [frame.function for frame in wait.frames]) for wait in recording.steps[0].waits] == [
        ("run", ["ManyTasks.run", "ManyTasks._generated"]),
        ("ManyTasks._in_a_task", ["ManyTasks._in_a_task", "ManyTasks.waits"]),
    ]


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recording_has_the_commands_that_the_history_has(path: Path) -> None:
    """Each event that a command left in a recorded history is a command of a step, and there are no others."""
    history = WorkflowHistory.from_json(path.stem, path.read_text("utf-8"))
    recording = replay(history, family=False)
    assert recording.trouble == ""
    no_event = {"update rejected", "cancel local activity", "query answered"}
    asked = Counter(command_key(c) for step in recording.steps for c in step.commands if c.kind not in no_event)
    left = Counter(history_key(event) for event in history.events if left_by_a_command(event))
    # A timer that is cancelled in the task that asked for it leaves no event.
    at_once = asked["timer", None] - left["timer", None]
    assert at_once >= 0
    asked.subtract({("timer", None): at_once, ("cancel timer", None): at_once})
    assert +asked == left
    assert all(woken.event for step in recording.steps for woken in step.woken_by if "cancellation" not in woken.words)


@pytest.mark.parametrize(
    ("class_", "event", "history", "code", "line"),
    [
        (replayed_changes.CallsAfterATimer, 5, "activity `greet` scheduled", "timer of 5 s", "await workflow.sleep(5)"),
        (replayed_changes.CallsInAnotherOrder, 5, "activity `greet` scheduled", "activity `bless`",
         'await workflow.execute_activity("bless", name, start_to_close_timeout=_SOON)'),
        (replayed_changes.CallsNothing, 5, "activity `greet` scheduled", "the workflow's completion", "return name"),
        (replayed_changes.CallsAndRaises, 11, "activity `bless` scheduled",
         "raises ValueError: invalid literal for int() with base 10: 'Hello'", "return str(int(answer))"),
    ],
    ids=["a timer", "another activity", "the end", "an error"],
)  # fmt: skip
def test_code_that_no_longer_fits_shows_both_sides(
    class_: type, event: int, history: str, code: str, line: str
) -> None:
    """The recording ends with the step that asked for something else, and says what the history has there."""
    recording = recorded(calls(), class_)
    assert recording.broken is not None
    broken = recording.broken
    assert (broken.event, broken.history, broken.code, text(broken.line)) == (event, history, code, line)
    assert f"event {event}" in recording.trouble
    assert recording.steps
    assert len(recording.events) == 26


@pytest.mark.parametrize("events", range(1, 27))
def test_a_history_so_far_replays_as_far_as_it_goes(events: int) -> None:
    """A running workflow's history ends anywhere. What ran until then is shown, not what will run next."""
    made = calls()
    made.events = made.events[:events]
    recording = recorded(made, replayed.Calls)
    assert [step.event for step in recording.steps] == [event for event in (3, 9, 15, 19, 24) if event <= events]
    assert recording.trouble == ("" if events > 1 else "calls-1 has not run yet: its history has no workflow task.")


async def test_the_first_page_is_there_before_the_replay_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener gets what is recorded so far, with its code."""
    monkeypatch.setattr(engine, "FIRST_PAGE", 2)
    pages: list[Recording] = []
    recording = await replay_async(calls().history, replayed.Calls, listener=pages.append)
    assert [len(page.steps) for page in pages] == [2, 4]
    assert pages[0].variables(2) == recording.variables(2)
    assert pages[0].sources == recording.sources


async def test_the_blocking_form_may_be_called_where_a_loop_runs() -> None:
    """In a notebook's cell a loop runs already."""
    assert len(replay(calls().history, replayed.Calls).steps) == 5


async def test_replays_at_once_see_their_own_lines_only() -> None:
    """Two threads run the same code, and each recording has what one alone has."""
    alone = recorded(calls(), replayed.Calls)
    found = await asyncio.gather(*(replay_async(calls().history, replayed.Calls) for _ in range(4)))
    assert [[step.lines for step in each.steps] for each in found] == [[step.lines for step in alone.steps]] * 4


def test_a_tracer_that_was_there_is_given_back() -> None:
    """Coverage traces by such a function."""

    def tracer(*_: object) -> None:
        return None

    before = sys.gettrace()
    user = UserCode([replayed.__file__])
    try:
        sys.settrace(tracer)
        tracing = Tracing()
        tracing.begin(ran := Ran(user))
        replayed.Calls()
        tracing.end()
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    assert [text(line) for line in ran.lines()] == ["self.answers: list[str] = []", "self.released = False"]


def tools() -> list[int]:
    """The ids of the tools that use `sys.monitoring`, from Python 3.12."""
    monitoring = getattr(sys, "monitoring", None)
    return [] if monitoring is None else [id_ for id_ in range(6) if monitoring.get_tool(id_)]


def test_a_watcher_notes_lines_and_leaves_nothing_behind() -> None:
    """What this version of Python offers: the lines of the thread that began, and no other thread's."""
    user = UserCode([replayed.__file__])
    used = tools()
    notes = watcher()
    for _ in range(2):
        notes.begin(ran := Ran(user))
        other = threading.Thread(target=replayed.Calls)
        other.start()
        other.join()
        replayed.Calls()
        notes.end()
        replayed.Calls()
        assert [text(line) for line in ran.lines()] == ["self.answers: list[str] = []", "self.released = False"]
    notes.close()
    assert tools() == used


def test_more_lines_than_are_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop of a million rounds does not fill the memory."""
    monkeypatch.setattr("trellis.replay.lines.KEPT", 10)
    ran = Ran(UserCode([replayed.__file__]))
    for _ in range(25):
        ran.add(test_more_lines_than_are_kept_are_counted.__code__, 1)
    assert (len(ran.lines()), ran.cut) == (10, 15)


def test_a_step_that_takes_longer_than_the_sdks_limit_is_shown() -> None:
    """The SDK gives an activation 2 s and calls a longer one a deadlock. Traced code may be slower than a worker's."""
    made = calls()
    made.events = made.events[:10]
    recording = recorded(made, replayed_changes.CallsAnd, sandbox=False)
    assert recording.trouble == ""
    assert [[command.kind for command in step.commands] for step in recording.steps] == [["activity"], ["complete"]]


def test_code_that_never_returns_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay does not hang, and says that the SDK took it for a deadlock."""
    monkeypatch.setattr(sdk, "PATIENCE", 0.1)
    assert "deadlock" in recorded(calls(), replayed_changes.CallsForEver, lines=False).trouble


async def test_a_replay_that_falls_silent_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should the SDK wait for ever, the caller gets what is there."""
    monkeypatch.setattr(engine, "SILENCE", 0.2)

    async def silent(history: object, options: object, watch: object) -> None:
        await asyncio.sleep(5)

    monkeypatch.setattr(engine, "_replayed", silent)
    recording = await replay_async(calls().history, replayed.Calls)
    assert "asked for nothing more" in recording.trouble
    assert len(recording.events) == 26


def test_a_step_that_cannot_be_read_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails while a step is written down, the workflow goes on, and the step says what failed."""
    read = woken_by

    def fails_once(act: WorkflowActivation, seqs: Seqs, index: Index) -> tuple[Woken, ...]:
        if act.history_length == 9:
            raise ValueError("not today")
        return read(act, seqs, index)

    monkeypatch.setattr("trellis.replay.engine.woken_by", fails_once)
    recording = recorded(calls(), replayed.Calls)
    assert [step.trouble for step in recording.steps] == [
        "", "This step cannot be read (ValueError: not today).", "", "", "",
    ]  # fmt: skip
    assert recording.variables(5) == {"answers": ["Hello", "Ada"], "released": True}


def test_a_replay_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Neither what fails in it, which the recording says, nor the workflow's own lines at the end of its history."""
    made = MadeHistory("Logs")
    made.task()
    assert recorded(made, replayed.Logs).trouble == ""
    assert recorded(calls(), replayed_changes.CallsAndRaises).trouble
    assert [record.getMessage() for record in caplog.records if "replay" in str(record.threadName)] == []
    assert "a line of the workflow" not in caplog.text


def test_further_arguments_of_the_replayer_are_passed_on() -> None:
    """A worker that fails workflows on any error is replayed as such, and the failure has the line that raised."""
    made = calls()
    made.events = made.events[:9]
    recording = recorded(
        made, replayed_changes.CallsAndRaises, replayer={"workflow_failure_exception_types": [Exception]}
    )
    (failed,) = recording.steps[-1].commands
    assert (failed.kind, failed.input) == ("fail", "ValueError: invalid literal for int() with base 10: 'Hello'")
    assert text(failed.asked_at) == "return str(int(answer))"
    assert recording.trouble == ""


def test_the_sdks_own_failure_is_told_by_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK wraps it into the print of a structure, which nobody wants to read."""

    async def fails(history: object, options: object, watch: object) -> Exception:
        return RuntimeError(
            '8: failed: Failure { failure: Some(Failure { message: "Fatal error in \'x\'", source: "" })'
        )

    monkeypatch.setattr(engine, "_replayed", fails)
    assert recorded(calls(), replayed.Calls).trouble == "The replay ended early (Fatal error in 'x')."

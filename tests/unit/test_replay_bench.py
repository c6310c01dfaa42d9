"""What the benchmark of replays measures."""

from __future__ import annotations

from trellis.bench import replay
from trellis.bench.loop import Loop
from trellis.replay import replay as record


def test_a_made_history_is_one_that_the_sdk_replays() -> None:
    """The bare Replayer accepts it, and the recording has one step for each call and one for the start."""
    history = replay.loop_history(125)
    replay.bare([history])
    (recording,) = replay.recorded([history], lines=True)
    assert len(recording.steps) == 21
    last = recording.variables(21)
    assert (last["calls"], last["sum"]) == (20, sum(number % 7 for number in range(20)))
    assert [command.input for command in recording.steps[-1].commands] == [last["sum"]]


def test_the_benchmark_prints_ratios_and_memory() -> None:
    """On a short history, where the figures say nothing, they are there and have their units."""
    found = replay.run(65, 1, lambda: None)
    assert set(found) == {
        "events", "steps", "replay_s", "replay_with_lines_s", "bare_s", "ratio", "ratio_with_lines",
        "cpu_ratio", "cpu_ratio_with_lines", "memory_added_mb", "first_page_s", "whole_s",
    }  # fmt: skip
    assert (found["events"], found["steps"]) == (65, 11)
    assert found["bare_s"] > 0


def test_a_long_recording_keeps_differences() -> None:
    """Ten times the steps do not keep ten times the variables: unchanged parts are kept once."""
    recording = record(replay.loop_history(1000), Loop, family=False)
    assert {path for step in recording.steps[2:] for path in step.changed} <= {
        "calls", "sum", "kinds.even", "kinds.odd", *(f"last[{index}]" for index in range(10)), "last",
    }  # fmt: skip
    assert recording.steps[0].lines is not None
    assert recording.steps[40].lines is not None
    known = {id(line) for step in recording.steps for line in step.lines or ()}
    assert len(known) < 30

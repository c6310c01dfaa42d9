"""What a replay is given: histories, files, modules and payloads, among them ones that nobody can use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec

from tests.unit import replayed, replayed_changes
from tests.unit.replayed_histories import calls, child, recorded, rounds
from trellis.bench.made_history import MadeHistory
from trellis.replay import ReplayError, replay


def test_a_class_that_is_missing_is_a_sentence_and_the_events_are_shown() -> None:
    """The sentence names the type and what there is."""
    with pytest.raises(ReplayError, match="no class for the workflow type Child; there are classes for Calls") as error:
        recorded(child(1), replayed.Calls)
    assert error.value.recording is not None
    assert error.value.recording.events[0].words == "workflow `Child` started"


def test_two_classes_of_one_name_are_a_sentence() -> None:
    """Nobody can know which of them is meant."""
    with pytest.raises(ReplayError, match="Two classes are named Calls: Calls and CallsNothing"):
        recorded(calls(), [replayed.Calls, replayed_changes.CallsNothing])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("no.such.module", "There is no module no.such.module"),
        ("tests.unit.replayed_histories", "defines no workflow"),
        ("fails_on_import", "fails on import .RuntimeError: not today"),
        ("ends_on_import", "fails on import .SystemExit"),
    ],
)
def test_a_module_that_cannot_be_used_is_a_sentence(
    module: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was replayed, and the sentence says why."""
    (tmp_path / "fails_on_import.py").write_text("raise RuntimeError('not today')")
    (tmp_path / "ends_on_import.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ReplayError, match=sentence):
        replay(calls().history, module)


def file_of(made: MadeHistory, folder: Path, name: str = "history.json") -> Path:
    file = folder / name
    file.write_text(made.history.to_json(), "utf-8")
    return file


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        ("hello", "holds no JSON"),
        ('{"a": 1}', "holds no list of events"),
        ('{"events": []}', "holds no list of events"),
        ('{"events": [1]}', "holds no list of events"),
        ('{"events": [{"eventId": "x"}]}', "events that cannot be read"),
        ('[{"eventId": "7", "eventType": "EVENT_TYPE_TIMER_FIRED", "timerFiredEventAttributes": {}}]',
         "does not begin with the workflow's start but with event 7"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_history_is_a_sentence(content: str, sentence: str, tmp_path: Path) -> None:
    """The sentence names the file."""
    file = tmp_path / "history.json"
    file.write_text(content, "utf-8")
    with pytest.raises(ReplayError, match=sentence) as error:
        replay(file, replayed.Calls)
    assert str(file) in str(error.value)


def test_a_file_that_ends_in_the_middle_shows_its_beginning(tmp_path: Path) -> None:
    """A download that stopped: the events that are whole are replayed, and the sentence says how many."""
    file = file_of(calls(), tmp_path)
    whole = file.read_text("utf-8")
    file.write_text(whole[: whole.index('"eventId": "12"') + 30], "utf-8")
    recording = replay(file, replayed.Calls)
    assert [step.event for step in recording.steps] == [3, 9]
    assert "ends in the middle: only its first 11 events" in recording.trouble


def test_a_history_with_a_gap_is_replayed_up_to_it(tmp_path: Path) -> None:
    """A page that is missing cannot be guessed."""
    made = calls()
    del made.events[11:14]
    recording = replay(file_of(made, tmp_path), replayed.Calls)
    assert [step.event for step in recording.steps] == [3, 9]
    assert "has a gap: event 15 follows event 11" in recording.trouble


def test_payloads_that_nobody_can_decode_stop_nothing() -> None:
    """Another program encrypted a result that the workflow never looks at: the rest is shown."""
    made = calls()
    made.events[16].workflow_execution_signaled_event_attributes.input.payloads.append(
        Payload(metadata={"encoding": b"binary/encrypted"}, data=b"twelve bytes")
    )
    made.events[16].workflow_execution_signaled_event_attributes.signal_name = "unknown"
    recording = recorded(made, replayed.Calls)
    assert recording.events[16].details == {
        "signal_name": "unknown",
        "input": "<12 bytes, encoding binary/encrypted>",
    }
    assert [step.event for step in recording.steps][:3] == [3, 9, 15]


def test_a_workflow_whose_input_cannot_be_decoded_shows_its_events() -> None:
    """Without the key the workflow cannot run. The sentence says so, and the events are there."""
    made = calls()
    payload = made.events[0].workflow_execution_started_event_attributes.input.payloads[0]
    payload.metadata["encoding"] = b"binary/encrypted"
    recording = recorded(made, replayed.Calls)
    assert recording.trouble
    assert recording.events[0].details == {
        "workflow_type": "Calls", "workflow_id": "calls-1", "task_queue": "made", "attempt": 1,
        "input": "<5 bytes, encoding binary/encrypted>",
    }  # fmt: skip
    assert len(recording.events) == 26


class Backwards(PayloadCodec):
    """Turns bytes around. It fails for payloads that it did not encode."""

    async def encode(self, payloads: object) -> list[Payload]:
        return [Payload(metadata={"encoding": b"turned"}, data=p.SerializeToString()[::-1]) for p in payloads]  # type: ignore[attr-defined]

    async def decode(self, payloads: object) -> list[Payload]:
        await asyncio.sleep(0)
        found = []
        for payload in payloads:  # type: ignore[attr-defined]
            if payload.metadata["encoding"] != b"turned":
                raise ValueError("not mine")
            found.append(Payload.FromString(payload.data[::-1]))
        return found


def test_a_codec_of_the_users_is_used() -> None:
    """Events, inputs and variables are shown decoded; a payload that the codec refuses stays as it is."""
    made, codec = calls(), Backwards()
    held = made.events[0].workflow_execution_started_event_attributes.input
    for one in (
        held,
        made.events[6].activity_task_completed_event_attributes.result,
        made.events[12].activity_task_completed_event_attributes.result,
    ):
        one.payloads[0].CopyFrom(asyncio.run(codec.encode(one.payloads))[0])
    recording = recorded(made, replayed.Calls, data_converter=DataConverter(payload_codec=codec))
    assert recording.steps[0].commands[0].input == ["Ada"]
    assert recording.events[6].details == {"result": "Hello"}
    assert recording.events[25].details == {"result": "Hello Ada"}
    assert "not mine" in recording.trouble


def test_a_payload_of_many_megabytes_is_cut() -> None:
    """Its beginning and its size are shown. The workflow itself gets it whole, and its variables are cut too."""
    made = MadeHistory("Calls", "x" * 3_000_000, workflow_id="big")
    made.task()
    recording = recorded(made, replayed.Calls)
    details = recording.events[0].details
    assert isinstance(details, dict)
    assert str(details["input"]).endswith("… (3,000,002 bytes)")
    assert len(str(recording.to_json())) < 20_000


def test_a_history_of_another_sdk_is_named() -> None:
    """Python code may fit it, and the sentence says what to think of that."""
    made = MadeHistory("Calls", "Ada")
    made.task(sdk="temporal-go")
    assert "another SDK, temporal-go" in recorded(made, replayed.Calls).trouble


def test_children_and_continued_runs_come_from_the_other_files_of_the_folder(tmp_path: Path) -> None:
    """Files are found by the workflow and run ids in them, whatever their names are."""
    file_of(rounds(1), tmp_path, "a.json")
    newest = file_of(rounds(0, before="run-1"), tmp_path, "b.json")
    file_of(child(0), tmp_path, "c.json")
    file_of(child(1), tmp_path, "d.json")
    (tmp_path / "e.json").write_text("no history", "utf-8")
    recording = replay(newest, [replayed.Rounds, replayed.Child])
    assert [each.workflow_id for each in recording.children] == ["child-0"]
    assert recording.after is None
    assert recording.before is not None
    assert (recording.before.run_id, recording.before.after) == ("run-1", recording)
    assert [each.workflow_id for each in recording.before.children] == ["child-1"]
    assert [each.kind for each in recording.before.steps[-1].commands] == ["continue as new"]


def test_a_child_without_a_class_has_its_events_and_no_steps(tmp_path: Path) -> None:
    """The parent is shown all the same."""
    file_of(child(0), tmp_path, "c.json")
    recording = replay(file_of(rounds(0), tmp_path), replayed.Rounds)
    (only,) = recording.children
    assert (only.steps, len(only.events)) == ((), 5)
    assert "no class for the workflow type Child" in only.trouble

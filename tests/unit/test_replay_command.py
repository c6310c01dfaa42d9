"""`trellis replay` with files: no server is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer

from tests.unit import replayed
from tests.unit.replayed_histories import calls
from trellis.cli.replay import replay as command
from trellis.errors import BadInput, TrellisError

CALM = Path(__file__).parents[1] / "replay" / "histories" / "calm.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "history.json"
    found.write_text(calls().history.to_json(), "utf-8")
    return found


def printed(capsys: pytest.CaptureFixture[str], **words: object) -> str:
    command(**words)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_an_orders_history_is_told_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each step has its event, what woke it, waits, commands, changes and variables, in strict JSON."""
    found = json.loads(printed(capsys, file=CALM, as_json=True), parse_constant=pytest.fail)
    assert found["workflow_id"].startswith("order-calm-")
    assert [step["event"] for step in found["steps"]] == sorted(step["event"] for step in found["steps"])
    for step in found["steps"]:
        assert {"event", "at", "woken_by", "waits", "commands", "changed", "variables"} <= set(step)
        assert all({"task", "file", "line", "function"} <= set(frame) for frame in step["waits"])
    last = found["steps"][-1]
    assert last["variables"]["_progress"]["state"] == "COMPLETED"
    assert last["changed"]["_progress.state"] == "COMPLETED"
    assert last["waits"] == []
    before = found["steps"][-2]["waits"]
    assert {frame["task"] for frame in before} >= {"run"}
    assert before[0]["function"].endswith("read_async")


def test_one_step_is_told_by_its_event(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    """An event between two workflow tasks belongs to the step before it."""
    module = replayed.__name__
    (step,) = json.loads(printed(capsys, file=file, module=module, at=14, as_json=True))["steps"]
    assert (step["event"], step["variables"]["answers"]) == (9, ["Hello"])
    told = printed(capsys, file=file, module=module, at=14)
    assert "greet" in told
    assert "bless" in told
    assert "release" not in told


def test_a_file_with_workflows_stands_for_its_module(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's folder is put on Python's path, as running the file would."""
    (tmp_path / "my_calls.py").write_text(Path(replayed.__file__).read_text("utf-8"), "utf-8")
    monkeypatch.setattr("sys.path", [*sys.path])
    assert "my_calls.py" in printed(capsys, file=file, module=str(tmp_path / "my_calls.py"))


def test_code_that_no_longer_fits_has_exit_code_1_and_is_told(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script sees it, and a reader sees both sides."""
    (tmp_path / "changed_calls.py").write_text(
        "from temporalio import workflow\n"
        "@workflow.defn(name='Calls')\n"
        "class Changed:\n"
        "    @workflow.run\n"
        "    async def run(self, name: str) -> None:\n"
        "        await workflow.sleep(7)\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(typer.Exit) as left:
        command(file=file, module="changed_calls")
    assert left.value.exit_code == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "activity `greet` scheduled" in said
    assert "timer of 7 s" in said
    assert "changed_calls.py:6" in said


def test_a_page_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The sentence says where, and the page holds the order's steps and the code that ran."""
    page = tmp_path / "order.html"
    command(file=CALM, html=page)
    assert str(page) in "".join(capsys.readouterr().err.split())
    text = page.read_text("utf-8")
    assert "order-calm-" in text
    assert "await self._charge()" in text


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"order_id": "a", "file": CALM},
        {"order_id": "a", "workflow_id": "b"},
        {"file": CALM, "run_id": "r"},
        {"file": CALM, "as_json": True, "html": Path("x.html")},
        {"file": CALM, "as_json": True, "redact": ["line1"]},
    ],
)
def test_a_wrong_choice_of_history_is_wrong_usage(words: dict[str, object]) -> None:
    """Nothing is replayed."""
    with pytest.raises(typer.BadParameter):
        command(**words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"file": Path("no-such-file.json")}, "no-such-file.json cannot be read"),
        ({"file": CALM, "module": "no_such_module"}, "no module no_such_module"),
        ({"file": CALM, "module": "no_such_file.py"}, "no file no_such_file.py"),
        ({"file": CALM, "at": 4711}, "there is no event 4711"),
        ({"file": CALM, "at": 1}, "had not run at event 1"),
        ({"file": CALM.parent}, "is a folder"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(words: dict[str, object], sentence: str) -> None:
    """The sentence names what is wrong."""
    with pytest.raises(TrellisError, match=sentence):
        command(**words)  # type: ignore[arg-type]


def test_an_id_that_is_none_is_refused_before_a_server_is_asked() -> None:
    """The sentence says how any workflow is named."""
    with pytest.raises(BadInput, match="--workflow-id"):
        command(order_id="no id, at all")

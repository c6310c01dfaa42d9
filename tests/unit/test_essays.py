"""The code that the essays show is there, by name, and holds what their sentences say of it. No server runs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from trellis import lab
from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.insight.retries import predict
from trellis.policies import preset, tuned

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"

SHOWN = {
    "01_an_order_from_end_to_end": [
        "async def _fulfil(self)",
        "await self._charge()",
        "workflow.execute_activity(",
        "start_to_close_timeout=",
        "heartbeat_timeout=",
        "retry_policy=",
        "@activity.defn",
        "self._provider.charge(charge_key(",
        "record_charge(",
        "outside(Step.REFUND",
        "void_parcel(dispatch_key(",
        "void_charge(charge_key(",
    ],
    "02_talking_to_a_running_order": [
        "@workflow.query",
        '@workflow.update(name="update_address")',
        "@undecoded",
        ".validator",
        "async def _once(",
        "asyncio.shield(self._handling",
        "ledger(\n        Step.UPDATE_ADDRESS",
        '@workflow.signal(name="approve")',
        "workflow.wait_condition(",
        "timeout=window",
        "if self._approval is None:",
        "SET claimed_at = ",
        "closing_at IS NULL",
        "RETURNING coalesce(address_json",
        "FOR UPDATE",
        "async with self._fence_lock",
    ],
    "09_your_own_workflows": ["@workflow.defn", "workflow.execute_activity(", "RetryPolicy("],
}
"""What the sentences beside the shown code speak of."""


def shown_by(notebook: str) -> str:
    """The code that the cells of an essay show, read now from the source."""
    cells = json.loads((FOLDER / f"{notebook}.ipynb").read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, object] = {}
    found = []
    for source in sources:
        for line in re.findall(r"^(?:from trellis.*import .*|import trips)$", source, re.MULTILINE):
            exec(line, names)
        for call in re.findall(r"^lab\.(?:code_of|code_of_handler|sql_of)\(.*\)$", source, re.MULTILINE):
            found.append(eval(call, names).data)
    return "\n".join(found)


@pytest.mark.parametrize("notebook", SHOWN)
def test_an_essay_shows_the_code_that_it_speaks_of(notebook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that moved is found by its name. A change that makes the essay's sentence untrue fails here."""
    # A notebook's kernel finds the modules beside it.
    monkeypatch.syspath_prepend(FOLDER)
    shown = shown_by(notebook)
    assert [words for words in SHOWN[notebook] if words not in shown] == []


def test_what_is_shown_is_indented_as_python_is() -> None:
    """Code that is cut out of a class can be read, and pasted."""
    for step in ("charge", "approve"):
        block = lab.code_of(step).data
        assert block.startswith("```python\n")
        assert block.endswith("\n```")
        ast.parse(block.split("\n", 1)[1].rsplit("\n", 1)[0])


def test_an_update_is_shown_with_its_validator() -> None:
    """An update has a validator, a signal has none."""
    assert ".validator" in lab.code_of_handler("update", "cancel").data
    assert ".validator" not in lab.code_of_handler("signal", "cancel").data


def test_a_function_of_the_schema_is_shown_as_the_newest_migration_defines_it() -> None:
    """`close_order` was replaced by a later migration, which gave it an ending."""
    assert "p_ending text" in lab.sql_of("close_order").data


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: lab.code_of("nosuch"), "There is no step 'nosuch'. Known are"),
        (lambda: lab.code_of_handler("update", "nosuch"), "An order has no update 'nosuch'. It has"),
        (lambda: lab.code_of_handler("letter", "cancel"), "no kind of handler 'letter'. Known are signal"),
        (lambda: lab.sql_of("nosuch"), "no function 'nosuch'"),
    ],
)
def test_a_name_that_nobody_knows_is_refused_with_those_that_are_known(ask: object, words: str) -> None:
    """A notebook shows one sentence."""
    with pytest.raises(BadInput, match=re.escape(words)):
        ask()  # type: ignore[operator]


def test_the_sliders_move_the_rules_of_single_steps_too() -> None:
    """`swift` has a rule of its own for dispatch: a timeout that left it alone would predict another policy."""
    box = lab.model_sliders(policy="swift")
    timeout, prediction = box.children[0], box.children[-1]
    timeout.value = 1.0
    expected = predict(tuned(preset("swift"), try_timeout=1.0), FaultPlan.canonical(), dt=0.005)
    assert f"within <b>{expected.percentile(0.5):.2f} s</b>" in prediction.value


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_a_cell_of_an_essay_has_at_most_five_lines(path: Path) -> None:
    """Longer code belongs in the package. Blank lines do not count."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [source for source in sources if sum(bool(line.strip()) for line in source.splitlines()) > 5] == []


def test_an_order_that_did_not_complete_has_missed_its_deadline() -> None:
    """Of four orders one is too late and one failed early. The prediction for `swift` is far below these two."""
    outcomes = ["completed", "completed", "completed", "failed"]
    runs = pd.DataFrame({"policy": "swift", "seconds": [1.0, 2.0, 16.0, 3.0], "outcome": outcomes})
    (row,) = lab.missed_deadlines(runs, {"swift": predict(preset("swift"))}, deadline=15).to_dict("records")
    assert row == {
        "missed, measured": "50%",
        "95 % interval": "7% to 93%",
        "missed, predicted": "0.0%",
        "inside": False,
    }

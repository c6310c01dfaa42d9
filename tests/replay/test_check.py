"""`trellis check` on recorded histories: what fits, what breaks where, and what the replays do not prove."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from temporalio.converter import DataConverter

from tests.replay.made import Made
from trellis.errors import BadInput, StackError, TrellisError
from trellis.replay.check import Report, check
from trellis.replay.check.sources import copied, find

ROOT = Path(__file__).resolve().parents[2]
RECORDED = Path(__file__).parent / "histories"
ORDER = "trellis.workflows.order"
CHARGE = "        self._charging = True\n        await self._outside(Step.CHARGE)\n"


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two orders of one path, one of another, and two of their children."""
    folder = tmp_path_factory.mktemp("histories")
    for name in ("calm", "cancelled_after_charge", "calm.shipping", "cancelled_after_charge.shipping"):
        shutil.copy(RECORDED / f"{name}.json", folder)
    shutil.copy(RECORDED / "calm.json", folder / "calm-again.json")
    return folder


def edited(into: Path, *edits: tuple[str, str]) -> str:
    """The path of an order workflow with these edits, in a copy of the package."""
    sources = find(ORDER)
    text = sources.files[0].read_text("utf-8")
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    copied(sources, into, {sources.files[0]: text})
    return str(into / sources.files[0].relative_to(sources.root))


def by_verdict(report: Report) -> dict[str, int]:
    """How many histories have each verdict."""
    found: dict[str, int] = {}
    for path in report.paths:
        found[path.finding.verdict] = found.get(path.finding.verdict, 0) + path.histories
    return found


def test_a_change_that_breaks_tells_both_sides_and_the_line(tmp_path: Path, histories: Path) -> None:
    """The history has an activity where the new code starts a timer. The changed line ran."""
    module = edited(tmp_path, (CHARGE, CHARGE.replace("True\n", "True\n        await workflow.sleep(5)\n")))
    report = check(module, histories=histories, before=ROOT, propose=False)
    line = Path(module).read_text("utf-8").splitlines().index("        await workflow.sleep(5)") + 1
    assert by_verdict(report) == {"breaks": 3}
    assert [path.histories for path in report.paths] == [2, 1]
    first = report.paths[0].finding
    assert (first.history, first.code) == ("activity `charge` scheduled", "timer of 5 s")
    assert (first.file, first.line, first.at) == ("trellis/workflows/order.py", line, f"order.py:{line}")
    events = json.loads((RECORDED / "calm.json").read_text("utf-8"))["events"]
    [scheduled] = [
        int(event["eventId"])
        for event in events
        if event.get("activityTaskScheduledEventAttributes", {}).get("activityType") == {"name": "charge"}
    ]
    assert first.event == scheduled
    assert (report.skipped, report.open_breaking, report.unrun_lines) == (2, 0, ())
    assert f"new code: timer of 5 s, order.py:{line}" in str(report)
    assert list(report.frame()["histories"]) == [2, 1]


SHOP = """
from datetime import timedelta

from temporalio import workflow

SOON = timedelta(seconds=9)


@workflow.defn
class Shop:
    def __init__(self) -> None:
        self.hurry = False

    @workflow.run
    async def run(self, amount: int) -> int:
        await workflow.execute_activity("reserve", {"amount": amount, "why": "order"}, start_to_close_timeout=SOON)
        await workflow.sleep(30)
        if amount > 500:
            await workflow.execute_activity("ask", amount, start_to_close_timeout=SOON)
        await workflow.execute_activity("charge", args=[amount, "card"], start_to_close_timeout=SOON)
        return amount

    @workflow.signal
    def hurry_up(self) -> None:
        self.hurry = True
"""


def shop(amount: int = 5, id: str = "made") -> Made:
    """A closed shop's history."""
    made = Made("Shop", amount, id=id)
    made.done(made.activity("reserve", {"why": "order", "amount": amount}))
    made.fired(made.timer(30))
    made.done(made.activity("charge", amount, "card"))
    return made.completed(amount)


def shop_edited(folder: Path, old: str = "", new: str = "") -> str:
    """The path of the shop's module with an edit. The unedited one is in the folder `before`."""
    assert old == "" or SHOP.count(old) == 1
    (folder / "before").mkdir()
    (folder / "before" / "shop.py").write_text(SHOP, "utf-8")
    (folder / "shop.py").write_text(SHOP.replace(old, new) if old else SHOP, "utf-8")
    return str(folder / "shop.py")


def test_the_same_code_fits(tmp_path: Path) -> None:
    """The order of a dict's fields is no other input."""
    report = check(shop_edited(tmp_path), histories=shop().saved(tmp_path))
    assert by_verdict(report) == {"fits": 1}


@pytest.mark.parametrize(
    ("old", "new", "history", "code"),
    [
        (
            'args=[amount, "card"]', 'args=[amount + 1, "card"]',
            "activity `charge` with argument 1 = 5", "activity `charge` with argument 1 = 6",
        ),
        ("sleep(30)", "sleep(31)", "timer of 30 s", "timer of 31 s"),
        (
            "        return amount\n", "        return amount * 2\n",
            "the workflow's completion with 5", "the workflow's completion with 10",
        ),
    ],
)  # fmt: skip
def test_what_a_command_carries_is_compared(tmp_path: Path, old: str, new: str, history: str, code: str) -> None:
    """Temporal's Replayer passes all of these."""
    report = check(shop_edited(tmp_path, old, new), histories=shop().saved(tmp_path))
    [path] = report.paths
    assert path.finding.verdict == "other input"
    assert (path.finding.history, path.finding.code) == (history, code)
    assert not report.breaks


def test_changed_lines_that_no_history_ran_are_told(tmp_path: Path) -> None:
    """The replays prove nothing about them. A changed line that ran is not told."""
    old = '            await workflow.execute_activity("ask", amount, start_to_close_timeout=SOON)\n'
    module = shop_edited(tmp_path, old, f"            self.hurry = False\n{old.replace('ask', 'consult')}")
    report = check(module, histories=shop().saved(tmp_path), before=tmp_path / "before")
    lines = Path(module).read_text("utf-8").splitlines()
    first = lines.index("            self.hurry = False") + 1
    assert by_verdict(report) == {"fits": 1}
    assert report.unrun_lines == (("shop.py", first), ("shop.py", first + 1))


def test_a_file_that_is_no_history_does_not_stop_the_others(tmp_path: Path) -> None:
    """The report names it. A folder without any history is refused."""
    shutil.copy(RECORDED / "calm.json", tmp_path)
    (tmp_path / "notes.json").write_text("{}", "utf-8")
    report = check(ORDER, histories=tmp_path)
    assert sum(by_verdict(report).values()) == 1
    assert any("notes.json is JSON but no history" in note for note in report.notes)
    (tmp_path / "calm.json").unlink()
    with pytest.raises(TrellisError, match=r"notes\.json"):
        check(ORDER, histories=tmp_path)


def test_code_that_raises_breaks(tmp_path: Path) -> None:
    """A workflow task that fails is no progress either, though it is no non-determinism error."""
    module = shop_edited(tmp_path, "        if amount > 500:", "        if amount > LIMIT:")
    report = check(module, histories=shop().saved(tmp_path), propose=False)
    [path] = report.paths
    assert path.finding.verdict == "breaks"
    assert "NameError" in (path.finding.code or "")
    assert path.finding.at.startswith("shop.py:")


def no_server() -> str:
    """No throw-away server starts, so that a proposal ends after the old histories."""
    raise StackError("none today")


def test_without_the_old_source_an_insertion_can_be_put_under_a_patch(tmp_path: Path) -> None:
    """Two inserted steps. The replays tell that the old history then fits."""
    line = "        if amount > 500:\n"
    tell = 'await workflow.execute_activity("tell", start_to_close_timeout=SOON)'
    new = f"        await workflow.sleep(1)\n        {tell}\n"
    report = check(shop_edited(tmp_path, line, f"{new}{line}"), histories=shop().saved(tmp_path), server=no_server)
    assert report.breaks
    assert report.proposal is None
    assert report.notes == ("A patch keeps the old histories, but its new code was not run: none today",)


def test_without_the_old_source_another_change_is_not_guessed(tmp_path: Path) -> None:
    """The replays do not know what stood there before."""
    module = shop_edited(tmp_path, '"charge", args', '"take", args')
    report = check(module, histories=shop().saved(tmp_path), server=no_server)
    assert report.breaks
    assert report.notes == (
        "No patch is proposed. Without --before, only insertions can be put under a patch, and this change is none.",
    )


CODED = '''
import dataclasses
import os

from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter, PayloadCodec


class Codec(PayloadCodec):
    """The same payload is never encoded alike."""

    async def encode(self, payloads):
        odd = {"encoding": b"odd"}
        return [Payload(metadata=odd, data=os.urandom(4) + one.SerializeToString()) for one in payloads]

    async def decode(self, payloads):
        return [Payload.FromString(one.data[4:]) for one in payloads]


CONVERTER = dataclasses.replace(DataConverter.default, payload_codec=Codec())
'''


async def test_encoded_inputs_are_compared_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec may give other bytes each time. What differs is told in decoded words."""
    (tmp_path / "coded.py").write_text(CODED, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    converter: DataConverter = importlib.import_module("coded").CONVERTER
    made = shop()
    for event in made.events:
        attributes = getattr(event, event.WhichOneof("attributes") or "")
        for name in ("input", "result"):
            if name in attributes.DESCRIPTOR.fields_by_name and attributes.HasField(name):
                held = getattr(attributes, name).payloads
                assert converter.payload_codec is not None
                encoded = await converter.payload_codec.encode(list(held))
                del held[:]
                held.extend(encoded)
    module = shop_edited(tmp_path, '"card"]', '"cash"]')
    report = check(module, histories=made.saved(tmp_path), converter="coded:CONVERTER")
    [path] = report.paths
    assert path.finding.verdict == "other input"
    assert path.finding.history == 'activity `charge` with argument 2 = "card"'
    assert path.finding.code == 'activity `charge` with argument 2 = "cash"'


def test_open_histories_count_one_by_one(tmp_path: Path) -> None:
    """An order that waits for its charge breaks; one that was only received does not. Both are open."""
    folder = tmp_path / "histories"
    folder.mkdir()
    recorded = json.loads((RECORDED / "calm.json").read_text("utf-8"))["events"]
    charged = next(
        number
        for number, event in enumerate(recorded)
        if event.get("activityTaskScheduledEventAttributes", {}).get("activityType") == {"name": "charge"}
    )
    for name, until in (("received", 8), ("charging", charged + 1), ("also-charging", charged + 2)):
        (folder / f"{name}.json").write_text(json.dumps({"events": recorded[:until]}), "utf-8")
    module = edited(tmp_path / "code", (CHARGE, CHARGE.replace("True\n", "True\n        await workflow.sleep(5)\n")))
    report = check(module, histories=folder, propose=False)
    assert report.open_breaking == 2
    assert sum(path.open for path in report.paths) == 3
    assert report.unrun_lines is None
    assert "2 open workflows would break" in str(report)


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRELLIS_HOME": str(cwd / "home")}
    return subprocess.run(
        [sys.executable, "-m", "trellis", "check", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env=environment, timeout=110,
    )  # fmt: skip


def test_the_command_ends_with_one_when_a_path_breaks(tmp_path: Path, histories: Path) -> None:
    """Its JSON has the agreed keys."""
    module = edited(tmp_path, (CHARGE, ""))
    done = command(module, "--histories", histories / "calm.json", "--no-propose", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert {"skipped", "paths", "open_breaking", "unrun_lines", "proposal"} <= found.keys()
    [path] = found["paths"]
    assert {"histories", "verdict", "event", "history", "code", "line"} <= path.keys()
    assert (path["histories"], path["verdict"], found["unrun_lines"], found["proposal"]) == (1, "breaks", None, None)


def test_the_command_ends_with_zero_when_nothing_breaks(tmp_path: Path, histories: Path) -> None:
    """The code as it is fits the histories of its own repository."""
    done = command(ORDER, "--histories", histories, "--before", "HEAD", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "breaks" not in done.stdout


WRONG = {
    "fails.py": ("import nowhere_to_be_found\n", "fails on import"),
    "empty.py": ("X = 1\n", "defines no workflow"),
    "ends.py": ("import os\nos._exit(3)\n", "ended with an error"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_module_that_cannot_be_used_is_one_sentence(tmp_path: Path, histories: Path, name: str) -> None:
    """Also one that ends the process that imports it."""
    text, sentence = WRONG[name]
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(TrellisError, match=sentence):
        check(str(tmp_path / name), histories=histories / "calm.json")


def test_bad_input_is_one_sentence(tmp_path: Path, histories: Path) -> None:
    """A misspelt module, both sources of histories, an empty folder, a revision or a folder without the old source."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"no module trellis\.workflows\.odrer"):
        check("trellis.workflows.odrer", histories=histories)
    with pytest.raises(BadInput, match="not both"):
        check(ORDER, histories=histories, query="WorkflowType = 'OrderWorkflow'")
    with pytest.raises(TrellisError, match=r"no \*\.json"):
        check(ORDER, histories=tmp_path / "empty")
    with pytest.raises(BadInput, match="no revision 'no-such-tag'"):
        check(ORDER, histories=histories, before="no-such-tag")
    with pytest.raises(BadInput, match="the old source to compare with"):
        check(ORDER, histories=histories, before=tmp_path / "empty")


def test_the_command_tells_bad_input_from_a_break(tmp_path: Path) -> None:
    """Exit code 2, and nothing on stdout."""
    done = command("no_such_module", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no module no_such_module" in done.stderr

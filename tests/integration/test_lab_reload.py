"""`lab.reload()`: edited code is taken into use while orders run."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.rooms import completes, eventually
from trellis.errors import TrellisError
from trellis.lab import reloading
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session
from trellis.policies import preset, tuned

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.3])
def test_a_reload_that_is_interrupted_still_comes_to_its_end(session: Session, moment: float) -> None:
    """The cell stops waiting, the engine does not stop halfway: workers are there, and the next reload works."""
    before = session.watch
    waiting = session.submit(session._reload())
    time.sleep(moment)
    waiting.cancel()
    assert session.reload().startswith("Reloaded")
    assert session.watch is not before
    completes(session)


@pytest.fixture
def editable(tmp_path: Path, session: Session) -> Iterator[Callable[[str, str, str], None]]:
    """Edits a copy of the package, which kernel and sandbox import from; afterwards the real one is back."""
    copy = tmp_path / "trellis"
    real = Path(str(sys.modules["trellis"].__file__)).parent
    shutil.copytree(real, copy, ignore=shutil.ignore_patterns("*.pyc", "page", "jupyter"))
    packages = {name: sys.modules[name] for name in ("trellis", *reloading.FOLDERS)}
    paths = {name: list(package.__path__) for name, package in packages.items()}
    specs = {name: sys.modules[name].__spec__ for name in reloading.modules()}
    for name, package in packages.items():
        package.__path__ = [str(copy.joinpath(*name.split(".")[1:]))]
    # The sandbox looks for packages by itself, from the beginning of this list.
    sys.path.insert(0, str(tmp_path))
    session.reload()

    def edit(file: str, old: str, new: str) -> None:
        path = copy / file
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    yield edit
    sys.path.remove(str(tmp_path))
    for name, before in paths.items():
        packages[name].__path__ = before
    for name, spec in specs.items():
        sys.modules[name].__spec__ = spec
    session.reload()
    assert all(str(tmp_path) not in str(sys.modules[name].__file__) for name in specs)


Edit = Callable[[str, str, str], None]


def test_a_reload_takes_edits_into_kernel_and_sandbox_and_keeps_running_orders(
    session: Session, editable: Edit
) -> None:
    """An order under way ends with the new activity's and the new workflow's words in its log."""
    order = session.start_order(policy="patient")
    assert eventually(lambda: session.status(order)["state"] == "AWAITING_APPROVAL")
    editable("activities/ledger_only.py", "given.request_id, given.by)", "given.request_id, given.by + ', reloaded')")
    editable("workflows/order.py", 'request.reason or "cancelled on request"', 'request.reason or "by the new code"')
    assert session.reload().startswith("Reloaded")
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
    log = session.events(order).set_index("type")["payload_json"]
    assert json.loads(log["ORDER_APPROVED"])["by"] == "request, reloaded"
    other = session.start_order(policy="patient")
    assert eventually(lambda: session.status(other)["state"] == "AWAITING_APPROVAL")
    session.cancel(other)
    assert asyncio.run(session.wait(other))["state"] == "CANCELLED"
    log = session.events(other).set_index("type")["payload_json"]
    assert json.loads(log["ORDER_CANCELLED"])["reason"] == "by the new code"


def test_what_is_reloaded_is_all_that_the_workers_are_made_of() -> None:
    """Every module under workflows/ and activities/ that the workers import, each after its own imports, no words."""
    found = reloading.modules()
    for name in ("trellis.activities.undo", "trellis.workflows.shipping", "trellis.rules"):
        assert name in found
    assert found[-1] == "trellis.workers"
    assert found.index("trellis.activities.undo") < found.index("trellis.activities.steps")
    assert not {"trellis.model", "trellis.messages", "trellis.policies", "trellis.faults"} & set(found)


def test_an_edit_of_a_module_that_an_activity_imports_is_taken(session: Session, editable: Edit) -> None:
    """Nobody listed `undo.py`; the refund of the next order runs its new code. A file that is new is taken, too."""
    imported = "from trellis.db.ledger import Ledger\n"
    editable("activities/undo.py", imported, imported + "from trellis.activities.fresh import WORDS\n")
    editable("activities/undo.py", "undone.refunded, reason, tried", "undone.refunded, WORDS, tried")
    (Path(str(sys.modules["trellis.activities"].__path__[0])) / "fresh.py").write_text("WORDS = 'by a new file'\n")
    assert session.reload().startswith("Reloaded")
    assert reloading.modules().index("trellis.activities.fresh") < reloading.modules().index("trellis.activities.undo")
    session.faults("dispatch: error*")
    order = session.start_order(policy=tuned(preset("swift"), max_tries=1, dispatch_retries=0))
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "FAILED"
    session.faults("calm")
    log = session.events(order).set_index("type")["payload_json"]
    assert json.loads(log["PAYMENT_REFUNDED"])["reason"] == "by a new file"


def test_an_order_whose_history_does_not_fit_is_named_and_goes_on_after_the_edit_is_undone(
    session: Session, room: ControlRoom, editable: Edit
) -> None:
    """A reload that would break running orders says so in words, in its answer and in the control room's log."""
    order = session.start_order(policy="patient")
    assert eventually(lambda: session.status(order)["state"] == "AWAITING_APPROVAL")
    first = "        await self._outside(Step.RECEIVE, self._given)\n"
    editable("workflows/order.py", first, "        await workflow.sleep(0.01)\n" + first)
    answer = session.reload()
    assert order in answer
    assert "do not fit the new code" in answer
    assert "Nondeterminism" in answer
    assert eventually(lambda: any("do not fit" in line["text"] for line in room.troubles))
    editable("workflows/order.py", "        await workflow.sleep(0.01)\n" + first, first)
    assert session.reload().startswith("Reloaded")
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"


@pytest.mark.parametrize(
    ("file", "new", "sentence"),
    [("workflows/order.py", "def (:", "Nothing was reloaded"), ("activities/steps.py", "boom", "cannot be imported")],
)
def test_code_that_cannot_be_imported_leaves_the_old_code_at_work(
    session: Session, editable: Edit, file: str, new: str, sentence: str
) -> None:
    """A typo is a sentence that names the file; orders go on as before."""
    editable(file, "from __future__ import annotations\n", f"from __future__ import annotations\n{new}\n")
    with pytest.raises(TrellisError, match=sentence) as failed:
        session.reload()
    assert Path(file).name in str(failed.value)
    order = session.start_order()
    session.approve(order)
    assert asyncio.run(session.wait(order))["state"] == "COMPLETED"
    editable(file, f"from __future__ import annotations\n{new}\n", "from __future__ import annotations\n")

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
    """Edits copies of the package's modules; afterwards the real ones are back."""
    names = [name for name in reloading.MODULES if ".workflows." in name or ".activities." in name]
    folders = {}
    for package in ("workflows", "activities"):
        module = sys.modules[f"trellis.{package}"]
        folders[package] = list(module.__path__)
        shutil.copytree(folders[package][0], tmp_path / package)
        module.__path__ = [str(tmp_path / package)]
    specs = {name: sys.modules[name].__spec__ for name in names}
    session.reload()

    def edit(file: str, old: str, new: str) -> None:
        path = tmp_path / file
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    yield edit
    for package, before in folders.items():
        sys.modules[f"trellis.{package}"].__path__ = before
    for name, spec in specs.items():
        sys.modules[name].__spec__ = spec
    session.reload()
    assert all(str(tmp_path) not in str(sys.modules[name].__file__) for name in names)


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


def test_an_order_whose_history_does_not_fit_is_named_and_goes_on_after_the_edit_is_undone(
    session: Session, room: ControlRoom, editable: Edit
) -> None:
    """A reload that would break running orders says so in words, in its answer and in the control room's log."""
    order = session.start_order(policy="patient")
    assert eventually(lambda: session.status(order)["state"] == "AWAITING_APPROVAL")
    first = "        await self._outside(Step.RECEIVE, self._given)\n"
    editable("workflows/order.py", first, "        await workflow.sleep(0.01)\n" + first)
    said = session.reload()
    assert order in said
    assert "do not fit the new code" in said
    assert "Nondeterminism" in said
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

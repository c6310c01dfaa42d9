"""The audit finds the mistakes that are planted in the code. `python -m tests.planted --all` plants all ten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.planted.bugs import BUGS, SHORT, Bug, bug_of
from tests.planted.runner import Disarmed, copy_of_the_package, run
from tests.planted.scenarios import SCENARIOS
from trellis import stack

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_mistake_still_has_its_place_in_the_code(bug: Bug, tmp_path: Path) -> None:
    """Each change applies exactly once, and the changed modules compile: no change of the code disarms a mistake."""
    copy_of_the_package(tmp_path, bug)
    for edit in bug.edits:
        if edit.file.endswith(".py"):
            compile((tmp_path / edit.file).read_text("utf-8"), edit.file, "exec")
    assert bug.scenario in SCENARIOS


def test_a_mistake_without_a_place_is_an_error(tmp_path: Path) -> None:
    """Code that is not there, or there twice, is reported and never skipped."""
    bug = BUGS[0]
    for old in ("this is written nowhere", "import"):
        edit = type(bug.edits[0])(bug.edits[0].file, old, "")
        with pytest.raises(Disarmed, match=bug.name):
            copy_of_the_package(tmp_path / old[:4], Bug(bug.name, "", (edit,), "", frozenset(), ""))


async def test_planted_mistakes_are_found_and_nothing_else_is(running: stack.Stack) -> None:
    """Three mistakes, each found by its own sentence; the same orders without a mistake are clean."""
    bugs = [bug_of(name) for name in SHORT]
    seed = bugs[0].seed
    honest, *planted = await asyncio.gather(
        run(running, None, [bug.scenario for bug in bugs], seed),
        *(run(running, bug, [bug.scenario], seed) for bug in bugs),
    )
    assert honest.sentences == ()
    assert [bug.name for bug, found in zip(bugs, planted, strict=True) if not found.shows(bug)] == []

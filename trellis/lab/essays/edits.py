"""Edits of the order's workflow that look harmless, made in a copy of the package."""

from __future__ import annotations

from pathlib import Path

from trellis.edited import Edit, package_copy
from trellis.errors import BadInput
from trellis.lab.session import Session

WORKFLOW = "trellis/workflows/order.py"

EDITS = {
    "a pause before the charge": Edit(
        WORKFLOW,
        "        self._charging = True\n        await self._outside(Step.CHARGE)\n",
        "        await workflow.sleep(1)\n        self._charging = True\n        await self._outside(Step.CHARGE)\n",
    ),
}


def edited(session: Session, edit: str = "a pause before the charge") -> Path:
    """The order's workflow with this edit, in a copy of the package in the workspace. Nothing runs it.

    Raises BadInput for an unknown edit.
    """
    if edit not in EDITS:
        raise BadInput(f"There is no edit {edit!r}. Known are {', '.join(EDITS)}.")
    folder = session.settings.home / "edited"
    package_copy(folder, [EDITS[edit]])
    return folder / WORKFLOW

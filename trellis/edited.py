"""A copy of this package with edits in it: another version to deploy, or a mistake to plant."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from trellis.db.migrate import sql_folder
from trellis.errors import StackError


class Edit(NamedTuple):
    """One change: `old` must stand in the file exactly once. `file`: below the copy, as trellis/model.py or sql/..."""

    file: str
    old: str
    new: str


def package_copy(into: Path, edits: Iterable[Edit] = ()) -> dict[str, str]:
    """A copy of this package and its migrations in `into`, with edits; the environment that runs it.

    Raises StackError if an old text is not there exactly once: then the file has changed since the edit was written.
    """
    shutil.rmtree(into, ignore_errors=True)
    package = Path(__file__).parent
    # The pages of the lab stay behind: a worker does not show them.
    left = shutil.ignore_patterns("__pycache__", "_sql", "page", "jupyter")
    shutil.copytree(package, into / "trellis", ignore=left)
    shutil.copytree(sql_folder(), into / "sql")
    for edit in edits:
        path = into / edit.file
        text = path.read_text("utf-8")
        if text.count(edit.old) != 1:
            raise StackError(
                f"The copy of {edit.file} cannot be edited: it does not have {edit.old.strip()!r} exactly once, but "
                f"{text.count(edit.old)} times."
            )
        path.write_text(text.replace(edit.old, edit.new), "utf-8")
    # Without the safe path, Python would find the package of the folder that it is started in.
    return {"PYTHONPATH": str(into), "PYTHONSAFEPATH": "1"}

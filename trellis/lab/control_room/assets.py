"""The page's modules and style sheets, joined into the two texts that an anywidget takes.

The modules are plain ES modules: a person can read and check each alone. They are joined here, when the widget is
imported, so that nobody needs Node. Joined modules share one scope, so no two of them may define one name at top level.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).with_name("page")
ENTRY = "room"

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default )", re.MULTILINE)


def modules() -> dict[str, str]:
    """The text of each module that the page needs, without imports and exports; a module comes after its imports."""
    found: dict[str, str] = {}

    def visit(name: str) -> None:
        if name in found:
            return
        source = (FOLDER / f"{name}.js").read_text("utf-8")
        for needed in _IMPORT.findall(source):
            visit(needed)
        found[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    visit(ENTRY)
    return found


def script() -> str:
    """One ES module that exports the widget."""
    return "\n".join(modules().values())


def style() -> str:
    """One style sheet. The rules that all panels share come first."""
    shared = FOLDER / f"{ENTRY}.css"
    rest = sorted(path for path in FOLDER.glob("*.css") if path != shared)
    return "\n".join(path.read_text("utf-8") for path in (shared, *rest))

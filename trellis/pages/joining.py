"""The modules and style sheets of a page, joined into the two texts that an anywidget or one HTML file takes.

The modules are plain ES modules: a person can read and check each alone. They are joined here, when a widget is
imported or a file is written, so that nobody needs Node. Joined modules share one scope, so no two of them may define
one name at top level. Some folders are used by several pages: `shared/` here by all, a recording's page by the control
room too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SHARED = Path(__file__).with_name("shared")

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default )", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """A page. `folders`: where its modules and style sheets are, besides `SHARED`. `entry`: its first module.

    A module imports others by their name alone, whatever their folder.
    """

    folders: tuple[Path, ...]
    entry: str

    def path(self, name: str, kind: str = "js") -> Path:
        """The file of a module. Raises FileNotFoundError when no folder has it."""
        for folder in (SHARED, *self.folders):
            found = folder / f"{name}.{kind}"
            if found.exists():
                return found
        raise FileNotFoundError(f"no folder of the page has {name}.{kind}")

    def modules(self) -> dict[str, str]:
        """The text of each module that the page needs, without imports and exports; a module follows its imports."""
        found: dict[str, str] = {}

        def visit(name: str) -> None:
            if name in found:
                return
            source = self.path(name).read_text("utf-8")
            for needed in _IMPORT.findall(source):
                visit(needed)
            found[name] = _EXPORT.sub("", _IMPORT.sub("", source))

        visit(self.entry)
        return found

    def script(self) -> str:
        """One ES module, with the default export of the entry if it has one."""
        return "\n".join(self.modules().values())

    def style(self) -> str:
        """One style sheet. The rules that all pages share come first, then those of each folder."""
        sheets = [path for folder in (SHARED, *self.folders) for path in sorted(folder.glob("*.css"))]
        return "\n".join(path.read_text("utf-8") for path in sheets)

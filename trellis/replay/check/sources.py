"""The source files of a module: its own, those it imports from the same place, and how they were before."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trellis.errors import BadInput

_LARGE = 5_000_000
_NO_CODE = shutil.ignore_patterns("__pycache__", ".*", "node_modules", "*.ipynb")


def _left_behind(folder: str, names: list[str]) -> set[str]:
    """What a copy of sources does not need: large files are data."""
    large = {
        name for name in names if (Path(folder) / name).is_file() and (Path(folder) / name).stat().st_size > _LARGE
    }
    return large | set(_NO_CODE(folder, names))


@dataclass(frozen=True)
class Sources:
    """A module to check. `root` is the folder that is on Python's path, `files` the module's own file and those that it
    imports from below `root`, directly or not; the module's own is the first."""

    module: str
    root: Path
    files: tuple[Path, ...]

    def texts(self) -> dict[Path, str]:
        return {file: file.read_text("utf-8") for file in self.files}


def find(module: str) -> Sources:
    """Where a module's sources are. `module` is a dotted name, or the path of a Python file. The module is not run.

    Raises BadInput.
    """
    if module.endswith(".py") or os.sep in module:
        file = Path(module).absolute()
        if not file.is_file():
            raise BadInput(f"There is no file {module}.")
        root, name = file.parent, file.stem
        while (root / "__init__.py").is_file():
            root, name = root.parent, f"{root.name}.{name}"
        return Sources(name.removesuffix(".__init__"), root, _closure(file, root))
    file = _file_of(module)
    parts = module.split(".")
    root = file.parents[len(parts) if file.name == "__init__.py" else len(parts) - 1]
    return Sources(module, root, _closure(file, root))


def _file_of(module: str) -> Path:
    """The file of a dotted name. `find_spec` alone would import the packages above, which may fail."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise BadInput(f"{module!r} is no name of a Python module.")
    # A console script has its own folder on the path, not the one it is started in.
    path: list[str] = [os.getcwd(), *sys.path]
    spec = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None:
            raise BadInput(f"There is no module {name}. Python looks for it in the folders of PYTHONPATH.")
        path = list(spec.submodule_search_locations or ())
    assert spec is not None
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise BadInput(f"{module} has no Python source, so it cannot be checked.")
    return Path(spec.origin).resolve()


def _closure(file: Path, root: Path) -> tuple[Path, ...]:
    """The file and what it imports from below `root`."""
    found: dict[Path, None] = {file: None}
    waiting = [file]
    while waiting:
        for other in _imported(waiting.pop(), root):
            if other not in found:
                found[other] = None
                waiting.append(other)
    return tuple(found)


def _imported(file: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return
    package = list(file.relative_to(root).parts[:-1])
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            place = root.joinpath(*name.split("."))
            for candidate in (place.with_suffix(".py"), place / "__init__.py"):
                if name and candidate.is_file():
                    yield candidate


def before(sources: Sources, source: str) -> dict[Path, str | None]:
    """The old texts of the sources' files; None for a file that was not there.

    `source` is a folder that holds the old files, under the same names below it, or a revision of git. Raises BadInput.
    """
    folder = Path(source)
    if folder.is_dir():
        names = {file: file.relative_to(sources.root) for file in sources.files}
        own = names[sources.files[0]]
        # The folder may stand for the root, for a package below it, or for the module's own folder.
        above = next((at for at in range(len(own.parts)) if folder.joinpath(*own.parts[at:]).is_file()), None)
        if above is None:
            raise BadInput(f"{source} has no {own}, the old source to compare with.")
        found: dict[Path, str | None] = {}
        for file, name in names.items():
            same = name.parts[:above] == own.parts[:above]
            old = folder.joinpath(*name.parts[above:]) if same else file
            # The folder need not hold the files that were not changed.
            found[file] = (old if old.is_file() else file).read_text("utf-8")
        return found
    if folder.is_file():
        raise BadInput(f"{source} is a file. --before takes a folder, or a revision of git.")
    return _in_git(sources, source)


def _in_git(sources: Sources, revision: str) -> dict[Path, str | None]:
    top = _git(sources.root, "rev-parse", "--show-toplevel")
    if top is None:
        raise BadInput(
            f"{sources.root} is not under git, and there is no folder {revision}: --before needs one of both."
        )
    if revision.startswith("-") or _git(sources.root, "rev-parse", "--verify", f"{revision}^{{commit}}") is None:
        raise BadInput(f"There is no revision {revision!r} in git, and no folder of that name.")
    found: dict[Path, str | None] = {}
    for file in sources.files:
        found[file] = _git(file.parent, "show", f"{revision}:./{file.name}")
    if found[sources.files[0]] is None:
        raise BadInput(f"Revision {revision} has no {sources.files[0].name}, the old source to compare with.")
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    """What git printed; None where it failed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        raise BadInput("git cannot be run, which --before needs for a revision. Give a folder instead.") from None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def copied(sources: Sources, into: Path, texts: Mapping[Path, str]) -> None:
    """Copy the sources below `into`, with other texts for some files. A package is copied whole."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    for top in {file.relative_to(sources.root).parts[0] for file in sources.files}:
        place = sources.root / top
        if place.is_dir():
            shutil.copytree(place, into / top, ignore=_left_behind)
        else:
            shutil.copy2(place, into / top)
    for file, text in texts.items():
        target = into / file.relative_to(sources.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")


def environment(*first: Path) -> dict[str, str]:
    """The environment of a child process that looks for modules in these folders first, then where this one does."""
    rest = [entry or os.getcwd() for entry in sys.path]
    path = os.pathsep.join(dict.fromkeys([*map(str, first), *rest]))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}

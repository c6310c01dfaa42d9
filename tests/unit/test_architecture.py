"""Who may import whom. The table is the architecture: a module that is not in it fails the test."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WORDS = {
    "errors", "model", "parsing", "retry", "policies", "messages", "outages", "faults", "flights", "governor", "rules",
}  # fmt: skip
"""Pure modules: they use no network, no disk and no clock."""

ALLOWED: dict[str, set[str]] = {
    # words
    "errors": set(),
    "model": {"errors"},
    "parsing": {"errors", "model"},
    "retry": set(),
    "policies": {"errors", "model", "retry"},
    "messages": {"errors", "model", "parsing", "policies"},
    "rules": {"errors", "messages", "model", "parsing", "policies"},
    "outages": {"errors"},
    "faults": {"errors", "model", "outages"},
    "flights": set(),
    "governor": {"retry"},
    "database_url": set(),
    "environment": set(),
    "config": {"database_url", "environment", "errors"},
    "logs": {"config"},
    "pages": {"errors"},
    "threads": set(),
    # what is replayed
    "sandbox": set(),
    "incoming": {"errors", "messages", "parsing", "policies"},
    "workflows": {"incoming", *WORDS} - {"outages", "faults", "flights", "governor"},
    # side effects, servers
    "flaky": WORDS,
    "db": WORDS,
    "activities": {"db", "flaky", "retrying", *WORDS},
    "stack": {"config", "db", "errors"},
    "temporal_calls": {"errors"},
    "replay": {"config", "errors", "pages", "runtime", "sandbox", "stack", "threads"},
    "workers": {"activities", "config", "db", "flaky", "sandbox", "workflows", *WORDS},
    # other people's workflows
    "event_fields": set(),
    "plugin": {"config", "database_url", "db", "event_fields", "flaky", "stack", *WORDS},
    "retrying": {"flaky", "errors", "flights", "governor", "plugin", "retry"},
    # orders, for everybody who is not a workflow
    "status": {"db", "temporal_calls", *WORDS},
    "desk": {"config", "db", "stack", "status", "temporal_calls", *WORDS},
    "runtime": {"config", "db", "desk", "stack", "workers", *WORDS},
    "driving": {"desk", *WORDS},
    "histories": {"errors", "incoming", "messages", "model", "parsing"},
    "outcomes": {"db", "histories", "model"},
    "audit": {"db", "histories", "insight", "outcomes", "sandbox", "temporal_calls", "workers", "workflows", *WORDS},
    "reconcile": {"activities", "db", "desk", "histories", "temporal_calls", *WORDS},
    "crew": {"config", "errors"},
    "edited": {"db", "errors"},
    "chaos": {
        "audit", "config", "crew", "db", "desk", "driving", "edited", "logs", "runtime", "stack", "workflows", *WORDS,
    },
    "flying": {"errors", "plugin", "stack"},
    # surfaces
    "api": {"config", "desk", "logs", "runtime", "status", *WORDS},
    "insight": {"config", "database_url", "db", "environment", "event_fields", "plugin", "stack", "threads", *WORDS},
    "doctor": {"config", "db", "insight", "plugin", *WORDS},
    "lab": {
        "activities", "audit", "chaos", "config", "crew", "db", "desk", "driving", "edited", "event_fields", "flying",
        "insight", "logs", "pages", "plugin", "replay", "runtime", "sandbox", "stack", "status", "temporal_calls",
        "workers", "workflows", *WORDS,
    },
    "bench": {
        "activities", "audit", "chaos", "config", "db", "desk", "doctor", "driving", "event_fields", "insight", "lab",
        "logs", "plugin", "replay", "retrying", "runtime", "sandbox", "stack", "workers", "workflows", *WORDS,
    },
    "cli": {
        "api", "audit", "bench", "chaos", "config", "database_url", "db", "desk", "doctor", "driving", "environment",
        "flying", "insight", "lab", "logs", "plugin", "reconcile", "replay", "runtime", "stack", "status", "workers",
        *WORDS,
    },
    "__main__": {"cli"},
    "trellis": set(),
}  # fmt: skip
"""Each part (a module or a folder under trellis/) and what it may import besides itself."""


def modules() -> dict[str, Path]:
    """All modules of the package by their dotted names."""
    files = sorted((ROOT / "trellis").rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imports(file: Path, ours: Iterable[str] = ()) -> set[str]:
    """What a file imports, inside functions and for type checking too; submodules in place of their packages."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively: write the whole name"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in ours else str(node.module))
    return found


def cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """One circle of the graph, or nothing."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


MODULES = modules()
GRAPH = {name: imports(file, MODULES) & set(MODULES) - {name} for name, file in MODULES.items()}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def test_every_module_is_in_the_table() -> None:
    """A new part needs a line in the table, and a part that is gone leaves it."""
    assert {part(module) for module in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_what_the_table_allows(module: str) -> None:
    """Each module imports its own part and the parts that the table names for it."""
    parts = {part(imported) for imported in GRAPH[module]} - {part(module)}
    assert parts <= ALLOWED[part(module)]


def test_nothing_is_imported_upwards() -> None:
    """The table has no circle, so that its parts stand in layers and every import goes down."""
    assert cycle(ALLOWED) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checking count."""
    assert cycle(GRAPH) == []


def test_a_circle_would_be_found() -> None:
    """The test above fails if there is a circle."""
    assert set(cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


def test_only_the_database_layer_imports_the_driver() -> None:
    """psycopg is imported in trellis/db and trellis/stack, and nowhere else."""
    users = {part(name) for name, file in MODULES.items() if any(i.startswith("psycopg") for i in imports(file))}
    assert users <= {"db", "stack"}


def test_the_command_line_is_quick_to_import() -> None:
    """Temporal's SDK, the driver and pandas are imported inside the command that needs them."""
    import subprocess
    import sys

    code = "import sys, trellis.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {"temporalio", "psycopg", "pydantic", "pandas", "numpy", "altair", "fastapi", "ipywidgets"}
    assert heavy & set(done.stdout.split()) == set()


def test_the_package_itself_imports_nothing() -> None:
    """The sandbox executes `trellis/__init__.py` again for each workflow."""
    assert imports(ROOT / "trellis" / "__init__.py") == set()

"""The pure parts: rules, settings, and who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from trellis import config
from trellis.errors import ConfigError
from trellis.rules import Budget, root_cause

ROOT = Path(__file__).resolve().parents[2]


def test_a_budget_pauses_during_the_review() -> None:
    """Time in review is given back; a claim ends the budget for good."""
    budget = Budget(10)
    budget.start(100)
    budget.pause(104)
    assert budget.left(500) is None
    budget.start(500)
    assert budget.left(501) == 5
    budget.end()
    assert budget.left(9999) is None


def test_the_root_cause_is_what_the_outside_system_said() -> None:
    """Wrappers on the way are skipped."""
    inner, outer = ValueError("inner"), RuntimeError("outer")
    outer.__cause__ = inner
    assert root_cause(outer) == "inner"


def test_an_unknown_setting_is_an_error() -> None:
    """A misspelt TRELLIS_ name is not silently ignored."""
    with pytest.raises(ConfigError, match="TRELLIS_POLCY"):
        config.load({"TRELLIS_POLCY": "swift"}, None)


def test_aliases_and_bad_values_of_settings() -> None:
    """Older names work, the first name wins, and a value that cannot be used names its variable."""
    assert config.load({"ORDERS_TQ": "a", "TEMPORAL_TARGET": "h:1"}, None).orders_queue == "a"
    assert config.load({"ORDERS_TQ": "a", "ORDERS_TASK_QUEUE": "b"}, None).orders_queue == "b"
    with pytest.raises(ConfigError, match="WORKFLOW_RUN_TIMEOUT_SECONDS"):
        config.load({"WORKFLOW_RUN_TIMEOUT_SECONDS": "soon"}, None)


ALLOWED = {
    "errors": set(),
    "model": set(),
    "parsing": {"errors", "model"},
    "policies": {"errors", "model"},
    "config": {"errors"},
    "messages": {"model", "policies"},
    "rules": {"errors", "model", "parsing"},
    "faults": {"errors", "model"},
    "incoming": {"errors", "messages", "parsing", "policies"},
    "workflows": {"errors", "incoming", "messages", "model", "rules", "policies", "workflows"},
    "db": {"db", "errors", "faults", "messages", "model", "policies"},
    "activities": {"activities", "db", "faults", "messages", "model", "policies"},
    "stack": {"stack", "config", "errors"},
    "sandbox": set(),
    "workers": {"activities", "config", "db", "errors", "faults", "model", "sandbox", "workflows"},
    "temporal_calls": {"errors"},
    "status": {"db", "errors", "messages", "model", "parsing", "rules", "temporal_calls"},
    "desk": {"config", "db", "errors", "messages", "model", "parsing", "policies", "stack", "status", "temporal_calls"},
    "histories": {"messages"},
    "audit": {"db", "errors", "histories", "messages", "model", "temporal_calls", "workers", "workflows"},
    "reconcile": {"activities", "db", "desk", "errors", "histories", "messages", "model", "temporal_calls"},
    "api": {"api", "config", "desk", "errors", "faults", "model", "parsing", "stack"},
    "insight": {"insight", "config", "db", "errors", "faults", "model", "policies", "stack"},
    "lab": {
        "lab",
        "activities",
        "config",
        "db",
        "desk",
        "errors",
        "faults",
        "insight",
        "logs",
        "messages",
        "model",
        "parsing",
        "policies",
        "stack",
        "status",
        "workers",
        "workflows",
    },
}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "trellis" else {node.module}
            )
    return found


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_the_import_table_of_the_architecture_holds(part: str) -> None:
    """Each part imports only what the architecture allows it."""
    folder = ROOT / "trellis" / part
    files = list(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    assert files
    for file in files:
        ours = {name.split(".")[1] for name in _imports(file) if name.startswith("trellis.")}
        assert ours <= ALLOWED[part], file.name


def test_only_the_database_layer_imports_the_driver() -> None:
    """psycopg is imported in trellis/db and trellis/stack, and nowhere else; the package root imports nothing."""
    for file in (ROOT / "trellis").rglob("*.py"):
        names = {name.split(".")[0] for name in _imports(file)}
        if file.parent.name not in ("db", "stack"):
            assert not names & {"psycopg", "psycopg_pool"}, file.name
    assert _imports(ROOT / "trellis" / "__init__.py") == set()

"""Load edited code into a running kernel: either all modules that the workers are made of, or none of them."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import TrellisError
from trellis.messages import Status
from trellis.model import workflow_id

ENTRY = "trellis.workers"
FOLDERS = ("trellis.workflows", "trellis.activities")
LOGIC = ("trellis.rules", "trellis.parsing", "trellis.incoming")
"""Pure functions that workflows call. They keep no values, so they can change in a running lab.

Other modules outside FOLDERS are not reloaded. Model, messages and policies define the classes of values in use. If
they were reloaded, old values would belong to another class than new ones. An edit there needs a new kernel.
"""


def modules() -> list[str]:
    """The modules that a reload imports again, each after those that it imports. Read from the files as they are now.

    Raises TrellisError for a file that is not valid Python.
    """
    seen: set[str] = set()
    found: list[str] = []

    def visit(name: str) -> None:
        path = _file(name)
        if name in seen or path is None:
            return
        seen.add(name)
        for imported in _imports(name, path):
            visit(imported)
        if name == ENTRY or name in LOGIC or name.rpartition(".")[0] in FOLDERS:
            found.append(name)

    visit(ENTRY)
    return found


def reload() -> None:
    """Import all of them again. If one fails, all stay as they were, and TrellisError says which one failed."""
    names = modules()
    before = {name: dict(vars(sys.modules[name])) for name in names if name in sys.modules}
    importlib.invalidate_caches()
    for name in names:
        module = sys.modules.get(name)
        # The import system compares times in whole seconds: it would miss the second of two edits within one second.
        cached = getattr(module, "__cached__", None)
        if cached:
            Path(cached).unlink(missing_ok=True)
        try:
            if module is None:
                importlib.import_module(name)
            else:
                importlib.reload(module)
        except Exception as error:
            for other, values in before.items():
                vars(sys.modules[other]).clear()
                vars(sys.modules[other]).update(values)
            raise TrellisError(
                f"{name.rpartition('.')[2]}.py cannot be imported ({type(error).__name__}: {error}). "
                f"Nothing was reloaded; the old code goes on."
            ) from None


async def misfit(client: Client, order_id: str) -> str | None:
    """Why the order's history does not fit the code that runs now; None where it fits or nobody can tell."""
    late = ""
    # A machine that compiles and replays much at once is slow. A late answer does not prove that the history misfits.
    for _ in range(4):
        try:
            await client.get_workflow_handle(workflow_id(order_id)).query(
                "status", result_type=Status, rpc_timeout=timedelta(seconds=5)
            )
        except WorkflowQueryFailedError as failed:
            return str(failed)
        except RPCError as error:
            if error.status not in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
                return error.message
            late = error.message
        else:
            return None
    return f"no answer in 20 s ({late})."


def _file(name: str) -> Path | None:
    """The file that an import of this name reads. None where the name is not a module of ours."""
    parent, _, leaf = name.rpartition(".")
    if parent.split(".")[0] != "trellis":
        return None
    package = sys.modules.get(parent)
    for folder in getattr(package, "__path__", ()):
        for path in (Path(folder) / f"{leaf}.py", Path(folder) / leaf / "__init__.py"):
            if path.exists():
                return path
    return None


def _imports(name: str, path: Path) -> Iterator[str]:
    try:
        # Compiled, not only parsed, because only the compiler finds some mistakes.
        text = path.read_text("utf-8")
        compile(text, str(path), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise TrellisError(
            f"{path.name}{f', line {line}' if line else ''}: {getattr(error, 'msg', error)}. "
            f"Nothing was reloaded; the old code goes on."
        ) from None
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)

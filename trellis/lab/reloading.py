"""New code into a running kernel: what an edit of workflows and activities touches, all of it or nothing."""

from __future__ import annotations

import importlib
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType

from temporalio.client import Client, WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import TrellisError
from trellis.messages import Status
from trellis.model import workflow_id

MODULES = (
    "trellis.rules",
    "trellis.workflows.calls",
    "trellis.workflows.shipping",
    "trellis.workflows.order",
    "trellis.activities.attempts",
    "trellis.activities.ledger_only",
    "trellis.activities.steps",
    "trellis.workers",
)
"""In the order in which they import one another. Workflows are run as these modules are loaded (trellis.sandbox).

Words that cross the wire (model, messages, policies) are not among them: values made before the reload would no
longer be of the classes made after it. An edit there needs a new kernel.
"""


def check() -> None:
    """Raise TrellisError if a file could not even be read as Python."""
    for name in MODULES:
        path = _file(sys.modules[name])
        try:
            compile(path.read_text("utf-8"), str(path), "exec")
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            raise TrellisError(
                f"{path.name}{f', line {line}' if line else ''}: {getattr(error, 'msg', error)}. "
                f"Nothing was reloaded; the old code goes on."
            ) from None


def reload() -> None:
    """Import all of them anew. If one fails, all are as they were, and TrellisError says which."""
    before = {name: dict(vars(sys.modules[name])) for name in MODULES}
    importlib.invalidate_caches()
    for name in MODULES:
        module = sys.modules[name]
        # A second edit within one second looks to the import system like none.
        cached = getattr(module, "__cached__", None)
        if cached:
            Path(cached).unlink(missing_ok=True)
        try:
            importlib.reload(module)
        except Exception as error:
            for other, names in before.items():
                vars(sys.modules[other]).clear()
                vars(sys.modules[other]).update(names)
            raise TrellisError(
                f"{_file(module).name} cannot be imported ({type(error).__name__}: {error}). "
                f"Nothing was reloaded; the old code goes on."
            ) from None


async def misfit(client: Client, order_id: str) -> str | None:
    """Why the order's history does not fit the code that runs now; None where it fits or nobody can tell."""
    late = ""
    # A machine that compiles and replays much at once is slow, which says nothing of the history.
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


def _file(module: ModuleType) -> Path:
    assert module.__file__ is not None
    return Path(module.__file__)

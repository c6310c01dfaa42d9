"""Where an app runs: its queue, its namespace, and a connection for it."""

from __future__ import annotations

import re
from typing import Any

from temporalio.client import Client
from temporalio.converter import DataConverter

from trellis import stack
from trellis.errors import BadInput
from trellis.flying.app import App
from trellis.stack.temporal import ensure_namespace

_NAMESPACE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{1,}$")


def queue_of(app: App) -> str:
    """The queue of an app that names none: its module, or its first workflow where that is a notebook or a script."""
    first = (*app.workflows, *app.activities)[0]
    module = str(getattr(first, "__module__", "__main__")).rpartition(".")[2]
    return module if module != "__main__" else (*app.workflow_types, *app.activity_types)[0]


async def connected(target: stack.TemporalTarget, data_converter: DataConverter | None = None) -> Client:
    """A new connection. A namespace that the workspace's own server does not have is made.

    Raises BadInput for what is no name of a namespace; TemporalUnavailable, also for a namespace that an external
    server does not have, or denies.
    """
    if not _NAMESPACE.match(target.namespace):
        raise BadInput(f"{target.namespace!r} is no name for a namespace. Use letters, digits, -, _ and dots.")
    if not target.external:
        await ensure_namespace(target)
    options: dict[str, Any] = {} if data_converter is None else {"data_converter": data_converter}
    return await stack.connect(target, **options)

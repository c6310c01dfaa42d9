"""Where an app runs: its queue, its namespace, and a connection for it."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from trellis import stack
from trellis.errors import BadInput, TemporalUnavailable
from trellis.flying.app import App
from trellis.stack.temporal import ensure_namespace

PATIENCE = 20.0
"""How long the server may need to know a new namespace [s]."""

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
    client = await stack.connect(target, **options)
    if not target.external:
        await _known(client)
    return client


async def _known(client: Client) -> None:
    """Wait until the server takes calls for a namespace that was just made: about a second. Raises TemporalUnavailable.

    It reads the names of all namespaces anew from time to time, and until then it knows only of those before.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await client.count_workflows("", rpc_timeout=timedelta(seconds=5))
            return
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND or asyncio.get_running_loop().time() > deadline:
                raise TemporalUnavailable(
                    f"Temporal does not take the namespace {client.namespace}: {error.message}."
                ) from None
        await asyncio.sleep(0.1)

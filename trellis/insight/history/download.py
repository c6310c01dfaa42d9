"""Fetch histories from Temporal: by id or by query, several at a time."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pandas as pd
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from trellis import config, stack
from trellis.errors import BadInput, TemporalUnavailable, TrellisError
from trellis.insight.history.frames import made
from trellis.insight.history.rows import rows

T = TypeVar("T")

# A visibility query begins with an attribute, a comparison and a literal. A workflow id may contain each of these
# signs, but not in this order.
_QUERY = re.compile(
    r"""[\s(]*(NOT\s+)?`?[A-Za-z_]\w*`?
        (\s*(=|!=|<>|<=|>=|<|>)\s*["'] | \s+(=|!=|<>|<=|>=|<|>)\s | \s+(NOT\s+)?IN\s*\( |
         \s+IS\s | \s+(NOT\s+)?(BETWEEN|STARTS_WITH)\s)""",
    re.IGNORECASE | re.VERBOSE,
)


def history(
    which: str | None = None,
    client: Client | str | None = None,
    *,
    query: str | None = None,
    id: str | None = None,
    namespace: str | None = None,
    run_id: str | None = None,
    limit: int | None = None,
    concurrency: int = 16,
    progress: bool = False,
) -> pd.DataFrame:
    """One row per workflow run and each of its activity attempts, timers, signals, updates and children.

    `which` is a workflow id, or a visibility query when it looks like one (`WorkflowType = "X" AND ...`). `id=` and
    `query=` say which of the two it is. `client`: an address, or None for this workspace's Temporal (or the one that
    the settings name). `limit`: at most this many workflows. Blocks; in a coroutine use `await download(...)`.

    Columns: workflow_id, run_id, error [string], workflow_type, kind, name, queue, worker, failure_type [category],
    event, end_event [Int64: numbers of the history events that opened and ended the row], task [Int64: number of the
    workflow task's completed event whose commands made the row; missing for what came from outside, such as signals and
    updates], attempt [Int32], outcome [category: succeeded, failed, timed out, abandoned, unknown (missing from the
    history), open (running, or cut off by the workflow's end)], scheduled_at, started_at, ended_at [UTC],
    schedule_to_start, start_to_close [s], parent [string: workflow id of the run's parent], target [string: workflow id
    of the child, or of the workflow to which a signal or a cancel was sent], namespace, build_id (of the worker),
    endpoint, service (of a Nexus operation) [category].
    Timeouts and retry policy of activities, children, workflows: start_to_close_timeout, schedule_to_close_timeout [s;
    for children and workflows the run's and the execution's timeout; for a timer, start_to_close_timeout is the time it
    was set to], initial_interval, maximum_interval [s], backoff_coefficient [float], maximum_attempts [Int32, 0 for no
    limit]. NaN where a value is not set or not known.
    Kinds: workflow, activity, local activity, timer, signal, signal sent, update, child, marker, request to cancel,
    nexus, unknown event, gap (a workflow of a query whose history was gone when its turn came).
    Negative seconds come from clocks that differ between servers. They are not corrected.

    Raises TrellisError: nothing found, no such namespace, no permission, a query the server does not understand.
    """

    async def work() -> pd.DataFrame:
        return await download(
            await connected(client, namespace), which, query=query, id=id, run_id=run_id, limit=limit,
            concurrency=concurrency, progress=progress,
        )  # fmt: skip

    if isinstance(client, Client):
        raise BadInput("A Client belongs to its event loop: use `await insight.download(client, ...)`, or an address.")
    return _in_a_thread(work())


async def connected(client: Client | str | None, namespace: str | None) -> Client:
    """The given Client, a new one for an address, or a new one by the settings and the workspace."""
    if isinstance(client, Client):
        return client
    try:
        if isinstance(client, str):
            return await Client.connect(client, namespace=namespace or "default")
        settings = config.load()
        if namespace is not None:
            settings = settings.model_copy(update={"temporal_namespace": namespace})
        return await stack.connect(stack.require(settings).temporal)
    except RuntimeError as error:
        raise TemporalUnavailable(f"Temporal at {client} does not answer ({str(error)[:200]}).") from None


async def download(
    client: Client,
    which: str | None = None,
    *,
    query: str | None = None,
    id: str | None = None,
    run_id: str | None = None,
    limit: int | None = None,
    concurrency: int = 16,
    progress: bool = False,
) -> pd.DataFrame:
    """As `history`, on the running event loop."""
    given = [one for one in (which, query, id) if one is not None]
    if len(given) != 1 or not given[0].strip():
        raise BadInput("Say which workflow: an id, or a visibility query such as 'WorkflowType = \"OrderWorkflow\"'.")
    asked = given[0]
    many = query is not None or (which is not None and _QUERY.match(which) is not None)
    try:
        if many:
            found = [one async for one in client.list_workflows(asked, limit=limit)]
        else:
            found = [await client.get_workflow_handle(asked, run_id=run_id).describe()]
        if not found:
            raise TrellisError(f"No workflow in namespace {client.namespace} matches {asked}, or none is left.")
        gate = asyncio.Semaphore(max(1, concurrency))
        with _Progress(len(found), progress) as tick:

            async def one(workflow_id: str, run: str, open_: bool) -> list[dict[str, Any]]:
                handle = client.get_workflow_handle(workflow_id, run_id=run)
                async with gate:
                    try:
                        events = (await handle.fetch_history()).events
                        described = (await handle.describe()).raw_description if open_ else None
                    except RPCError as error:
                        if error.status is not RPCStatusCode.NOT_FOUND or not many:
                            raise
                        return [_gap(workflow_id, run) | {"namespace": client.namespace}]
                    finally:
                        tick()
                return rows(workflow_id, events, run_id=run, described=described, namespace=client.namespace)

            running = WorkflowExecutionStatus.RUNNING
            parts = await asyncio.gather(*(one(each.id, each.run_id, each.status is running) for each in found))
    except RPCError as error:
        raise _explained(error, asked, client.namespace) from None
    return made([row for part in parts for row in part])


def _gap(workflow_id: str, run_id: str) -> dict[str, Any]:
    return {
        "workflow_id": workflow_id, "run_id": run_id, "kind": "gap", "name": "history", "outcome": "unknown",
        "error": "listed, but gone before it was read",
    }  # fmt: skip


def _explained(error: RPCError, which: str, namespace: str) -> TrellisError:
    message = " ".join(error.message.split())[:200]
    if error.status is RPCStatusCode.NOT_FOUND and "amespace" in message:
        return TrellisError(f"The namespace {namespace} does not exist on this server. Check its spelling.")
    if error.status is RPCStatusCode.NOT_FOUND:
        return TrellisError(
            f"There is no workflow {which} in namespace {namespace}, or its history is gone. For a query use query=."
        )
    if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return TrellisError(f"This client may not read namespace {namespace} ({message}). Use a key that may.")
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return BadInput(f"The server does not understand {which} ({message}).")
    return TemporalUnavailable(f"Temporal did not give the histories ({message}).")


class _Progress:
    """A progress bar, where one is `wanted`. The context manager returns a function that advances it by one."""

    def __init__(self, total: int, wanted: bool) -> None:
        from rich.progress import Progress

        self._progress = Progress(disable=not wanted, transient=True)
        self._total = total

    def __enter__(self) -> Callable[[], None]:
        self._progress.start()
        task = self._progress.add_task("histories", total=self._total)
        return lambda: self._progress.advance(task)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on an event loop of its own in another thread. A notebook's kernel already runs a loop in this one."""
    answer: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answer.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="trellis-history", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answer[0]

"""Fetch histories from Temporal: by id or by query, several at a time."""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypedDict, Unpack

import pandas as pd
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import BadInput, TemporalUnavailable, TrellisError
from trellis.insight.history.connecting import Connects, connected
from trellis.insight.history.frames import made
from trellis.insight.history.links import closed, neighbours
from trellis.insight.history.listing import SAMPLE, Listed, listed, within
from trellis.insight.history.rows import rows
from trellis.threads import in_a_thread

# A visibility query begins with an attribute, a comparison and a literal. A workflow id may contain each of these
# signs, but not in this order.
_QUERY = re.compile(
    r"""[\s(]*(NOT\s+)?`?[A-Za-z_]\w*`?
        (\s*(=|!=|<>|<=|>=|<|>)\s*["'] | \s+(=|!=|<>|<=|>=|<|>)\s | \s+(NOT\s+)?IN\s*\( |
         \s+IS\s | \s+(NOT\s+)?(BETWEEN|STARTS_WITH)\s)""",
    re.IGNORECASE | re.VERBOSE,
)


class PartialHistory(UserWarning):
    """Not all that was asked for was read. The same sentences are in the frame's `attrs["notes"]`."""


class Asked(TypedDict, total=False):
    """What `history` and `download` take. `history` says what each means."""

    query: str | None
    id: str | None
    run_id: str | None
    limit: int | None
    sample: int | None
    seed: int
    since: datetime | None
    until: datetime | None
    concurrency: int
    progress: bool


def history(
    which: str | None = None,
    client: Client | Connects | str | None = None,
    *,
    namespace: str | None = None,
    connect: Mapping[str, Any] | None = None,
    **asked: Unpack[Asked],
) -> pd.DataFrame:
    """One row per workflow run and each of its activity attempts, timers, signals, updates and children.

    `which` is a workflow id, or a visibility query when it looks like one (`WorkflowType = "X" AND ...`). `id=` and
    `query=` say which of the two it is. Blocks; in a coroutine use `await download(...)`.

    An id gives all runs that belong together: continued as new, retried, repeated by cron, or reset. `run_id=` gives
    one of them. A query gives the runs that it finds; `since=` and `until=` choose among them by their start (since
    inclusive, until exclusive, both with a time zone). `limit=` gives only the newest ones, at most this many. Without
    it, where a query finds more than `sample=` (2,000; None for no limit), a random sample of that size is read, with
    `seed=` (0). A PartialHistory warning says what was not read, and so does the frame's `attrs["notes"]`.
    `progress=True` shows a bar on stderr. `concurrency=` (16) is the number of histories that are fetched at a time.

    `client`: an address; a function that returns a Client (called on the event loop that uses it); or None for the
    Temporal that the settings name, or else this workspace's. `connect=`: further arguments of Temporal's
    `Client.connect`, for instance `{"api_key": key, "tls": True}`. Neither a stack nor a database is needed.

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
    limit]; for activities also schedule_to_start_timeout, heartbeat_timeout [s]. NaN where a value is not set or not
    known.
    reset_from [string: the id of the run that was reset to make this one], copied [boolean: the row ended before the
    reset, and was copied from there]. activity_id [string: of an activity].
    Kinds: workflow, workflow task (one that failed or timed out, named by its cause; `retried`, with the number of the
    attempt, where it fails still), activity, local activity, timer, signal, signal sent, update, child, marker, request
    to cancel, nexus, unknown event, gap (a run whose history was gone when its turn came).
    Negative seconds come from clocks that differ between servers. They are not corrected.

    Raises TrellisError: nothing found, no such namespace, no permission, a query the server does not understand.
    """
    if isinstance(client, Client):
        raise BadInput(
            "A Client belongs to its event loop: use `await insight.download(client, ...)`, an address, or a function "
            "that returns a Client."
        )

    async def work() -> pd.DataFrame:
        return await _download(await connected(client, namespace, connect), which, **asked)

    return _warned(in_a_thread(lambda: asyncio.run(work()), "trellis-history").result())


async def download(client: Client, which: str | None = None, **asked: Unpack[Asked]) -> pd.DataFrame:
    """As `history`, on the running event loop."""
    return _warned(await _download(client, which, **asked))


def _warned(frame: pd.DataFrame) -> pd.DataFrame:
    for note in frame.attrs["notes"]:
        warnings.warn(note, PartialHistory, stacklevel=3)
    return frame


async def _download(
    client: Client,
    which: str | None = None,
    *,
    query: str | None = None,
    id: str | None = None,
    run_id: str | None = None,
    limit: int | None = None,
    sample: int | None = SAMPLE,
    seed: int = 0,
    since: datetime | None = None,
    until: datetime | None = None,
    concurrency: int = 16,
    progress: bool = False,
) -> pd.DataFrame:
    given = [one for one in (which, query, id) if one is not None]
    if len(given) != 1 or not given[0].strip():
        raise BadInput("Say which workflow: an id, or a visibility query such as 'WorkflowType = \"OrderWorkflow\"'.")
    asked = given[0]
    many = query is not None or (which is not None and _QUERY.match(which) is not None)
    if not many and (since or until):
        raise BadInput("since= and until= choose among the workflows of a query; an id names one.")
    try:
        with _Progress(progress) as bars:
            reader = _Reader(client, concurrency)
            if many:
                words = within(asked, since, until)
                tick = bars("listed")
                found = await listed(client, words, limit=limit, sample=sample, seed=seed, tick=tick)
                notes = [found.note] if found.note else []
                if not found.chosen:
                    raise TrellisError(f"No workflow in namespace {client.namespace} matches {words}, or none is left.")
                parts = await reader.all_of(found, bars("histories", len(found.chosen)))
            elif run_id is not None:
                notes, parts = [], [await reader.one(asked, run_id)]
            else:
                notes, parts = await reader.chain(asked, limit or sample, bars("runs"))
    except RPCError as error:
        raise _explained(error, asked, client.namespace) from None
    frame = made([row for part in parts for row in part])
    frame.attrs["notes"] = notes
    return frame


class _Reader:
    """Fetches histories, `concurrency` at a time, and makes rows of them."""

    def __init__(self, client: Client, concurrency: int) -> None:
        self._client = client
        self._gate = asyncio.Semaphore(max(1, concurrency))

    async def _fetched(self, workflow_id: str, run_id: str) -> tuple[list[HistoryEvent], list[dict[str, Any]]]:
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        async with self._gate:
            events = list((await handle.fetch_history()).events)
            described = None if closed(events) else (await handle.describe()).raw_description
        return events, rows(workflow_id, events, run_id=run_id, described=described, namespace=self._client.namespace)

    async def one(self, workflow_id: str, run_id: str) -> list[dict[str, Any]]:
        return (await self._fetched(workflow_id, run_id))[1]

    async def all_of(self, found: Listed, tick: Callable[[], None]) -> list[list[dict[str, Any]]]:
        async def one(workflow_id: str, run_id: str) -> list[dict[str, Any]]:
            try:
                return await self.one(workflow_id, run_id)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                return [self._gap(workflow_id, run_id, "listed, but gone before it was read")]
            finally:
                tick()

        return await asyncio.gather(*(one(each.id, each.run_id) for each in found.chosen))

    async def chain(
        self, workflow_id: str, most: int | None, tick: Callable[[], None]
    ) -> tuple[list[str], list[list[dict[str, Any]]]]:
        """(notes, the rows of each run, oldest first), of all runs that belong to the id's latest one."""
        waiting = [(await self._client.get_workflow_handle(workflow_id).describe()).run_id]
        known, gone = set(waiting), 0
        parts: list[list[dict[str, Any]]] = []
        while waiting and (most is None or len(parts) < most):
            run_id = waiting.pop(0)
            try:
                events, found = await self._fetched(workflow_id, run_id)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND or not parts:
                    raise
                gone += 1
                found, events = [self._gap(workflow_id, run_id, "named by another run, but its history is gone")], []
            parts.append(found)
            fresh = [run for run in neighbours(events) if run not in known]
            waiting += fresh
            known |= set(fresh)
            tick()
        notes = []
        if gone:
            notes.append(f"{gone} of the runs of {workflow_id} could not be read: the server no longer has them.")
        if waiting:
            notes.append(f"{workflow_id} has more than {len(parts):,} runs: the newest were read. Raise sample=.")
        if others := await self._others(workflow_id, known):
            notes.append(
                f"{others:,} other runs of {workflow_id}, each started anew, were not read. A query finds them all."
            )
        return notes, sorted(parts, key=lambda part: part[0]["started_at"] or datetime.min.replace(tzinfo=UTC))

    async def _others(self, workflow_id: str, known: set[str]) -> int:
        """How many runs of this id do not belong to the chain, as far as visibility knows by now."""
        if "'" in workflow_id or "\\" in workflow_id:
            return 0
        try:
            runs = {
                one.run_id async for one in self._client.list_workflows(f"WorkflowId = '{workflow_id}'", limit=1000)
            }
        except RPCError:
            return 0  # a key may be allowed to read this workflow, and not to list
        return len(runs - known)

    def _gap(self, workflow_id: str, run_id: str, why: str) -> dict[str, Any]:
        return {
            "workflow_id": workflow_id, "run_id": run_id, "namespace": self._client.namespace, "kind": "gap",
            "name": "history", "outcome": "unknown", "error": why, "started_at": None,
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
    """Progress bars on stderr, where they are `wanted`.

    The context manager returns a function that adds a bar, and returns what advances it by one. A bar without a total
    counts.
    """

    def __init__(self, wanted: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(*columns, disable=not wanted, transient=True, console=Console(stderr=True))

    def __enter__(self) -> Callable[..., Callable[[], None]]:
        self._progress.start()
        return self._add

    def _add(self, what: str, total: int | None = None) -> Callable[[], None]:
        task = self._progress.add_task(what, total=total)
        return lambda: self._progress.advance(task)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

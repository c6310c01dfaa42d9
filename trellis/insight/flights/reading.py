"""Reads the book into frames. What the server counts and the book lacks is settled first."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack, overload

import pandas as pd
from temporalio.client import Client

from trellis import config, stack
from trellis.db import reading
from trellis.db.flight_table import FLIGHTS
from trellis.db.pool import open_pool
from trellis.db.reading import OneOrMany
from trellis.db.settled import Asked, SettledRuns
from trellis.errors import BadInput, StackError
from trellis.insight.flights.columns import named, typed
from trellis.insight.frames import Source, database_url, read_table
from trellis.insight.history.connecting import Connects, connected
from trellis.plugin.batches import deliver_leftovers
from trellis.plugin.settling import settle as settle_runs
from trellis.plugin.where import where
from trellis.stack.temporal import TemporalTarget
from trellis.threads import in_a_thread

BEFORE = timedelta(days=1)
"""A run is settled if it has rows since `since`, or so long before: an attempt that no worker began has no row yet."""

_EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)


class PartialBook(UserWarning):
    """Not all of the book was compared with the server. The same sentences are in the frame's `attrs["notes"]`."""


class FlightFilters(TypedDict, total=False):
    """Which rows. Text filters take one value or several. `since` and `until` act on the first schedule of the
    activity; since is inclusive, until is exclusive."""

    namespace: OneOrMany
    workflow: OneOrMany
    workflow_type: OneOrMany
    activity_type: OneOrMany
    outcome: OneOrMany
    queue: OneOrMany
    since: datetime | None
    until: datetime | None
    driver: str | None


@overload
def flights(
    source: Source = None, *, tries: bool = False, payloads: bool = False, settle: bool = True,
    client: Connects | str | None = None, connect: Mapping[str, Any] | None = None, batches: None = None,
    **filters: Unpack[FlightFilters],
) -> pd.DataFrame: ...  # fmt: skip
@overload
def flights(
    source: Source = None, *, tries: bool = False, payloads: bool = False, settle: bool = True,
    client: Connects | str | None = None, connect: Mapping[str, Any] | None = None, batches: int,
    **filters: Unpack[FlightFilters],
) -> Iterator[pd.DataFrame]: ...  # fmt: skip
def flights(
    source: Source = None, *, tries: bool = False, payloads: bool = False, settle: bool = True,
    client: Connects | str | None = None, connect: Mapping[str, Any] | None = None, batches: int | None = None,
    **filters: Unpack[FlightFilters],
) -> pd.DataFrame | Iterator[pd.DataFrame]:  # fmt: skip
    """One row per attempt of each activity that ran in a worker with TrellisPlugin, in the order of their schedule.

    `source`: a Postgres URL, anything with a `database_url` (a Session too), or None for the book of this workspace,
    or of DATABASE_URL. Filters: namespace, workflow (its id), workflow_type, activity_type, outcome, queue, since,
    until, driver.

    `settle`: first complete the book from Temporal's own record, which is only read: attempts that the server counted
    and no worker began, and ends that no worker wrote (`trellis.plugin.settling`). A run that has ended is compared
    once; with `since`, only if it has a row after the day before that. `client` and `connect` say how Temporal is
    reached, as for `insight.history`; by default the one of the settings, or of the session. The book at another
    database's address is compared only with the `client` that is given. What could not be compared is said in a
    PartialBook warning and in the frame's `attrs["notes"]`.
    `batches=n`: an iterator of frames with n rows each, in bounded memory.

    Columns: workflow_id, run_id, activity_id, error [string], workflow_type, activity_type, outcome, worker, queue,
    failure_type, injected, outage, namespace [category], attempt, maximum_attempts, heartbeats [Int32], local
    [boolean], scheduled_at (of the activity), attempt_scheduled_at, started_at, ended_at [UTC], queued [s], and the
    timeouts and retry policy that the worker was given, named as in `insight.history`: start_to_close_timeout,
    schedule_to_close_timeout, schedule_to_start_timeout, heartbeat_timeout, initial_interval, maximum_interval [s],
    backoff_coefficient [float].
    `workflow_id` is empty for an activity without a workflow. `maximum_attempts` is 0 for no limit.
    Outcomes: succeeded, failed, timed out, abandoned (cancelled, or cut off by the workflow's end), lost (its worker
    died, or no worker began it; without a begin it has no `attempt_scheduled_at`), open (not ended yet).
    injected: error, hang, reply-lost, latency, outage; NA: nothing was injected.
    `tries=True` adds the tries of loops inside attempts (`trellis.retrying`) and the columns try, lane [Int32]: both 0
    for the attempt itself; a try counts from 1 in its lane, and its timeouts are those of its own rule.
    `payloads=True` adds input, result [string of JSON; NA unless the plugin was asked to note payloads].

    An empty book gives an empty frame with the same columns and dtypes. Raises DatabaseUnavailable, SchemaMismatch
    (run `trellis migrate`) and BadInput.
    """
    if isinstance(client, Client):
        raise BadInput(
            "A Client belongs to its event loop: give an address, or a function that returns a Client. Or settle=False."
        )
    url = database_url(source) if source is not None else _own()
    # A filter that cannot be must be refused before anything is settled.
    asked: dict[str, Any] = {**filters, "tries": None if tries else False}
    reading.query(FLIGHTS, **{name: value for name, value in asked.items() if name != "driver"})
    notes: list[str] = []
    if settle:
        work = _settled(url, filters, client or _server_of(source), connect, ours=source is None)
        notes = in_a_thread(lambda: asyncio.run(work), "trellis-settling").result()
    for note in notes:
        warnings.warn(note, PartialBook, stacklevel=2)
    found = read_table(FLIGHTS, url, batches, asked)

    def made(frame: pd.DataFrame) -> pd.DataFrame:
        shaped = typed(frame[named(tries=tries, payloads=payloads)])
        shaped.attrs["notes"] = notes
        return shaped

    return made(found) if isinstance(found, pd.DataFrame) else map(made, found)


def _own() -> str:
    """The address of this workspace's book, or that of DATABASE_URL. Raises DatabaseUnavailable."""
    return where(config.load()).address()[0]


def _server_of(source: Source) -> Connects | TemporalTarget | None:
    """How the Temporal of a session, a desk or a stack is reached. None: as the settings say.

    The book at a database's address may be that of another server, which only the caller knows. It is not compared with
    a server that would have none of its workflows.
    """
    if source is None:
        return None
    if isinstance(source, str):
        try:
            if database_url(source) == database_url(_own()):
                return None
        except StackError:
            pass
        return _unknown_server
    for path in (("stack", "temporal"), ("desk", "stack", "temporal")):
        found = source
        for name in path:
            found = getattr(found, name, None)
        if isinstance(found, TemporalTarget):
            return found
    return None


def _unknown_server() -> Client:
    raise BadInput("say which server it belongs to: client=, an address or a function that returns a Client.")


async def _settled(
    url: str, filters: FlightFilters, server: Connects | TemporalTarget | str | None,
    connect: Mapping[str, Any] | None, *, ours: bool,
) -> list[str]:  # fmt: skip
    """Settle what the filters ask for; returns what could not be done. Raises DatabaseUnavailable, SchemaMismatch."""
    if ours:
        await deliver_leftovers(config.load())
    notes: list[str] = []
    pool = await open_pool(url, size=4)
    try:
        wanted, workflows, types = (_several(filters.get(name)) for name in ("namespace", "workflow", "workflow_type"))
        since = filters.get("since")
        early = max(since, _EARLIEST) - BEFORE if isinstance(since, datetime) else None
        asked = Asked(workflows, types, early, filters.get("until"))
        for namespace in await SettledRuns(pool).namespaces(asked):
            if wanted is not None and namespace not in wanted:
                continue
            try:
                if isinstance(server, TemporalTarget):
                    client = await stack.connect(replace(server, namespace=namespace))
                else:
                    client = await connected(server, namespace, connect)
            except (StackError, BadInput) as error:
                notes.append(f"The book of namespace {namespace} was not compared with the server: {error}")
                continue
            done = await settle_runs(pool, client, asked)
            notes += done.notes()
    finally:
        await pool.close()
    return notes


def _several(asked: Any) -> Sequence[str] | None:
    return [asked] if isinstance(asked, str) else asked

"""What the doctor judges, read from Temporal and from the book of attempts. Nothing is changed.

Every call to Temporal goes through one object with a list of calls that only read (`READS`); any other is refused
before it is sent. The database is read in read-only transactions.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pandas as pd
from google.protobuf.message import Message
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode, ServiceClient

from trellis import config
from trellis.db import reading
from trellis.errors import BadInput, SchemaMismatch, StackError, TemporalUnavailable, TrellisError
from trellis.insight import doctor, download, flights
from trellis.insight.doctor import Report
from trellis.insight.doctor.evidence import QUEUES
from trellis.insight.frames import database_url
from trellis.insight.history import PartialHistory
from trellis.insight.history.frames import whole
from trellis.plugin.where import where

__all__ = ["LIMIT", "READS", "Collected", "collect", "examine", "read_only"]

READS = frozenset(
    {
        "count_workflow_executions", "describe_namespace", "describe_task_queue", "describe_workflow_execution",
        "get_cluster_info", "get_system_info", "get_workflow_execution_history",
        "get_workflow_execution_history_reverse", "list_workflow_executions",
    }
)  # fmt: skip
"""The calls of Temporal's workflow service that are let through."""

LIMIT = 1000
"""So many workflows are read, the newest ones; of a namespace with more, also a quarter as many that run."""

EVERYTHING = 'StartTime > "2000-01-01T00:00:00Z"'

_SERVICE = "workflow"
_QUEUES = 100
_POLLS = timedelta(seconds=120)
"""A worker asks again after 60 s at the latest. The server remembers a poller for five minutes."""


class ReadOnlyService(ServiceClient):
    """Temporal's services with nothing but the calls of READS. `sent` counts them."""

    def __init__(self, service: ServiceClient) -> None:
        super().__init__(service.config)
        self._service = service
        self.sent: Counter[str] = Counter()

    @property
    def worker_service_client(self) -> NoReturn:
        raise BadInput("The doctor only reads: it runs no worker.")

    def update_rpc_metadata(self, metadata: Mapping[str, str | bytes]) -> None:
        raise BadInput("The doctor only reads: it does not change a connection.")

    def update_api_key(self, api_key: str | None) -> None:
        raise BadInput("The doctor only reads: it does not change a connection.")

    async def _rpc_call(
        self, rpc: str, req: Message, resp_type: type[Any], *, service: str, retry: bool,
        metadata: Mapping[str, str | bytes], timeout: timedelta | None,
    ) -> Any:  # fmt: skip
        if service != _SERVICE or rpc not in READS:
            raise BadInput(f"The doctor only reads: it does not call {service}.{rpc}.")
        self.sent[rpc] += 1
        return await self._service._rpc_call(
            rpc, req, resp_type, service=service, retry=retry, metadata=metadata, timeout=timeout
        )


def read_only(client: Client) -> Client:
    """A client on the same connection that can only read. It has none of the other's interceptors and plugins."""
    service = ReadOnlyService(client.service_client)
    return Client(service, namespace=client.namespace, data_converter=client.data_converter)


@dataclass(frozen=True)
class Collected:
    """What was read, as `insight.doctor` takes it. `notes`: what was not read, in words."""

    history: pd.DataFrame
    book: pd.DataFrame | None
    queues: pd.DataFrame
    now: datetime
    notes: tuple[str, ...]


async def examine(
    client: Client, query: str | None = None, *, limit: int = LIMIT, source: Any = None, read_book: bool = True
) -> Report:
    """Read workflows of the client's namespace, and judge them.

    `query`: a visibility query; None: all workflows. `limit`: how many are read. `source`: where the book of attempts
    is, as for `insight.flights`; None: the workspace's database, or DATABASE_URL. Raises TrellisError: no such
    workflow, no such namespace, no permission, a query the server does not understand.
    """
    found = await collect(client, query, limit=limit, source=source, read_book=read_book)
    report = await asyncio.to_thread(doctor, found.history, found.book, found.queues, now=found.now)
    return Report(report.findings, report.workflows, report.attempts, report.judged, (*found.notes, *report.notes))


async def collect(
    client: Client, query: str | None = None, *, limit: int = LIMIT, source: Any = None, read_book: bool = True
) -> Collected:
    """Histories, task queues and the book of attempts of these workflows. Arguments and errors as for `examine`."""
    if limit < 1:
        raise BadInput("limit= is a number of workflows: at least 1.")
    client = read_only(client)
    words = query if query and query.strip() else EVERYTHING
    try:
        total = (await client.count_workflows(words)).count
        history = await _histories(client, words, limit)
        notes = []
        if total > limit:
            history = whole(pd.concat([history, *await _running(client, words, limit)], ignore_index=True))
            notes.append(
                f"The query finds {total:,} workflows; the newest {limit:,} of them were read, and up to "
                f"{max(1, limit // 4):,} that still run. Raise --limit, or narrow --query, to read others."
            )
        now = datetime.now(UTC)
        queues, unread = await _queues(client, history, now)
        notes += unread
    except RPCError as error:
        raise _explained(error, client.namespace, words) from None
    book, note = await asyncio.to_thread(_book, history, client.namespace, source) if read_book else (None, None)
    return Collected(history, book, queues, now, tuple([*notes, note] if note else notes))


async def _histories(client: Client, words: str, limit: int) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialHistory)
        return await download(client, query=words, limit=limit)


async def _running(client: Client, words: str, limit: int) -> list[pd.DataFrame]:
    """Older workflows that run still. Those that stand still would not be among the newest."""
    running = f'({words}) AND ExecutionStatus = "Running"'
    if not (await client.count_workflows(running)).count:
        return []
    try:
        return [await _histories(client, running, max(1, limit // 4))]
    except TemporalUnavailable:
        raise
    except TrellisError:
        return []  # the last one ended in the meantime


async def _queues(client: Client, history: pd.DataFrame, now: datetime) -> tuple[pd.DataFrame, list[str]]:
    """The frame of the task queues of these workflows and of their activities, and what was not read."""
    acts = history[(history["kind"] == "activity") & history["queue"].notna()]
    runs = history[(history["kind"] == "workflow") & history["queue"].notna()]
    # What waits is asked for first, in case there are very many queues.
    waiting = set(acts.loc[acts["outcome"].isin(["open", "timed out"]), "queue"])
    names = sorted(set(acts["queue"]), key=lambda one: (one not in waiting, one))
    asked = [*((str(name), "activity") for name in names), *((name, "workflow") for name in sorted(set(runs["queue"])))]
    gate = asyncio.Semaphore(8)

    async def one(name: str, kind: str) -> list[Any] | None:
        async with gate:
            try:
                return [name, kind, *_described(await _describe(client, name, kind), now)]
            except RPCError as error:
                if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.PERMISSION_DENIED):
                    return None
                raise

    rows = await asyncio.gather(*(one(name, kind) for name, kind in asked[:_QUEUES]))
    unread = len(asked) - sum(row is not None for row in rows)
    notes = [f"{unread} task queues were not read." if unread > 1 else "One task queue was not read."] if unread else []
    return pd.DataFrame([row for row in rows if row is not None], columns=QUEUES), notes


async def _describe(client: Client, name: str, kind: str) -> DescribeTaskQueueResponse:
    type_ = TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY if kind == "activity" else TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace, task_queue=TaskQueue(name=name), task_queue_type=type_, report_stats=True,
            include_task_queue_status=True,
        )
    )  # fmt: skip


def _described(answer: DescribeTaskQueueResponse, now: datetime) -> tuple[int, int, float]:
    """(pollers, backlog, seconds that its oldest task waits)."""
    pollers = sum(now - one.last_access_time.ToDatetime(tzinfo=UTC) < _POLLS for one in answer.pollers)
    backlog = max(answer.stats.approximate_backlog_count, answer.task_queue_status.backlog_count_hint)
    age = answer.stats.approximate_backlog_age
    return pollers, int(backlog), age.seconds + age.nanos / 1e9


def _book(history: pd.DataFrame, namespace: str, source: Any) -> tuple[pd.DataFrame | None, str | None]:
    """The attempts that the plugin noted of these workflows; None, and why in words, where there are none."""
    try:
        url = reading.read_only(database_url(source) if source is not None else where(config.load()).address()[0])
        ids = _chunks(history["workflow_id"].dropna().unique())
        # Settling would write.
        parts = [flights(url, namespace=namespace, workflow=list(some), settle=False) for some in ids]
    except (StackError, SchemaMismatch) as why:
        return None, f"The book of attempts was not read ({str(why).rstrip('.')})."
    noted = pd.concat(parts, ignore_index=True) if parts else None
    return (None, None) if noted is None or noted.empty else (noted, None)


def _chunks(ids: Any, size: int = 2000) -> Iterable[Any]:
    return (ids[begin : begin + size] for begin in range(0, len(ids), size))


def _explained(error: RPCError, namespace: str, words: str) -> TrellisError:
    why = " ".join(error.message.split())[:200]
    if error.status is RPCStatusCode.NOT_FOUND:
        return TrellisError(f"Temporal has no namespace {namespace!r}. Give --namespace.")
    if error.status is RPCStatusCode.PERMISSION_DENIED:
        return TrellisError(f"Temporal denies access to namespace {namespace!r} ({why}).")
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return BadInput(f"Temporal does not understand the query {words} ({why}).")
    return TemporalUnavailable(f"Temporal does not answer ({why}).")

"""Temporal's own history as a DataFrame, for any workflow of any namespace.

What a history does not hold: Temporal writes an activity down when it ends, with the number of its last attempt and
the failure of the attempt before. Of an activity that needed seven attempts it knows when it was scheduled, when the
seventh began and ended, and how the sixth failed. The other attempts stand here as rows with outcome `unknown` and no
times: that they took place is certain, how they went is not. Of an activity that still runs, Describe tells the same;
of one that the end of its workflow cut off, nobody knows how often it was tried, and its attempt is missing (NA).
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import pandas as pd
from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from trellis import config, stack
from trellis.errors import BadInput, TemporalUnavailable, TrellisError
from trellis.insight.frames import OUTCOMES

T = TypeVar("T")

_STRINGS = ["workflow_id", "run_id", "error"]
_CATEGORIES = ["workflow_type", "kind", "name", "queue", "worker", "failure_type"]
_TIMES = ["scheduled_at", "started_at", "ended_at"]
_COLUMNS = [
    "workflow_id", "run_id", "workflow_type", "event", "kind", "name", "attempt", "outcome", "queue", "worker",
    "scheduled_at", "started_at", "ended_at", "schedule_to_start", "start_to_close", "failure_type", "error",
]  # fmt: skip
_LOCAL = "core_local_activity"

_CLOSED = {
    "WORKFLOW_EXECUTION_COMPLETED": "succeeded", "WORKFLOW_EXECUTION_CONTINUED_AS_NEW": "succeeded",
    "WORKFLOW_EXECUTION_FAILED": "failed", "WORKFLOW_EXECUTION_TIMED_OUT": "timed out",
    "WORKFLOW_EXECUTION_CANCELED": "abandoned", "WORKFLOW_EXECUTION_TERMINATED": "abandoned",
}  # fmt: skip
_STATES = {
    "succeeded": "COMPLETED", "failed": "FAILED", "timed out": "TIMED_OUT", "abandoned": "CANCELLED", "open": "RUNNING",
}  # fmt: skip

# Events that neither open a row nor end one.
_QUIET = (
    "WORKFLOW_TASK_", "WORKFLOW_EXECUTION_CANCEL_REQUESTED", "WORKFLOW_PROPERTIES_MODIFIED",
    "WORKFLOW_EXECUTION_OPTIONS_UPDATED", "UPSERT_WORKFLOW_SEARCH_ATTRIBUTES", "ACTIVITY_TASK_CANCEL_REQUESTED",
    "ACTIVITY_PROPERTIES_MODIFIED_EXTERNALLY", "WORKFLOW_EXECUTION_UPDATE_ADMITTED", "WORKFLOW_EXECUTION_PAUSED",
    "WORKFLOW_EXECUTION_UNPAUSED", "WORKFLOW_EXECUTION_TIME_SKIPPING_", "NEXUS_OPERATION_CANCEL_REQUEST",
)  # fmt: skip

# An attribute, what compares it, and a literal: an id may hold any of these signs, but hardly reads so.
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

    `which` is a workflow id or, when it reads like one (`WorkflowType = "X" AND ...`), a visibility query; `id=` and
    `query=` leave nothing to guess. `client`: an address, or None for this workspace's Temporal (or what the settings
    name); `limit` at most so many workflows. Blocks; from a coroutine use `await download(...)`.

    Columns: workflow_id, run_id, error [string], workflow_type, kind, name, queue, worker, failure_type [category],
    event [Int64: number of the history event that opened the row], attempt [Int32], outcome [category: succeeded,
    failed, timed out, abandoned, unknown (see above), open (still running, or cut off by the workflow's end)],
    scheduled_at, started_at, ended_at [UTC], schedule_to_start, start_to_close [s].
    Kinds: workflow, activity, local activity, timer, signal, signal sent, update, child, marker, request to cancel,
    nexus, unknown event, gap (a workflow of a query whose history was gone when its turn came).
    Negative seconds are clock skew between servers, and left to be seen.

    Raises TrellisError: nothing found, no such namespace, no permission, a query the server does not understand.
    """

    async def work() -> pd.DataFrame:
        return await download(
            await connected(client, namespace), which, query=query, id=id, run_id=run_id, limit=limit,
            concurrency=concurrency, progress=progress,
        )  # fmt: skip

    if isinstance(client, Client):
        raise BadInput("A Client belongs to its event loop: use `await insight.download(client, ...)`, or an address.")
    return _elsewhere(work())


async def connected(client: Client | str | None, namespace: str | None) -> Client:
    """The Client itself, one for an address, or one for what the settings and the workspace say."""
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
    told = given[0]
    many = query is not None or (which is not None and _QUERY.match(which) is not None)
    try:
        if many:
            found = [one async for one in client.list_workflows(told, limit=limit)]
        else:
            found = [await client.get_workflow_handle(told, run_id=run_id).describe()]
        if not found:
            raise TrellisError(f"No workflow in namespace {client.namespace} matches {told}, or none is left.")
        gate = asyncio.Semaphore(max(1, concurrency))
        with _bar(len(found), progress) as tick:

            async def one(workflow_id: str, run: str, open_: bool) -> list[dict[str, Any]]:
                handle = client.get_workflow_handle(workflow_id, run_id=run)
                async with gate:
                    try:
                        events = (await handle.fetch_history()).events
                        pending = (await handle.describe()).raw_description.pending_activities if open_ else ()
                    except RPCError as error:
                        if error.status is not RPCStatusCode.NOT_FOUND or not many:
                            raise
                        return [_gap(workflow_id, run)]
                    finally:
                        tick()
                return rows(workflow_id, events, run_id=run, pending=pending)

            running = WorkflowExecutionStatus.RUNNING
            parts = await asyncio.gather(*(one(each.id, each.run_id, each.status is running) for each in found))
    except RPCError as error:
        raise _explained(error, told, client.namespace) from None
    return _frame([row for part in parts for row in part])


def _gap(workflow_id: str, run_id: str) -> dict[str, Any]:
    return {
        "workflow_id": workflow_id, "run_id": run_id, "kind": "gap", "name": "history", "outcome": "unknown",
        "error": "listed, but gone before it was read",
    }  # fmt: skip


def _explained(error: RPCError, which: str, namespace: str) -> TrellisError:
    said = " ".join(error.message.split())[:200]
    if error.status is RPCStatusCode.NOT_FOUND and "amespace" in said:
        return TrellisError(f"The namespace {namespace} does not exist on this server. Check its spelling.")
    if error.status is RPCStatusCode.NOT_FOUND:
        return TrellisError(
            f"There is no workflow {which} in namespace {namespace}, or its history is gone. A query? Say query=."
        )
    if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
        return TrellisError(f"This client may not read namespace {namespace} ({said}). Use a key that may.")
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        return BadInput(f"The server does not understand {which} ({said}).")
    return TemporalUnavailable(f"Temporal did not give the histories ({said}).")


class _bar:  # noqa: N801 (reads as a function: `with _bar(...) as tick`)
    """A progress bar of rich, or nothing."""

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


def _elsewhere(work: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own in another thread: a notebook's kernel has one running already."""
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


def _time(stamp: Timestamp) -> datetime | None:
    return stamp.ToDatetime(tzinfo=UTC) if stamp.seconds or stamp.nanos else None


def _failed(failure: Failure) -> tuple[str | None, str | None]:
    """(type, message) of what went wrong in the first place, under the wrappers of activity and child."""
    while failure.HasField("cause") and failure.WhichOneof("failure_info") in (
        "activity_failure_info", "child_workflow_execution_failure_info",
    ):  # fmt: skip
        failure = failure.cause
    kind = failure.WhichOneof("failure_info")
    if kind is None:
        return None, failure.message or None
    type_ = failure.application_failure_info.type if kind == "application_failure_info" else ""
    return type_ or kind.removesuffix("_failure_info"), failure.message


def rows(
    workflow_id: str,
    events: Iterable[HistoryEvent],
    *,
    run_id: str | None = None,
    pending: Sequence[PendingActivityInfo] = (),
) -> list[dict[str, Any]]:
    """The rows of one history. An event of a type that this code does not know becomes a row `unknown event`.

    `pending`: what Describe says of the activities that run.
    """
    reader = _Reader(workflow_id, run_id)
    reader.read(events)
    for activity in pending:
        reader.pending(activity)
    return reader.rows()


class _Reader:
    def __init__(self, workflow_id: str, run_id: str | None) -> None:
        self._base: dict[str, Any] = {"workflow_id": workflow_id, "run_id": run_id, "workflow_type": None}
        self._rows: list[dict[str, Any]] = []
        self._open: dict[tuple[str, object], dict[str, Any]] = {}
        self._scheduled: dict[str, int] = {}
        self._earlier: dict[int, list[dict[str, Any]]] = {}

    def _row(self, event: HistoryEvent, kind: str, name: str, **more: Any) -> dict[str, Any]:
        row = {
            **self._base, "event": event.event_id, "kind": kind, "name": name, "outcome": "open",
            "scheduled_at": _time(event.event_time), **more,
        }  # fmt: skip
        self._rows.append(row)
        return row

    def _end(self, key: tuple[str, object], event: HistoryEvent, outcome: str, failure: Failure | None = None) -> None:
        row = self._open.pop(key, None)
        if row is None:
            row = self._row(event, "unknown event", f"end of {key[0]} {key[1]}, whose beginning is missing")
        row |= {"outcome": outcome, "ended_at": _time(event.event_time)}
        if failure is not None:
            row["failure_type"], row["error"] = _failed(failure)

    def read(self, events: Iterable[HistoryEvent]) -> None:
        for event in events:
            try:
                name = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_")
            except ValueError:
                self._row(event, "unknown event", f"type {int(event.event_type)}", outcome="unknown")
                continue
            attributes = event.WhichOneof("attributes")
            self._one(name, event, getattr(event, attributes) if attributes else None)

    def rows(self) -> list[dict[str, Any]]:
        found = []
        for row in self._rows:
            # Attempts before the last one are known only when the last one is.
            found += [{**row, **earlier} for earlier in self._earlier.get(id(row), [])]
            found.append(row)
        # A base that the first event filled in; rows before it have none.
        return [{**row, **{key: value for key, value in self._base.items() if row[key] is None}} for row in found]

    def _one(self, name: str, event: HistoryEvent, a: Any) -> None:
        if name == "WORKFLOW_EXECUTION_STARTED":
            self._base["workflow_type"] = a.workflow_type.name
            self._base["run_id"] = self._base["run_id"] or a.original_execution_run_id
            self._open["workflow", None] = self._row(
                event, "workflow", a.workflow_type.name, queue=a.task_queue.name, started_at=_time(event.event_time)
            )
        elif name in _CLOSED:
            self._end(("workflow", None), event, _CLOSED[name], a.failure if name.endswith("_FAILED") else None)
        elif name == "ACTIVITY_TASK_SCHEDULED":
            self._scheduled[a.activity_id] = event.event_id
            self._open["activity", event.event_id] = self._row(
                event, "activity", a.activity_type.name, queue=a.task_queue.name
            )
        elif name == "ACTIVITY_TASK_STARTED":
            self._activity_started(event, a)
        elif name.startswith("ACTIVITY_TASK_") and hasattr(a, "scheduled_event_id") and "CANCEL_REQ" not in name:
            outcome = {"COMPLETED": "succeeded", "FAILED": "failed", "TIMED_OUT": "timed out", "CANCELED": "abandoned"}
            failure = a.failure if name.endswith(("FAILED", "TIMED_OUT")) else None
            self._end(("activity", a.scheduled_event_id), event, outcome[name.removeprefix("ACTIVITY_TASK_")], failure)
        elif name == "TIMER_STARTED":
            self._open["timer", event.event_id] = self._row(
                event, "timer", a.timer_id, started_at=_time(event.event_time)
            )
        elif name in ("TIMER_FIRED", "TIMER_CANCELED"):
            outcome_ = "succeeded" if name == "TIMER_FIRED" else "abandoned"
            self._end(("timer", a.started_event_id), event, outcome_)
        elif name == "WORKFLOW_EXECUTION_SIGNALED":
            self._instant(event, "signal", a.signal_name, worker=a.identity or None)
        elif name == "WORKFLOW_EXECUTION_UPDATE_ACCEPTED":
            self._open["update", event.event_id] = self._row(
                event, "update", a.accepted_request.input.name, started_at=_time(event.event_time)
            )
        elif name == "WORKFLOW_EXECUTION_UPDATE_COMPLETED":
            failed = a.outcome.failure if a.outcome.WhichOneof("value") == "failure" else None
            self._end(("update", a.accepted_event_id), event, "failed" if failed else "succeeded", failed)
        elif name == "MARKER_RECORDED":
            self._marker(event, a)
        elif not name.startswith(_QUIET) and not self._other(name, event, a):
            self._row(event, "unknown event", name, outcome="unknown")

    def _instant(self, event: HistoryEvent, kind: str, name: str, **more: Any) -> None:
        at = _time(event.event_time)
        self._row(event, kind, name, outcome="succeeded", started_at=at, ended_at=at, **more)

    def _other(self, name: str, event: HistoryEvent, a: Any) -> bool:
        """Children, signals and cancels sent, Nexus: opened by INITIATED or SCHEDULED, ended by what refers to it."""
        openers: dict[str, tuple[str, Callable[[], str]]] = {
            "START_CHILD_WORKFLOW_EXECUTION_INITIATED": ("child", lambda: a.workflow_type.name),
            "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": ("signal sent", lambda: a.signal_name),
            "REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED": (
                "request to cancel", lambda: a.workflow_execution.workflow_id,
            ),
            "NEXUS_OPERATION_SCHEDULED": ("nexus", lambda: a.operation),
        }  # fmt: skip
        if name in openers:
            kind, named = openers[name]
            queue = a.task_queue.name if kind == "child" else None
            self._open["initiated", event.event_id] = self._row(event, kind, named(), queue=queue)
            return True
        key = getattr(a, "initiated_event_id", 0) or (
            getattr(a, "scheduled_event_id", 0) if name.startswith("NEXUS_OPERATION_") else 0
        )
        row = self._open.get(("initiated", key))
        if row is None:
            return False
        if name.endswith("_STARTED"):
            row["started_at"] = _time(event.event_time)
        elif name.endswith(("_COMPLETED", "EXTERNAL_WORKFLOW_EXECUTION_SIGNALED", "EXECUTION_CANCEL_REQUESTED")):
            self._end(("initiated", key), event, "succeeded")
        elif name.endswith("_TIMED_OUT"):
            self._end(("initiated", key), event, "timed out")
        elif name.endswith(("_CANCELED", "_TERMINATED")):
            self._end(("initiated", key), event, "abandoned")
        elif name.endswith("_FAILED"):
            self._end(("initiated", key), event, "failed", getattr(a, "failure", None))
        else:
            return False
        return True

    def _activity_started(self, event: HistoryEvent, a: Any) -> None:
        row = self._open.get(("activity", a.scheduled_event_id))
        if row is None:
            self._row(event, "unknown event", f"start of activity {a.scheduled_event_id}", outcome="unknown")
            return
        self._reached(row, a.attempt, a.last_failure if a.HasField("last_failure") else None)
        row |= {"started_at": _time(event.event_time), "worker": a.identity or None}

    def _reached(self, row: dict[str, Any], attempt: int, failure: Failure | None) -> list[dict[str, Any]]:
        """Note that `row` is this attempt; returns what tells the earlier ones from it."""
        earlier: list[dict[str, Any]] = [
            {"attempt": number, "outcome": "unknown", "ended_at": None, "started_at": None, "worker": None,
             "failure_type": None, "error": None, "scheduled_at": row["scheduled_at"] if number == 1 else None}
            for number in range(1, attempt)
        ]  # fmt: skip
        if earlier and failure is not None:
            type_, message = _failed(failure)
            outcome = "timed out" if "timeout" in str(type_) else "failed"
            earlier[-1] |= {"outcome": outcome, "failure_type": type_, "error": message}
        self._earlier[id(row)] = earlier
        row["attempt"] = attempt
        if earlier:
            # When this attempt was due is not written down, only when the first was.
            row["scheduled_at"] = None
        return earlier

    def pending(self, now: PendingActivityInfo) -> None:
        """What a running workflow's history does not hold yet: how far this activity is."""
        row = self._open.get(("activity", self._scheduled.get(now.activity_id)))
        if row is None:
            return
        earlier = self._reached(row, now.attempt, now.last_failure if now.HasField("last_failure") else None)
        last_start = _time(now.last_started_time)
        if now.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED:
            # Between two attempts: what Describe tells of is the one before.
            if earlier:
                earlier[-1] |= {"started_at": last_start, "ended_at": _time(now.last_attempt_complete_time)}
        else:
            row |= {"started_at": last_start, "worker": now.last_worker_identity or None}

    def _marker(self, event: HistoryEvent, a: Any) -> None:
        if a.marker_name != _LOCAL:
            self._instant(event, "marker", a.marker_name)
            return
        import json

        found: dict[str, Any] = {}
        for payload in (p for key in ("data", "Data") if key in a.details for p in a.details[key].payloads):
            try:
                found |= json.loads(payload.data)
            except (ValueError, TypeError):
                continue  # in an encoding of the SDK's own: the row stays, without these details
        ended = _proto_time(found.get("complete_time")) or _time(event.event_time)
        failed = a.HasField("failure")
        type_, message = _failed(a.failure) if failed else (None, None)
        row = self._row(
            event, "local activity", str(found.get("activity_type", "")) or "local activity",
            outcome="failed" if failed else "succeeded",
            scheduled_at=_proto_time(found.get("original_schedule_time")), ended_at=ended,
            failure_type=type_, error=message,
        )  # fmt: skip
        if found.get("attempt"):
            self._reached(row, int(found["attempt"]), None)


def _proto_time(value: Any) -> datetime | None:
    if isinstance(value, dict) and "seconds" in value:
        return datetime.fromtimestamp(value["seconds"] + value.get("nanos", 0) / 1e9, UTC)
    if isinstance(value, str):
        return datetime.fromisoformat(value)
    return None


def _frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(found, columns=_COLUMNS)
    for name in _TIMES:
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[us, UTC]")
    frame["schedule_to_start"] = (frame["started_at"] - frame["scheduled_at"]).dt.total_seconds()
    frame["start_to_close"] = (frame["ended_at"] - frame["started_at"]).dt.total_seconds()
    types = dict.fromkeys(_STRINGS, pd.StringDtype("pyarrow")) | dict.fromkeys(_CATEGORIES, "category")
    frame["outcome"] = pd.Categorical(frame["outcome"], categories=OUTCOMES)
    return frame.astype({**types, "event": "Int64", "attempt": "Int32"})


def _orders(frame: pd.DataFrame) -> pd.Series[Any]:
    """What stands for an order's id: the workflow's, with the run's beside it where the frame holds several."""
    ids = frame["workflow_id"]
    several = frame.groupby("workflow_id")["run_id"].transform("nunique") > 1
    return ids.where(~several.astype(bool), ids + " " + frame["run_id"].str.slice(0, 8))


def history_attempts(frame: pd.DataFrame) -> pd.DataFrame:
    """The activities of a `history` frame in the shape of `insight.attempts`: charts and fits take either.

    order_id is the workflow's id (with the run's first eight letters where the frame holds several of its runs), step
    the activity's type, round 0 the run's first activity of that type, 1 its second, and so on; try 1, lane 0;
    execution the attempt that Temporal counted, and `attempt` counts over all rounds. Two columns more: queue
    [category] and scheduled_at [UTC, of the first attempt of each activity]. The outcome of an attempt that the history
    does not hold is `unknown`, of one that has not ended `open`.
    """
    acts = frame.assign(order_id=_orders(frame))[frame["kind"].isin(["activity", "local activity"])]
    n = len(acts)
    step = acts["name"].cat.remove_unused_categories()
    same = acts.assign(step=step).groupby(["order_id", "step"], observed=True)
    # An activity's attempts stand together, under the number of the event that opened it.
    first = (acts["event"] != same["event"].shift()).fillna(True)
    made = pd.DataFrame(
        {
            "order_id": acts["order_id"],
            "step": step,
            "attempt": (same.cumcount() + 1).astype("Int32"),
            "round": (first.groupby([acts["order_id"], step], observed=True).cumsum() - 1).astype("Int32"),
            "execution": acts["attempt"],
            "try": pd.array([1] * n, dtype="Int32"),
            "lane": pd.array([0] * n, dtype="Int32"),
            "outcome": acts["outcome"],
            "started_at": acts["started_at"],
            "ended_at": acts["ended_at"],
            "duration_ms": acts["start_to_close"] * 1000,
            "error": acts["error"],
            "worker": acts["worker"],
            "skewed": (acts["start_to_close"] < 0) | (acts["schedule_to_start"] < 0),
            "queue": acts["queue"],
            "scheduled_at": acts["scheduled_at"],
        }
    )
    return made.reset_index(drop=True)


def history_workflows(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs of a `history` frame in the shape of `insight.orders`, as `timelines` and `completion` take it.

    Columns: order_id [string, as in `history_attempts`], state [category: COMPLETED, FAILED, TIMED_OUT, CANCELLED
    (terminated ones too), RUNNING; a run that continued as new is COMPLETED], workflow_type [category], last_error
    [string], created_at, began_at, ended_at [UTC], seconds [float].
    """
    runs = frame.assign(order_id=_orders(frame))[frame["kind"] == "workflow"].sort_values("started_at")
    made = pd.DataFrame(
        {
            "order_id": runs["order_id"],
            "state": pd.Categorical(runs["outcome"].astype(object).map(_STATES), categories=list(_STATES.values())),
            "workflow_type": runs["workflow_type"],
            "last_error": runs["error"],
            "created_at": runs["started_at"],
            "began_at": runs["started_at"],
            "ended_at": runs["ended_at"],
            "seconds": runs["start_to_close"],
        }
    )
    return made.reset_index(drop=True)

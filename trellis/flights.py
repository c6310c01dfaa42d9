"""The words of flights: somebody's app that runs with `TrellisPlugin`, and one row of its book of attempts.

A flight is the workflow types and activity types that run on one task queue of one namespace. The book is the table
`flights.attempts`: one row for each attempt of each activity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import partial
from typing import Any

SUCCEEDED, FAILED, TIMED_OUT, ABANDONED, LOST, OPEN = (
    "succeeded", "failed", "timed out", "abandoned", "lost", "open",
)  # fmt: skip
OUTCOMES = (SUCCEEDED, FAILED, TIMED_OUT, ABANDONED, LOST, OPEN)
"""How an attempt ended. `lost`: nobody knows its end, its worker died. `open`: it has not ended, as far as is known."""

CHANNEL = "trellis_flights"
"""Postgres' NOTIFY channel: one notification for each workflow that changed in a batch, see `changed`."""


def changed(payload: str) -> tuple[str, str]:
    """(namespace, workflow id) of a notification."""
    namespace, _, workflow_id = payload.partition("\x1f")
    return namespace, workflow_id


@dataclass(frozen=True, kw_only=True, slots=True)
class FlightRow:
    """One attempt, as the book holds it. Times are UTC. Timeouts and intervals are in seconds, None where none is set.

    `workflow_id` and `workflow_type` are empty for an activity without a workflow, `run_id` is then its own run.
    `attempt`: as Temporal counts. `try_` and `lane`: 0 for the attempt itself; a try of a loop inside it counts from 1,
    in its lane. `scheduled_at`: first schedule of the activity. `attempt_scheduled_at`: of this attempt; None for an
    attempt that no worker began (`lost`). `injected`: error, hang, reply-lost, latency or outage; None: nothing was.
    `outage`: how the outage in force failed the call. `queued`: seconds in the queue of a provider of finite capacity.
    `maximum_attempts`: 0 is no limit, None is not known. `heartbeats`: how many the attempt sent.
    `input` and `result`: only if the plugin was asked for payloads.

    Identity: namespace, workflow_id, run_id, activity_id, scheduled_at, attempt, try_, lane and attempt_scheduled_at. A
    workflow can use an activity id again, and then scheduled_at differs. An operator can reset an activity, so that it
    counts from 1 again, and then attempt_scheduled_at differs.
    """

    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    activity_id: str
    activity_type: str
    attempt: int
    try_: int = 0
    lane: int = 0
    queue: str
    worker: str | None = None
    local: bool = False
    scheduled_at: datetime
    attempt_scheduled_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str = OPEN
    failure_type: str | None = None
    error: str | None = None
    injected: str | None = None
    outage: str | None = None
    queued: float | None = None
    start_to_close_timeout: float | None = None
    schedule_to_close_timeout: float | None = None
    schedule_to_start_timeout: float | None = None
    heartbeat_timeout: float | None = None
    initial_interval: float | None = None
    backoff_coefficient: float | None = None
    maximum_interval: float | None = None
    maximum_attempts: int | None = None
    heartbeats: int = 0
    input: Any = None
    result: Any = None

    def to_json(self) -> str:
        """The row as the book takes it: one JSON object on one line."""
        values = {COLUMNS[name]: getattr(self, name) for name in COLUMNS}
        return encoded(partial(json.dumps, default=datetime.isoformat), values)

    @classmethod
    def from_columns(cls, values: Mapping[str, Any]) -> FlightRow:
        """A row from its columns; columns that are not a row's are ignored. Raises TypeError, ValueError."""
        found = {name: values[column] for name, column in COLUMNS.items() if column in values}
        for name in _TIMES:
            if isinstance(found.get(name), str):
                found[name] = datetime.fromisoformat(found[name])
        return cls(**found)

    def with_end(self, outcome: str, ended_at: datetime | None, **more: Any) -> FlightRow:
        """The same attempt, ended."""
        return replace(self, outcome=outcome, ended_at=ended_at, **more)


COLUMNS = {one.name: one.name.rstrip("_") for one in fields(FlightRow)}
"""The columns of `flights.attempts` by the names of the row's fields."""

_TIMES = ("scheduled_at", "attempt_scheduled_at", "started_at", "ended_at")


def encoded(encode: Callable[[Any], str], values: dict[str, Any]) -> str:
    """The values as JSON in ASCII that Postgres can hold: it knows neither NUL nor half a character."""
    text = encode(values)
    return encode(_clean(values)) if "\\u0000" in text or "\\ud" in text else text


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "�").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_clean(name): _clean(one) for name, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value

"""The book of flights as it is read into frames. Apart from `flights`, which must not import Arrow."""

from __future__ import annotations

from typing import LiteralString

import pyarrow as pa  # type: ignore[import-untyped]

from trellis.db.reading import FLAG, INT, REAL, TEXT, TIME, Table


def _plain(kind: pa.DataType, *names: LiteralString) -> dict[LiteralString, tuple[LiteralString, pa.DataType]]:
    return {name: (name, kind) for name in names}


FLIGHTS = Table(
    "flights.attempts",
    {
        **_plain(TEXT, "namespace", "workflow_id", "run_id", "workflow_type", "activity_id", "activity_type"),
        **_plain(INT, "attempt", "try", "lane"),
        **_plain(TEXT, "queue", "worker"),
        **_plain(FLAG, "local"),
        **_plain(TIME, "scheduled_at", "attempt_scheduled_at", "started_at", "ended_at"),
        **_plain(TEXT, "outcome", "failure_type", "error", "injected", "outage"),
        **_plain(REAL, "queued"),
        **_plain(
            REAL, "start_to_close_timeout", "schedule_to_close_timeout", "schedule_to_start_timeout",
            "heartbeat_timeout", "initial_interval", "backoff_coefficient", "maximum_interval",
        ),
        **_plain(INT, "maximum_attempts", "heartbeats"),
        "input": ("input::text", TEXT),
        "result": ("result::text", TEXT),
    },
    "scheduled_at, namespace, workflow_id, run_id, activity_id, attempt, lane, try",
    {
        "since": "scheduled_at >= {}", "until": "scheduled_at < {}", "namespace": "namespace = ANY({})",
        "workflow": "workflow_id = ANY({})", "workflow_type": "workflow_type = ANY({})",
        "activity_type": "activity_type = ANY({})", "outcome": "outcome = ANY({})", "queue": "queue = ANY({})",
        "tries": "(try > 0) = {}",
    },
)  # fmt: skip
"""`input` and `result` are JSON as text. `tries`: tries of loops inside attempts only, or attempts only."""

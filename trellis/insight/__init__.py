"""What the events say: DataFrames and charts, read-only."""

from trellis.insight.attempt_frames import attempts, steps
from trellis.insight.charts import (
    attempts_per_step,
    backlog,
    completion,
    completion_by_policy,
    follows,
    frontier,
    gantt,
    latency,
    recovery_map,
    shares,
    state_map,
    static,
    timelines,
    utilisation,
    variants,
    where_the_seconds_go,
)
from trellis.insight.doctor import doctor
from trellis.insight.exporting import export
from trellis.insight.flights import flight_attempts, flights
from trellis.insight.frames import events, orders, payments
from trellis.insight.history import download, history, history_attempts, history_workflows

__all__ = [
    "attempts", "attempts_per_step", "backlog", "completion", "completion_by_policy", "doctor", "download", "events",
    "export", "flight_attempts", "flights", "follows", "frontier", "gantt", "history", "history_attempts",
    "history_workflows", "latency", "orders", "payments", "recovery_map", "shares", "state_map", "static", "steps",
    "timelines", "utilisation", "variants", "where_the_seconds_go",
]  # fmt: skip

"""What the events say: DataFrames and charts, read-only."""

from trellis.insight.attempt_frames import attempts, steps
from trellis.insight.charts import (
    attempts_per_step,
    completion,
    follows,
    frontier,
    gantt,
    latency,
    raced,
    shares,
    state_map,
    static,
    timelines,
    utilisation,
    variants,
    where_the_seconds_go,
)
from trellis.insight.exporting import export
from trellis.insight.frames import events, orders, payments
from trellis.insight.history import download, history, history_attempts, history_workflows

__all__ = [
    "attempts", "attempts_per_step", "completion", "download", "events", "export", "follows", "frontier", "gantt",
    "history", "history_attempts", "history_workflows", "latency", "orders", "payments", "raced", "shares",
    "state_map", "static", "steps", "timelines", "utilisation", "variants", "where_the_seconds_go",
]  # fmt: skip

"""Charts of what happened, by subject: attempts, orders, paths, load, policies."""

from trellis.insight.charts.attempts import attempts_per_step, gantt, latency, timelines
from trellis.insight.charts.load import utilisation
from trellis.insight.charts.orders import completion, shares, where_the_seconds_go
from trellis.insight.charts.paths import follows, state_map, variants
from trellis.insight.charts.policies import completion_by_policy, frontier
from trellis.insight.charts.storms import backlog, recovery_map
from trellis.insight.charts.theme import static

__all__ = [
    "attempts_per_step", "backlog", "completion", "completion_by_policy", "follows", "frontier", "gantt", "latency",
    "recovery_map", "shares", "state_map", "static", "timelines", "utilisation", "variants", "where_the_seconds_go",
]  # fmt: skip

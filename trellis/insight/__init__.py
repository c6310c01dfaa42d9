"""What the events say: DataFrames and charts, read-only."""

from trellis.insight.charts import gantt
from trellis.insight.frames import attempts, events, export, orders, payments, steps

__all__ = ["attempts", "events", "export", "gantt", "orders", "payments", "steps"]

"""Temporal's own history as a DataFrame, for any workflow of any namespace.

A history does not hold every attempt. Temporal records an activity when it ends, with the number of its last attempt
and the failure of the attempt before. If an activity needed seven attempts, its history says when it was scheduled,
when the seventh began and ended, and how the sixth failed. The other attempts are rows with outcome `unknown` and no
times: they certainly took place, but nobody knows how they ended. For an activity that still runs, Describe gives the
same information. If the workflow's end cut an activity off, the number of its attempts is not known, and `attempt` is
missing (NA).
"""

from trellis.insight.history.connecting import connected
from trellis.insight.history.download import PartialHistory, download, history
from trellis.insight.history.frames import history_attempts, history_workflows
from trellis.insight.history.rows import rows

__all__ = ["PartialHistory", "connected", "download", "history", "history_attempts", "history_workflows", "rows"]

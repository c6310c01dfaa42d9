"""Temporal's own history as a DataFrame, for any workflow of any namespace.

What a history does not hold: Temporal writes an activity down when it ends, with the number of its last attempt and
the failure of the attempt before. Of an activity that needed seven attempts it knows when it was scheduled, when the
seventh began and ended, and how the sixth failed. The other attempts stand here as rows with outcome `unknown` and no
times: that they took place is certain, how they went is not. Of an activity that still runs, Describe tells the same;
of one that the end of its workflow cut off, nobody knows how often it was tried, and its attempt is missing (NA).
"""

from trellis.insight.history.download import connected, download, history
from trellis.insight.history.frames import history_attempts, history_workflows
from trellis.insight.history.rows import rows

__all__ = ["connected", "download", "history", "history_attempts", "history_workflows", "rows"]

"""Temporal's own history as a DataFrame, for any workflow of any namespace.

What a history does not hold: Temporal records an activity when it ends, with the number of its last attempt and the
failure of the attempt before. Of an activity that needed seven attempts it knows when it was scheduled, when the
seventh began and ended, and how the sixth failed. The other attempts are rows with outcome `unknown` and no times: it
is certain that they took place, but not how they ended. Describe says the same of an activity that still runs. Where
the end of a workflow cut an activity off, the number of its attempts is not known, and `attempt` is missing (NA).
"""

from trellis.insight.history.download import connected, download, history
from trellis.insight.history.frames import history_attempts, history_workflows
from trellis.insight.history.rows import rows

__all__ = ["connected", "download", "history", "history_attempts", "history_workflows", "rows"]

"""All rules. A new rule is a class of its own, and one entry here.

The order is one of precedence: of the rules with the same cause, only the first one speaks about an activity type.
"""

from trellis.insight.doctor.rules.retries import Bursts, IntervalTooShort, NoLimit, SameErrorToTheEnd
from trellis.insight.doctor.rules.rule import Rule
from trellis.insight.doctor.rules.tasks import WorkflowTasksFail
from trellis.insight.doctor.rules.timeouts import (
    FarAboveGoodCalls,
    HeartbeatTooShort,
    KillsGoodCalls,
    LongWithoutHeartbeat,
    NoRoomToRetry,
)
from trellis.insight.doctor.rules.workers import NobodyPolls, TasksWait

RULES: tuple[Rule, ...] = (
    NobodyPolls(), WorkflowTasksFail(), HeartbeatTooShort(), KillsGoodCalls(), NoRoomToRetry(), FarAboveGoodCalls(),
    LongWithoutHeartbeat(), Bursts(), NoLimit(), SameErrorToTheEnd(), TasksWait(), IntervalTooShort(),
)  # fmt: skip

__all__ = ["RULES", "Rule"]

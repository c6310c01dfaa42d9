"""The app of every case: one workflow that calls activities, and one activity. What it does is in its input.

Both answer to any type's name, so that each case has types of its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, ApplicationErrorCategory

FOR_EVER = 3600.0


@dataclass(frozen=True)
class Behaviour:
    """How calls go. `median`, `width`: lognormal durations [s]. `second`, `second_share`: another kind of call that
    takes so long [s], and its share. `fails`, `hangs`: shares. `poisoned`: in each workflow whose number it divides,
    calls never work (0: in none). `error`: the type of failures. `out_from`, `out_until`: seconds since the beginning
    between which all calls fail. On a machine that is late, the outage is late too: it begins with the first call of a
    workflow that should begin then, and lasts as long, and until it has failed ten calls.
    `beats`: seconds between heartbeats, 0 for none."""

    median: float = 0.05
    width: float = 0.4
    second: float = 0.0
    second_share: float = 0.0
    fails: float = 0.0
    hangs: float = 0.0
    poisoned: int = 0
    error: str = "Unavailable"
    out_from: float = 0.0
    out_until: float = 0.0
    beats: float = 0.0


@dataclass(frozen=True)
class Options:
    """Timeouts and retry policy [s]. 0: not set; for `maximum_attempts`: no limit."""

    start_to_close: float = 10.0
    schedule_to_close: float = 0.0
    heartbeat: float = 0.0
    initial_interval: float = 1.0
    backoff_coefficient: float = 2.0
    maximum_interval: float = 100.0
    maximum_attempts: int = 0


@dataclass(frozen=True)
class Work:
    """What a workflow does: `calls` activities of type `activity_type` on `queue` (empty: its own), one by one.

    `code`: what is wrong with the workflow's own code: raises, changed; empty: nothing. `number`: which of its
    case's workflows it is. `seed`: of the draws. `planned`: when the workflow should begin [s since the beginning].
    """

    activity_type: str
    behaviour: Behaviour
    options: Options
    calls: int
    number: int
    seed: int
    planned: float
    queue: str = ""
    code: str = ""


@workflow.defn(dynamic=True)
class Case:
    """Calls its activities, one after another, and goes on if one of them fails."""

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> int:
        work: Work = workflow.payload_converter().from_payload(args[0].payload, Work)
        name = work.activity_type
        if work.code == "raises":
            raise KeyError("colour")
        if work.code == "changed" and workflow.unsafe.is_replaying():
            name += "-of-another-version"
        own = work.options
        for _ in range(work.calls):
            # A test of many calls must not end with the first one that fails for good.
            with suppress(ActivityError):
                await workflow.execute_activity(
                    name, work, task_queue=work.queue or None, start_to_close_timeout=_span(own.start_to_close),
                    schedule_to_close_timeout=_span(own.schedule_to_close), heartbeat_timeout=_span(own.heartbeat),
                    retry_policy=RetryPolicy(
                        initial_interval=timedelta(seconds=own.initial_interval),
                        backoff_coefficient=own.backoff_coefficient,
                        maximum_interval=timedelta(seconds=max(own.maximum_interval, own.initial_interval)),
                        maximum_attempts=own.maximum_attempts,
                    ),
                )  # fmt: skip
        return work.calls


def _span(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds else None


@activity.defn(dynamic=True)
async def call(args: Sequence[RawValue]) -> None:
    """One call. What it does depends only on seed, workflow, activity and attempt, and in an outage on the time."""
    work: Work = activity.payload_converter().from_payload(args[0].payload, Work)
    await go(work, activity.info())


async def go(work: Work, info: activity.Info) -> None:
    """As `call`, with its input read."""
    how = work.behaviour
    draw = random.Random(f"{work.seed}/{info.workflow_id}/{info.activity_id}/{info.attempt}")
    kind, other, length = draw.random(), draw.random(), draw.lognormvariate(0.0, 1.0)
    seconds = how.median * length**how.width
    if other < how.second_share:
        seconds = how.second
    if _is_out(work):
        raise _failure("Unavailable")
    if how.poisoned and work.number % how.poisoned == 0:
        raise _failure(how.error)
    if kind < how.hangs:
        seconds = FOR_EVER
    elif kind < how.hangs + how.fails:
        raise _failure(how.error)
    while how.beats and seconds > how.beats:
        await asyncio.sleep(how.beats)
        activity.heartbeat()
        seconds -= how.beats
    await asyncio.sleep(seconds)


_AT_LEAST = 10

_began: dict[str, float] = {}
"""When the outage of an activity type began [monotonic clock, s], in this process, which runs all calls."""

_failed: Counter[str] = Counter()
"""How many first attempts it failed."""


def _is_out(work: Work) -> bool:
    how, now = work.behaviour, time.monotonic()
    of = f"{work.activity_type} {work.seed}"
    if how.out_until and work.planned >= how.out_from:
        _began.setdefault(of, now)
    if of not in _began or (now >= _began[of] + how.out_until - how.out_from and _failed[of] >= _AT_LEAST):
        return False
    _failed[of] += activity.info().attempt == 1
    return True


def _failure(type_: str) -> ApplicationError:
    return ApplicationError("it failed", type=type_, category=ApplicationErrorCategory.BENIGN)

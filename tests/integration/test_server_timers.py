"""The server's timers, measured by the server's own clock, against the rules that `server_timers` states."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest
from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from trellis.desk import Desk
from trellis.insight.server_timers import Shard, Tries, waits

pytestmark = pytest.mark.slow

BACKOFF, TIMEOUT, AT_ONCE, STEPS = 0.005, 2.0, 6, 3
SEEN: list[tuple[str, int, float, float]] = []
"""(step, attempt, when the server put it off to, when it started): by the server's clock [s]."""


@activity.defn
async def every_other(step: str) -> None:
    """Raises at its first and third attempt, hangs at its second and fourth, works at its fifth."""
    info = activity.info()
    asked = info.current_attempt_scheduled_time.timestamp()
    SEEN.append((step, info.attempt, asked, info.started_time.timestamp()))
    if info.attempt in (1, 3):
        raise ApplicationError("not yet", category=ApplicationErrorCategory.BENIGN)
    if info.attempt in (2, 4):
        await asyncio.sleep(TIMEOUT + 1)


@workflow.defn(name="EveryOther")
class EveryOther:
    """Steps one after another, each with short backoffs."""

    @workflow.run
    async def run(self) -> None:
        for step in range(STEPS):
            await workflow.execute_activity(
                every_other,
                f"{workflow.info().workflow_id}/{step}",
                start_to_close_timeout=timedelta(seconds=TIMEOUT),
                retry_policy=RetryPolicy(
                    initial_interval=timedelta(seconds=BACKOFF), maximum_interval=timedelta(seconds=BACKOFF)
                ),
            )


def gaps(parity: int) -> Iterator[float]:
    """Seconds from the moment at which the server noted a failure to the retry, after attempts 1 and 3, or 2 and 4."""
    for _, attempt, asked, started in SEEN:
        if attempt > 1 and attempt % 2 == parity:
            yield started - (asked - BACKOFF)


@pytest.mark.timeout(180)
async def test_gaps_of_retries_are_those_of_the_timer_queue(idle_desk: Desk) -> None:
    """Six workflows at a time, backoffs of 5 ms: gaps of nearly a second after a raise, and of less after a timeout.

    A busy machine makes gaps longer, never shorter. So the bounds below are tight, and those above are wide.
    """
    SEEN.clear()
    async with Worker(
        idle_desk.client, task_queue="every-other", workflows=[EveryOther], activities=[every_other],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):  # fmt: skip

        async def one(number: int) -> None:
            await asyncio.sleep(0.37 * number)
            id_ = f"every-other-{uuid.uuid4().hex[:8]}"
            await idle_desk.client.execute_workflow("EveryOther", id=id_, task_queue="every-other")

        await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    raised, cut = np.array(list(gaps(0))), np.array(list(gaps(1)))
    assert len(raised) == len(cut) == 2 * AT_ONCE * STEPS
    # An activity takes 7 s, with a workflow task, four timeouts of attempts and four backoffs.
    shard = Shard(reads=(AT_ONCE - 1) / 7, timers=10 * (AT_ONCE - 1) / 7)
    found = waits(Tries(TIMEOUT, BACKOFF, 2.0, BACKOFF, 0.4, 0.4, 0.01, 0.01, way=0.02, between=0.05, shard=shard))
    earliest = np.maximum(found.raised, BACKOFF)
    assert float(np.median(raised)) > float(np.median(earliest)) - 0.1
    assert float(np.quantile(raised, 0.25)) < 1.6
    assert cut.min() >= BACKOFF
    assert float(np.mean(cut)) > float(np.mean(np.maximum(found.cut, BACKOFF))) - 0.25
    # A fixed second after each failure, as on a shard without other timers, would leave none of these.
    assert float((cut < 0.95).mean()) > 0.1

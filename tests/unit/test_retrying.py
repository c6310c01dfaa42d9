"""The loop of tries, used by an activity that knows neither ledger nor fault plan."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from trellis.activities.attempts import expected_ends
from trellis.errors import ConfigError
from trellis.policies import Placement, Retry
from trellis.retrying.gate import Gate, Gates
from trellis.retrying.loop import Attempt, Miss, Retrying, Stop

LOOP = Retry(0.2, 0.001, 0.002, placement=Placement.ACTIVITY)
Seen = list[tuple[int, int, str]]


async def tried(rule: Retry, call: Callable[[Attempt], Awaitable[str]]) -> tuple[str, Seen]:
    """What an activity with such a loop returns, and the calls without success as (number, lane, how)."""
    seen: Seen = []

    def missed(attempt: Attempt, miss: Miss) -> None:
        seen.append((attempt.number, attempt.lane, miss.outcome))

    @activity.defn
    async def greet() -> str:
        async with expected_ends():
            return await Retrying[str]("greet", rule, on_missed=missed).run(call)

    try:
        return await ActivityEnvironment().run(greet), seen
    except ApplicationError as failure:
        return f"{failure.type}: {failure.message}", seen


async def test_any_activity_can_try_until_it_succeeds() -> None:
    """A call that raises and one that hangs are reported; the third gives the value."""

    async def call(attempt: Attempt) -> str:
        if attempt.number == 1:
            raise ConnectionError("line busy")
        if attempt.number == 2:
            await asyncio.sleep(60)
        return "hello"

    assert await tried(LOOP, call) == ("hello", [(1, 0, "failed"), (2, 0, "timed out")])


async def test_the_first_lane_that_succeeds_wins() -> None:
    """The lane that answers first gives the value. The other lane's call is abandoned, and reported once."""

    async def call(attempt: Attempt) -> str:
        if attempt.lane == 0:
            await asyncio.sleep(60)
        return f"lane {attempt.lane}"

    assert await tried(Retry(30, 0.001, 0.002, placement=Placement.ACTIVITY, hedge=2), call) == (
        "lane 1", [(1, 0, "abandoned")],
    )  # fmt: skip


@pytest.mark.parametrize("hedge", [1, 3])
async def test_tries_that_are_used_up_end_the_activity(hedge: int) -> None:
    """After the last try of the last lane the activity fails for good, in words."""

    async def call(attempt: Attempt) -> str:
        raise ConnectionError("line busy")

    rule = Retry(0.2, 0.001, 0.002, max_tries=2, placement=Placement.ACTIVITY, hedge=hedge)
    outcome, seen = await tried(rule, call)
    assert outcome == "TriesUsedUp: greet failed 2 times, last: line busy"
    assert sorted(seen) == [(number, lane, "failed") for number in (1, 2) for lane in range(hedge)]


async def test_an_error_that_is_not_to_be_retried_ends_all_lanes() -> None:
    """As Temporal does with an attempt, the loop lets such an ApplicationError through."""

    async def call(attempt: Attempt) -> str:
        if attempt.lane == 1:
            raise ApplicationError("no such account", type="NoAccount", non_retryable=True)
        await asyncio.sleep(60)
        return "never"

    outcome, seen = await tried(Retry(30, 0.001, 0.002, placement=Placement.ACTIVITY, hedge=2), call)
    assert (outcome, sorted(seen)) == ("NoAccount: no such account", [(1, 0, "abandoned"), (1, 1, "failed")])


async def test_a_time_limit_of_the_calls_own_is_a_failure() -> None:
    """A TimeoutError that the call raised by itself is not the try's timeout."""
    errors = []

    async def call(attempt: Attempt) -> str:
        if attempt.number == 1:
            raise TimeoutError
        return "hello"

    loop = Retrying[str](
        "greet", Retry(30, 0, 0, placement=Placement.ACTIVITY), on_missed=lambda _, miss: errors.append(miss)
    )
    assert await loop.run(call) == "hello"
    assert errors == [Miss("failed", "TimeoutError", "TimeoutError")]


async def test_stop_ends_all_lanes_at_once() -> None:
    """A call that must not be tried again is not, and is no failed try."""

    async def call(attempt: Attempt) -> str:
        if attempt.lane == 1:
            raise Stop("refused for good")
        await asyncio.sleep(60)
        return "never"

    outcome, seen = await tried(Retry(30, 0.001, 0.002, placement=Placement.ACTIVITY, hedge=2), call)
    assert (outcome, seen) == ("Stopped: refused for good", [(1, 0, "abandoned")])


async def test_with_placement_server_one_execution_makes_one_call() -> None:
    """Temporal starts the next one, so a failure leaves the activity at once."""

    async def call(attempt: Attempt) -> str:
        raise ConnectionError("line busy")

    assert await tried(Retry(0.2, 0.001, 0.002), call) == ("ConnectionError: line busy", [(1, 0, "failed")])


async def test_the_pause_is_the_rules_with_the_jitter_drawn() -> None:
    """Backoffs come from the rule; `draw` is asked once for each call without success."""
    drawn: list[int] = []

    def draw(attempt: Attempt) -> float:
        drawn.append(attempt.number)
        return 0.0

    async def call(attempt: Attempt) -> str:
        if attempt.number < 4:
            raise ConnectionError
        return "hello"

    assert await Retrying[str]("greet", LOOP, draw=draw).run(call) == "hello"
    assert drawn == [1, 2, 3]


LIMITED = Retry(0.2, 0.001, 0.002, placement=Placement.ACTIVITY, retry_share=0.0)


def gate(rule: Retry) -> Gate:
    found = Gates().of("greet", rule)
    assert found is not None
    return found


async def test_activities_of_one_worker_share_a_retry_budget() -> None:
    """Twenty activities whose call fails make twenty first calls and as many retries as there are tokens."""
    shared, calls, back = gate(LIMITED), 0, asyncio.Event()

    async def call(attempt: Attempt) -> str:
        nonlocal calls
        calls += 1
        if not back.is_set():
            raise ConnectionError("line busy")
        return "hello"

    running = [asyncio.create_task(Retrying[str]("greet", LIMITED, gate=shared).run(call)) for _ in range(20)]
    async with asyncio.timeout(30):
        while shared.governor.waiting < 20:
            await asyncio.sleep(0.01)
        # A busy machine may have let probes go meanwhile; each failed, and its activity waits in line again.
        assert 30 <= calls < 60
        back.set()
        assert await asyncio.gather(*running) == ["hello"] * 20


async def test_an_activity_that_is_cancelled_leaves_the_line() -> None:
    """Its place is not kept, so the retry behind it goes first."""
    shared = gate(LIMITED)
    while shared.governor.ask(0.0, lambda: None) is None:
        pass
    first, second = asyncio.create_task(shared.turn()), asyncio.create_task(shared.turn())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    # The retry that emptied the bucket above still waits in the line, and then the second.
    shared.succeeded()
    shared.succeeded()
    await asyncio.wait_for(second, 30)


async def test_further_lanes_of_a_hedge_pay_as_retries() -> None:
    """With an empty bucket only the first lane calls. A rule without limits has no gate."""
    hedged = Retry(0.2, 0.001, 0.002, placement=Placement.ACTIVITY, retry_share=0.0, hedge=3)
    shared = gate(hedged)
    lanes: set[int] = set()
    while shared.governor.ask(0.0, lambda: None) is None:
        pass

    async def call(attempt: Attempt) -> str:
        lanes.add(attempt.lane)
        return "hello"

    assert await Retrying[str]("greet", hedged, gate=shared).run(call) == "hello"
    assert lanes == {0}
    assert Gates().of("greet", LOOP) is None


def test_a_retry_budget_without_a_gate_is_one_sentence() -> None:
    """Nobody believes that retries are limited while they are not."""
    with pytest.raises(ConfigError, match=r"greet limits the worker's retries.*needs the worker's gate\."):
        Retrying[str]("greet", LIMITED)

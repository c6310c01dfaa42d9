"""The public helper: `retrying` as a decorator and as a block, in activities that know nothing of Trellis."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import re
import textwrap
import uuid
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import trellis.retrying
from trellis.bench.flown.trip import Trip
from trellis.errors import ConfigError
from trellis.plugin.current import LOOPS
from trellis.retrying import Placement, Retry, Stop, key, retrying

QUICK = Retry(0.2, 0.001, 0.002, placement=Placement.ACTIVITY)
HEDGED = Retry(30, 0.001, 0.002, placement=Placement.ACTIVITY, hedge=3)


class Bank:
    """An outside system that answers the third call, and remembers the keys."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def charge(self, order_id: str, idempotency_key: str) -> str:
        self.keys.append(idempotency_key)
        if len(self.keys) < 3:
            raise ConnectionError("line busy")
        return f"paid {order_id}"


async def test_the_example_of_the_docstring_runs() -> None:
    """What the package says, is what works: the decorator, and the block for a part."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", str(trellis.retrying.__doc__), re.MULTILINE)
    decorated, part = (textwrap.dedent(block).strip() for block in blocks if "retrying(" in block)
    bank = Bank()
    space: dict[str, Any] = {"bank": bank}
    exec(decorated, space)
    assert await ActivityEnvironment().run(space["charge"], "o-1") == "paid o-1"
    assert len(set(bank.keys)) == 1
    body = textwrap.indent(part, "    ")
    exec(f"@activity.defn\nasync def pay(order_id: str) -> str:\n{body}\n    return receipt", space)
    assert await ActivityEnvironment().run(space["pay"], "o-2") == "paid o-2"
    assert len(set(bank.keys)) == 2


async def test_the_decorator_keeps_what_the_sdk_reads() -> None:
    """Name, parameters and types: the worker decodes inputs by them."""

    @activity.defn(name="greet-someone")
    @retrying(QUICK)
    async def greet(name: str, times: int) -> str:
        return name * times

    definition = activity._Definition.must_from_callable(greet)
    assert (definition.name, definition.arg_types, definition.ret_type) == ("greet-someone", [str, int], str)
    assert definition.is_async
    assert list(inspect.signature(greet).parameters) == ["name", "times"]
    assert await ActivityEnvironment().run(greet, "x", 2) == "xx"


async def test_the_decorator_may_stand_above_the_activitys_own() -> None:
    """Both orders loop."""
    calls = 0

    @retrying(QUICK)
    @activity.defn
    async def greet() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError
        return calls

    assert await ActivityEnvironment().run(activity._Definition.must_from_callable(greet).fn) == 3


async def test_all_lanes_and_attempts_have_one_key() -> None:
    """The key depends on the activity, never on the attempt; another run or another part has another one."""
    keys: set[str] = set()

    @activity.defn
    @retrying(HEDGED)
    async def charge() -> str:
        keys.add(key())
        await asyncio.sleep(0.05)
        return key("refund")

    found: list[str] = []
    for attempt, run in ((1, "r"), (2, "r"), (1, "other")):
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(environment.info, attempt=attempt, workflow_run_id=run)
        found.append(await environment.run(charge))
    assert len(keys) == 2
    assert found[0] == found[1] != found[2]
    assert not set(found) & keys
    assert all(str(uuid.UUID(one)) == one for one in keys)


async def test_heartbeats_are_sent_unless_they_are_switched_off() -> None:
    """An activity with heartbeats of its own would lose their details."""
    sent: dict[bool, int] = {}
    for wanted in (True, False):
        beats: list[object] = []
        beaten = asyncio.Event()

        @activity.defn
        async def wait(wanted: bool = wanted, beaten: asyncio.Event = beaten) -> None:
            async def call() -> None:
                # With heartbeats the wait ends with the first one.
                await (asyncio.wait_for(beaten.wait(), 30) if wanted else asyncio.sleep(0.7))

            async with retrying(Retry(60, 0, 0, placement=Placement.ACTIVITY), heartbeat=wanted) as tries:
                await tries(call)

        def beat(*details: object, beats: list[object] = beats, beaten: asyncio.Event = beaten) -> None:
            beats.append(details)
            beaten.set()

        environment = ActivityEnvironment()
        environment.on_heartbeat = beat
        await environment.run(wait)
        sent[wanted] = len(beats)
    assert sent[True] >= 1
    assert sent[False] == 0


async def test_a_file_that_holds_workflows_too_may_import_the_helper() -> None:
    """The sandbox imports the file again for the workflow, and lets the helper in, without any plugin."""
    SandboxedWorkflowRunner().prepare_workflow(workflow._Definition.must_from_class(Trip))


async def test_stop_fails_the_activity_for_good() -> None:
    """Neither the loop nor Temporal tries it again."""

    @activity.defn
    @retrying(QUICK)
    async def charge() -> None:
        raise Stop("the account is closed")

    with pytest.raises(ApplicationError, match="the account is closed") as caught:
        await ActivityEnvironment().run(charge)
    assert (caught.value.type, caught.value.non_retryable) == ("Stopped", True)


async def test_a_cancelled_activity_stays_cancelled() -> None:
    """The workflow that cancelled it hears of a cancellation, not of a failure."""
    environment = ActivityEnvironment()
    running = asyncio.Event()

    @activity.defn
    @retrying(HEDGED)
    async def wait() -> None:
        running.set()
        await asyncio.sleep(60)

    task: asyncio.Future[None] = asyncio.ensure_future(environment.run(wait))
    await asyncio.wait_for(running.wait(), 30)
    environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_with_placement_server_the_activity_is_as_it_was() -> None:
    """One call, and its own error: Temporal's retry policy does the rest."""

    @activity.defn
    @retrying(Retry(0.2, 0.001, 0.002))
    async def charge() -> None:
        raise KeyError("account")

    with pytest.raises(KeyError, match="account"):
        await ActivityEnvironment().run(charge)


async def test_a_placement_may_be_a_word() -> None:
    """As it stands in a policy's JSON."""
    calls = 0

    @activity.defn
    @retrying(Retry(0.2, 0.001, 0.002, placement="activity"))  # type: ignore[arg-type]
    async def charge() -> int:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise ConnectionError
        return calls

    assert vars(charge)[LOOPS]
    assert await ActivityEnvironment().run(charge) == 3


async def test_a_retry_budget_is_shared_by_all_activities_of_the_worker() -> None:
    """A governed rule needs nothing else: the helper has the worker's gate."""
    rule = Retry(0.2, 0.001, 0.002, placement=Placement.ACTIVITY, retry_share=0.0)
    calls, back = 0, asyncio.Event()

    async def call() -> str:
        nonlocal calls
        calls += 1
        if not back.is_set():
            raise ConnectionError
        return "hello"

    async def one() -> str:
        async with retrying(rule, "shared") as tries:
            found: str = await tries(call)
            return found

    running = [asyncio.create_task(one()) for _ in range(20)]
    async with asyncio.timeout(30):
        while calls < 30:
            await asyncio.sleep(0.01)
        assert calls < 60
        back.set()
        assert await asyncio.gather(*running) == ["hello"] * 20


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: retrying(QUICK)(lambda: None), r"is not async.*asyncio\.to_thread\."),  # type: ignore[arg-type,return-value]
        (lambda: retrying(Retry(hedge=2)), r"hedges, which needs placement activity"),
        (lambda: retrying(Retry(try_timeout=float("nan"))), r"numbers of seconds"),
        (lambda: retrying("quick"), r"takes a Retry, not str"),  # type: ignore[arg-type]
        (lambda: retrying(Retry(max_tries="3")), r"whole numbers"),  # type: ignore[arg-type]
        (lambda: retrying(Retry(placement="worker")), r"server or activity"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make: Any, sentence: str) -> None:
    """When the module is imported, not when the activity runs."""
    with pytest.raises(ConfigError, match=sentence):
        make()

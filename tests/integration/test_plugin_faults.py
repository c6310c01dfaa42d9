"""Faults in somebody else's activities: async, threaded and local ones, and only where they may be."""

from __future__ import annotations

import asyncio
import threading

import pytest
from temporalio.client import Client
from temporalio.worker import Worker

from tests.integration.flown_app import ACTIVITIES, THREADS, Call, Calls, beat, compose
from tests.integration.flying import Airfield, outcomes, said
from trellis.errors import ConfigError
from trellis.faults import AnyName, FaultPlan, Mix
from trellis.outages import Capacity, Outage
from trellis.plugin import TrellisPlugin
from trellis.retrying import Placement, Retry, retrying

GREETING = {"word": "Hello", "name": "World"}


async def test_the_same_plan_seed_and_ids_give_the_same_outcomes(airfield: Airfield) -> None:
    """Run again with the same workflow ids, each attempt has the same fate. Nothing depends on the run or the time."""
    plan = FaultPlan(Mix(error=0.4, reply_lost=0.2), seed=7)
    # Local ones are retried at once. A server's timer would take a second for each retry.
    calls = [Call(one, [GREETING], attempts=9, local=True) for one in ("compose", "compose_in_thread")]
    found: list[list[tuple[object, ...]]] = []
    seen: set[str] = set()
    for _ in range(2):
        async with airfield.worker(airfield.plugin(plan)):
            for number in range(5):
                await airfield.call(*calls, Call("compose", [GREETING], attempts=1), id_=f"{airfield.queue}-{number}")
        rows = [row for row in await airfield.book.attempts(queue=airfield.queue) if row.run_id not in seen]
        seen |= {row.run_id for row in rows}
        found.append(
            sorted((row.workflow_id, row.activity_id, row.attempt, row.outcome, str(row.injected)) for row in rows)
        )
    assert found[0] == found[1]
    assert {injected for *_, injected in found[0]} == {"None", "error", "reply-lost"}
    assert {row.failure_type for row in rows if row.outcome == "failed"} == {"InjectedError"}


async def test_a_reply_is_lost_after_the_work_was_done(airfield: Airfield) -> None:
    """The activity ran, its caller hears a failure. The name with the workflow type is for that type alone."""
    THREADS.clear()
    text = "Calls/compose_in_thread: reply-lost, ok; Others/compose: error*"
    async with airfield.worker(airfield.plugin(text)):
        assert (
            await airfield.call(Call("compose_in_thread", [GREETING]), Call("compose", [GREETING]))
            == ["Hello, World!"] * 2
        )
    rows = await airfield.book.attempts(queue=airfield.queue)
    assert [(row.activity_type, row.outcome, row.injected) for row in rows] == [
        ("compose_in_thread", "failed", "reply-lost"), ("compose_in_thread", "succeeded", None),
        ("compose", "succeeded", None),
    ]  # fmt: skip
    assert len(THREADS) >= 1


async def test_a_hang_ends_by_its_clock_or_its_cancellation_and_takes_no_thread(airfield: Airfield) -> None:
    """Async, threaded and local: left without an answer, the server times it out. The worker's end ends it too."""
    before = set(threading.enumerate())
    THREADS.clear()
    hang = "compose: hang, ok; compose_in_thread: hang, ok; beat_in_thread: hang*; fail_until: hang*"
    async with airfield.worker(airfield.plugin(hang)):
        assert await airfield.call(
            Call("compose", [GREETING], start_to_close=0.5, attempts=9),
            Call("compose_in_thread", [GREETING], start_to_close=0.5, attempts=9),
            Call("compose", [GREETING], start_to_close=0.5, attempts=9, local=True),
            # Without an answer to its heartbeats the worker cannot know that it was cancelled; its deadline is near.
            Call("fail_until", [1], start_to_close=3000, heartbeat=1, cancel_after=0.3),
        ) == ["Hello, World!"] * 3 + ["CancelledError"]  # fmt: skip
        threads = len(THREADS)
        # No deadline is near: only the worker's end can end these.
        endless = [
            await airfield.client.start_workflow(
                Calls.run,
                [Call(one, [3], start_to_close=3000)],
                id=f"{airfield.queue}-{one}",
                task_queue=airfield.queue,
            )
            for one in ("beat_in_thread", "fail_until")
        ]
        await airfield.rows(lambda rows: outcomes(rows)["open"] >= 2 and len(rows) >= 9)
    for handle in endless:
        await handle.terminate()
    rows = await airfield.book.attempts(queue=airfield.queue)
    tried: dict[tuple[str, bool], list[tuple[int, str, str | None]]] = {}
    for row in rows:
        if row.start_to_close_timeout == 0.5:
            tried.setdefault((row.activity_type, row.local), []).append((row.attempt, row.outcome, row.injected))
    assert set(tried) == {("compose", False), ("compose_in_thread", False), ("compose", True)}
    # On a busy machine a sound attempt too can take longer than its half second.
    assert {attempts[0] for attempts in tried.values()} == {(1, "timed out", "hang")}
    assert {attempts[-1][1:] for attempts in tried.values()} == {("succeeded", None)}
    # The first attempt of the threaded one never reached a thread.
    assert 1 <= threads < len(tried["compose_in_thread", False])
    assert {row.injected for row in rows if row.start_to_close_timeout == 3000} == {"hang"}
    assert {row.outcome for row in rows if row.start_to_close_timeout == 3000 and not row.heartbeat_timeout} == {
        "abandoned"
    }
    assert all(row.ended_at is not None for row in rows)
    assert [one.name for one in set(threading.enumerate()) - before if "flown" in one.name] == []


async def test_faults_act_on_each_try_of_a_loop(airfield: Airfield) -> None:
    """With `retrying` the server sees one attempt. The calls inside it fail as the plan says, until one is good."""
    loop = retrying(Retry(try_timeout=0.3, first_backoff=0.01, placement=Placement.ACTIVITY))
    async with airfield.worker(
        airfield.plugin("compose: error, hang, reply-lost, ok; beat: error, ok"), activities=[loop(compose), beat]
    ):
        calls = Call("compose", [GREETING], start_to_close=30), Call("beat", [1])
        assert (await airfield.call(*calls))[0] == "Hello, World!"
    rows = await airfield.book.attempts(queue=airfield.queue)
    assert sorted((row.activity_type, row.attempt, row.try_, row.outcome, str(row.injected)) for row in rows) == [
        ("beat", 1, 0, "failed", "error"), ("beat", 2, 0, "succeeded", "None"),
        ("compose", 1, 0, "succeeded", "None"), ("compose", 1, 1, "failed", "error"),
        ("compose", 1, 2, "timed out", "hang"), ("compose", 1, 3, "failed", "reply-lost"),
        ("compose", 1, 4, "succeeded", "None"),
    ]  # fmt: skip


async def test_a_stored_plan_is_followed_while_the_worker_runs(airfield: Airfield) -> None:
    """A board writes it; the worker's own names are followed, others are said. Outages and queues are in the rows."""
    with said() as lines:
        async with airfield.worker(airfield.plugin()):
            assert await airfield.call(Call("compose", [GREETING])) == ["Hello, World!"]
            plan = FaultPlan(
                steps={"refund": Mix(error=1)}, outages=(Outage(0, 3600, step="beat"),),
                capacity={"compose": Capacity(1, 0.05)}, names=AnyName(),
            ).check()  # fmt: skip
            force = await airfield.book.set_plan("default", airfield.queue, plan)
            async with asyncio.timeout(60):
                while await airfield.call(Call("beat", [1], attempts=1)) != ["ApplicationError"]:
                    pass
            assert await airfield.call(Call("compose", [GREETING])) == ["Hello, World!"]
            again = await airfield.book.set_plan("default", airfield.queue, plan, keep_outages=True)
            assert (again.version, again.since) == (force.version + 1, force.since)
    rows = await airfield.book.attempts(queue=airfield.queue)
    assert (rows[-2].injected, rows[-2].outage, rows[-2].failure_type) == ("outage", "error", "InjectedError")
    assert [row.queued is None for row in rows if row.activity_type == "compose"] == [True, False]
    assert any("names refund" in line for line in lines)


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        ("charge: error", "no step that calls out: 'charge'. Known are compose"),
        (FaultPlan(steps={"Calls/charge": Mix()}), "There is no step 'Calls/charge'"),
        (FaultPlan(Mix(error=2)), "must be from 0 to 1"),
    ],
)
async def test_a_plan_that_makes_no_sense_here_is_refused_when_the_worker_is_made(
    airfield: Airfield, faults: FaultPlan | str, why: str
) -> None:
    """In one sentence, before anything runs."""
    with pytest.raises(ConfigError, match=why):
        Worker(airfield.client, task_queue="q", activities=[compose], plugins=[airfield.plugin(faults)])


async def test_a_plan_given_to_the_client_is_for_all_its_workers(airfield: Airfield) -> None:
    """So it may name what one of them does not have; each takes its own part."""
    plugin = airfield.plugin("compose: error, ok; charge: error*")
    config = airfield.client.config()
    config["plugins"] = [plugin]
    client = Client(**config)
    Worker(client, task_queue="workflows-only", workflows=[Calls])
    async with airfield.worker(client=client):
        assert await airfield.call(Call("compose", [GREETING], local=True)) == ["Hello, World!"]
    assert outcomes(await airfield.book.attempts(queue=airfield.queue)) == {"failed": 1, "succeeded": 1}


async def test_faults_beyond_loopback_need_the_namespaces_name() -> None:
    """The sentence says what to write. Without faults nothing is refused."""
    far = await Client.connect("temporal.example.com:7233", namespace="prod", lazy=True)

    def made(plugin: TrellisPlugin) -> None:
        Worker(far, task_queue="q", workflows=[Calls], activities=ACTIVITIES[:1], plugins=[plugin])

    with pytest.raises(ConfigError, match=r"temporal.example.com:7233 is not on this machine.*namespace='prod'"):
        made(TrellisPlugin("calm"))
    for allowed in (TrellisPlugin("calm", namespace="prod"), TrellisPlugin()):
        # The SDK's own refusal comes after the plugin's.
        with pytest.raises(RuntimeError, match=r"[Ll]azy"):
            made(allowed)


@pytest.mark.parametrize(
    "options",
    [
        {"faults": 3}, {"retention_days": 0}, {"retention_days": "a week"}, {"held": 0}, {"held": 1.5},
        {"database_url": "mysql://root:s3cret@host/name"}, {"faults": "nonsense"},
    ],
)  # fmt: skip
async def test_a_value_that_cannot_be_used_is_refused_in_words(airfield: Airfield, options: dict[str, object]) -> None:
    """One sentence without secrets, when the plugin is made or when its worker is."""

    def made() -> Worker:
        plugin = TrellisPlugin(**options)  # type: ignore[arg-type]
        return Worker(airfield.client, task_queue="q", activities=[compose], plugins=[plugin])

    with pytest.raises(ConfigError) as refused:
        made()
    assert "s3cret" not in str(refused.value)

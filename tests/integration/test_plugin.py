"""TrellisPlugin with real workers: every attempt is in the book, and the workers do not notice."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.worker import Replayer, SharedStateManager
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from tests.integration.flown_app import ACTIVITIES, Call, Calls, beat_in_thread
from tests.integration.flying import Airfield, database, outcomes, said
from trellis.sandbox import RUNNER

GREETING = {"word": "Hello", "name": "World"}


async def test_every_attempt_of_every_kind_is_in_the_book(airfield: Airfield) -> None:
    """Async, threaded and local activities, with failures, retries and heartbeats; the answers are as without it."""
    calls = [
        Call("compose", [GREETING]), Call("compose_in_thread", [GREETING]), Call("fail_until", [3], id="again"),
        Call("fail_until", [9], attempts=2, id="again"), Call("beat", [3], heartbeat=10), Call("beat_in_thread", [3]),
        Call("compose", [GREETING], local=True), Call("fail_until", [2], local=True),
    ]  # fmt: skip
    async with airfield.worker(airfield.plugin()):
        noted = await airfield.call(*calls)
    async with airfield.worker():
        assert noted == await airfield.call(*calls)
    assert noted == ["Hello, World!", "Hello, World!", 3, "ApplicationError", 3, 3, "Hello, World!", 2]

    # The worker has ended, and with it what waited is in the book.
    rows = await airfield.book.attempts(queue=airfield.queue)
    by_type = Counter((row.activity_type, row.local, row.outcome) for row in rows)
    assert by_type == {
        ("compose", False, "succeeded"): 1, ("compose_in_thread", False, "succeeded"): 1,
        # An activity id that the workflow uses twice.
        ("fail_until", False, "failed"): 2 + 2, ("fail_until", False, "succeeded"): 1,
        ("beat", False, "succeeded"): 1, ("beat_in_thread", False, "succeeded"): 1,
        ("compose", True, "succeeded"): 1, ("fail_until", True, "failed"): 1, ("fail_until", True, "succeeded"): 1,
    }  # fmt: skip
    assert {row.failure_type for row in rows if row.outcome == "failed"} == {"NotYet"}
    assert {row.heartbeats for row in rows if row.activity_type.startswith("beat")} == {3}
    assert {row.workflow_type for row in rows} == {"Calls"}
    assert all(row.worker and row.started_at and row.ended_at and row.attempt_scheduled_at for row in rows)
    assert all(row.input is None and row.result is None and row.injected is None for row in rows)
    again = [row for row in rows if row.activity_id == "again"]
    assert [(row.attempt, row.maximum_attempts) for row in again] == [(1, 3), (2, 3), (3, 3), (1, 2), (2, 2)]
    assert {row.start_to_close_timeout for row in rows} == {20.0}
    assert airfield.files() == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_process_pool_and_other_interceptors_see_no_difference(airfield: Airfield) -> None:
    """As in hello_activity_multiprocess.py; no forked child keeps the worker's file."""
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=context) as pool, context.Manager() as manager:
        shared = SharedStateManager.create_from_multiprocessing(manager)
        async with airfield.worker(
            airfield.plugin(), activities=[beat_in_thread], activity_executor=pool, shared_state_manager=shared
        ):
            assert await airfield.call(Call("beat_in_thread", [5], heartbeat=20)) == [5]
    [row] = await airfield.book.attempts(queue=airfield.queue)
    assert (row.outcome, row.heartbeats) == ("succeeded", 5)


async def test_the_attempt_of_a_killed_worker_is_in_the_book(airfield: Airfield) -> None:
    """SIGKILL leaves its file. When the database is there, the next worker, in another process, delivers it."""
    queue, wf = airfield.queue, f"killed-{uuid.uuid4().hex[:8]}"
    address = airfield.client.service_client.config.target_host
    async with database(airfield.url) as (url, create):
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.flown_worker", address, queue, url, str(airfield.settings.home),
            cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        try:
            handle = await airfield.client.start_workflow(
                Calls.run, [Call("wait_for_ever", [], start_to_close=120, heartbeat=60)], id=wf, task_queue=queue
            )
            async with asyncio.timeout(60):
                while not any(b'"open"' in path.read_bytes() for path in airfield.files()):
                    await asyncio.sleep(0.05)
        finally:
            os.kill(worker.pid, signal.SIGKILL)
            await worker.wait()
        airfield = replace(airfield, book=await create(), url=url)
        async with airfield.worker(airfield.plugin(), activities=ACTIVITIES[:1]):
            [row] = await airfield.rows()
        await handle.terminate()
    assert (row.workflow_id, row.outcome, row.attempt) == (wf, "open", 1)
    assert row.worker is not None
    assert row.worker.startswith(f"{worker.pid}@")
    assert airfield.files() == []


async def test_cancelled_and_timed_out_attempts_say_so(airfield: Airfield) -> None:
    """What is cancelled is abandoned, what ends after its deadline timed out, what is completed elsewhere is open."""
    wf = f"open-{uuid.uuid4().hex[:8]}"
    async with airfield.worker(airfield.plugin()):
        assert await airfield.call(
            Call("wait_for_ever", [], heartbeat=2, cancel_after=0.5, id="cancelled"),
            # The worker hears of it with its second heartbeat, after 2.4 s.
            Call("wait_for_ever", [], start_to_close=1, heartbeat=3, attempts=1, id="slow"),
        ) == ["CancelledError", "TimeoutError"]  # fmt: skip
        await airfield.rows(lambda rows: any(row.activity_id == "slow" and row.ended_at for row in rows))
        handle = await airfield.client.start_workflow(
            Calls.run, [Call("completed_elsewhere", [])], id=wf, task_queue=airfield.queue
        )
        await airfield.rows(lambda rows: any(row.workflow_id == wf for row in rows))
        await airfield.client.get_async_activity_handle(
            workflow_id=wf, run_id=handle.first_execution_run_id, activity_id="1"
        ).complete("done")
        assert await handle.result() == ["done"]
    rows = await airfield.book.attempts(queue=airfield.queue)
    assert {row.activity_id: row.outcome for row in rows} == {
        "cancelled": "abandoned",
        "slow": "timed out",
        "1": "open",
    }


async def test_two_workers_share_one_file_and_no_thread_stays(airfield: Airfield) -> None:
    """Workers that never ran have none. The last worker that ends takes file and thread along."""
    before = set(threading.enumerate())
    second = replace(airfield, queue=f"{airfield.queue}-second")
    async with airfield.worker(airfield.plugin()):
        assert await airfield.call(Call("compose", [GREETING])) == ["Hello, World!"]
        async with second.worker(second.plugin()):
            assert await second.call(Call("compose", [GREETING])) == ["Hello, World!"]
            assert len(airfield.files()) == 1
            assert [one.name for one in set(threading.enumerate()) - before].count("trellis-plugin") == 1
        assert outcomes(await second.book.attempts(queue=second.queue)) == {"succeeded": 1}
    assert outcomes(await airfield.book.attempts(queue=airfield.queue)) == {"succeeded": 1}
    assert airfield.files() == []
    assert [one.name for one in set(threading.enumerate()) - before if "trellis" in one.name] == []


@pytest.mark.parametrize("how", ["client and worker", "two of one worker", "one twice"])
async def test_a_plugin_given_twice_notes_nothing_twice(airfield: Airfield, how: str) -> None:
    """One sentence, and the worker goes on."""
    first, second = airfield.plugin(), airfield.plugin()
    client, plugins = airfield.client, [first, first if how == "one twice" else second]
    warned: object = nullcontext()
    if how == "client and worker":
        config = client.config()
        config["plugins"] = [first]
        client, plugins = Client(**config), [second]
        # The SDK's own warning.
        warned = pytest.warns(UserWarning, match="same plugin type")
    with said() as lines, warned:  # type: ignore[attr-defined]
        async with airfield.worker(*plugins, client=client):
            assert await airfield.call(Call("fail_until", [2])) == [2]
    rows = await airfield.book.attempts(queue=airfield.queue)
    assert outcomes(rows) == {"failed": 1, "succeeded": 1}
    assert [line for line in lines if "twice" in line] == [
        f"TrellisPlugin was given twice to the worker of {airfield.queue}; the first one counts."
    ]


async def test_payloads_are_noted_only_when_asked(airfield: Airfield) -> None:
    """As the worker's converter writes them; what is too long is cut."""
    async with airfield.worker(airfield.plugin(payloads=True)):
        await airfield.call(Call("compose", [GREETING | {"name": "x" * 20_000 + "\0"}]), Call("beat", [2]))
    long, short = await airfield.book.attempts(queue=airfield.queue)
    assert (short.input, short.result) == ([2], 2)
    assert long.input[0]["bytes"] > 20_000
    assert len(long.input[0]["cut"]) == 10_000
    assert long.result["bytes"] > 20_000


async def test_a_replay_notes_nothing(airfield: Airfield) -> None:
    """Its plugin adds no row, makes no file, and the workflow replays as recorded, in the plain sandbox too."""
    wf = f"replayed-{uuid.uuid4().hex[:8]}"
    async with airfield.worker():
        await airfield.call(Call("compose", [GREETING]), id_=wf)
    history = await airfield.client.get_workflow_handle(wf).fetch_history()
    for runner in (SandboxedWorkflowRunner(), RUNNER):
        replayer = Replayer(workflows=[Calls], plugins=[airfield.plugin("compose: error*")], workflow_runner=runner)
        assert (await replayer.replay_workflow(history)).replay_failure is None
    assert (await Replayer(workflows=[Calls]).replay_workflow(history)).replay_failure is None
    assert await airfield.book.attempts(queue=airfield.queue) == []
    assert not airfield.folder.exists()

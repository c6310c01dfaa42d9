"""`trellis doctor` on a real server: it only reads, it finds what is planted, and it says what it did not read."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from temporalio.client import Client
from temporalio.runtime import MetricBuffer, Runtime, TelemetryConfig

from tests.conftest import House
from tests.integration.odd_workflows import listed, run, worker
from tests.integration.test_cli import trellis
from trellis import stack
from trellis.bench.clinic import running as clinic
from trellis.bench.clinic.app import Behaviour, Options
from trellis.bench.clinic.cases import Case
from trellis.bench.doctor import judged
from trellis.config import Settings
from trellis.db import reading
from trellis.desk import Desk
from trellis.doctor import READS, collect, examine, read_only
from trellis.errors import BadInput, TrellisError
from trellis.insight import doctor
from trellis.plugin import TrellisPlugin

CONNECTS = {"GetSystemInfo"}


def name_of(rpc: str) -> str:
    return "".join(word.capitalize() for word in rpc.split("_"))


async def test_only_calls_that_read_are_ever_sent(house: House, running: stack.Stack) -> None:
    """What leaves the SDK is counted by the SDK itself, below every object of ours."""
    async with worker(house.desk.client):
        query = await listed(house.desk.client, await run(house.desk.client), 1)
    buffer = MetricBuffer(10_000)
    target = running.temporal
    client = await Client.connect(
        target.address, namespace=target.namespace, runtime=Runtime(telemetry=TelemetryConfig(metrics=buffer))
    )
    report = await examine(client, query, source=running.database_url)
    assert report.workflows == 1
    sent = {
        str(update.attributes["operation"])
        for update in buffer.retrieve_updates()
        if update.metric.name.endswith("request") and "operation" in update.attributes
    }
    assert {"ListWorkflowExecutions", "GetWorkflowExecutionHistory", "DescribeTaskQueue"} <= sent
    assert sent <= {name_of(rpc) for rpc in READS} | CONNECTS


async def test_any_other_call_is_refused_before_it_is_sent(house: House) -> None:
    """Start, signal, terminate, and what only an operator may do: nothing happens to the workflow."""
    client = read_only(house.desk.client)
    order = await house.start()
    handle = client.get_workflow_handle(f"order-{order.order_id}")
    calls: list[Any] = [
        handle.terminate(), handle.cancel(), handle.signal("approve"), handle.query("status"),
        client.start_workflow("Many", 0, id="never", task_queue="many"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(BadInput, match="only reads"):
            await call
    assert (await handle.describe()).close_time is None
    await house.desk.cancel(order.order_id)


@pytest.mark.parametrize("driver", reading.drivers())
def test_the_database_is_read_in_read_only_transactions(running: stack.Stack, driver: str) -> None:
    """By both drivers; a write through such an address fails."""
    url = reading.read_only(running.database_url)
    table = reading.Table("mode", {"mode": ("mode", reading.TEXT)}, "mode", {})
    rows = reading.stream(url, table, "SELECT current_setting('transaction_read_only') AS mode", driver=driver)
    assert [row["mode"] for batch in rows for row in batch.to_pylist()] == ["on"]
    with reading.connection(url) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("CREATE TABLE nothing ()")


async def test_what_is_planted_is_found_on_a_real_server(
    house: House, running: stack.Stack, settings: Settings
) -> None:
    """A short form of `trellis bench doctor`: six cases beside each other, judged by histories alone, and with the book
    of attempts. What a busy machine does is left out: there even a sound app's tasks wait for their worker."""

    def soon(rule: str | None, how: Behaviour, own: Options) -> Case:
        return Case(rule, how, own, runs=16, over=3.0)

    cases = [
        soon("timeout kills good calls", Behaviour(median=0.9, width=0.4), Options(start_to_close=1.3)),
        soon("retry interval below the server's timers", Behaviour(fails=0.5), Options(initial_interval=0.02)),
        Case("nobody polls the queue", runs=3, calls=1, over=1.0, polled=False),
        Case("workflow tasks fail", runs=3, over=1.0, slots=20, code="raises"),
        soon(None, Behaviour(fails=0.3), Options(backoff_coefficient=1.0)),
        soon(None, Behaviour(hangs=0.05), Options(start_to_close=3.0)),
    ]
    client = house.desk.client
    plugin = TrellisPlugin(database_url=running.database_url, settings=settings)
    async with clinic.workers(client, cases, [plugin]):
        await clinic.run(client, cases, seed=5, lasts=7.0, pause=2.0)
        seen = await collect(client, clinic.EVERY_CASE, source=running.database_url)
        await clinic.end(client)
    assert seen.book is not None
    assert seen.notes == ()
    for book in (None, seen.book):
        report = doctor(seen.history, book, seen.queues, now=seen.now)
        kept = tuple(one for one in report.findings if one.rule != "tasks wait for a worker")
        found = judged(cases, replace(report, findings=kept))
        assert (found["found"], found["missed"], found["wrong"]) == (4, [], []), report.words()


async def test_a_big_namespace_is_read_in_part_and_that_is_said(house: House) -> None:
    """With a limit of one of two workflows, the newest one is read."""
    async with worker(house.desk.client):
        for id_ in (await run(house.desk.client), await run(house.desk.client)):
            await listed(house.desk.client, id_, 1)
    found = await collect(house.desk.client, 'WorkflowType = "Many"', limit=1, read_book=False)
    assert found.history["run_id"].nunique() == 1
    assert "the newest 1 of them were read" in found.notes[0]


async def test_the_command_prints_findings_as_json(house: House, settings: Settings) -> None:
    """Exit code 0, whatever was found: it is advice."""
    async with worker(house.desk.client):
        query = await listed(house.desk.client, await run(house.desk.client), 1)
    done = await trellis(settings, "doctor", "--query", query, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["findings"] == []
    assert found["workflows"] == 1
    assert {"tiny", "third_time"} <= set(found["activity_types"])


async def test_a_query_that_finds_nothing_is_one_sentence_of_the_command(settings: Settings) -> None:
    """Exit code 1, and no traceback."""
    done = await trellis(settings, "doctor", "--query", "WorkflowId = 'nobody'")
    assert done.returncode == 1
    assert "No workflow" in done.stderr
    assert "Traceback" not in done.stderr


async def test_what_cannot_be_read_is_one_sentence(idle_desk: Desk) -> None:
    """A query that the server does not understand, and a namespace that it does not have."""
    client = idle_desk.client
    with pytest.raises(BadInput, match="does not understand the query Colour ="):
        await collect(client, "Colour =")
    with pytest.raises(TrellisError, match="no namespace 'nowhere'"):
        await collect(Client(client.service_client, namespace="nowhere"))


async def test_a_limit_of_nothing_is_refused(idle_desk: Desk) -> None:
    """In words, before anything is asked."""
    with pytest.raises(TrellisError, match="at least 1"):
        await collect(idle_desk.client, limit=0)

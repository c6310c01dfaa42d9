"""Workers that die, are missing, or come late."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid

import pytest

from tests.conftest import House
from trellis import workers
from trellis.config import Settings
from trellis.desk import Desk
from trellis.errors import ConfigError
from trellis.model import State
from trellis.policies import preset, tuned
from trellis.runtime import open_desk

pytestmark = pytest.mark.slow


def queues_of_its_own(settings: Settings) -> dict[str, str]:
    tag = uuid.uuid4().hex[:6]
    return {"ORDERS_TASK_QUEUE": f"orders-{tag}", "SHIPPING_TASK_QUEUE": f"shipping-{tag}"}


def worker_process(
    settings: Settings, queues: dict[str, str], out: int | None = None, err: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TRELLIS_HOME": str(settings.home), "LOG_LEVEL": "WARNING"} | queues
    return subprocess.Popen([sys.executable, "-m", "trellis", "worker"], env=environment, stdout=out, stderr=err)


async def test_a_worker_killed_while_charging_charges_once(house: House, settings: Settings) -> None:
    """The worker dies in the middle of a charge; the next one finishes the order, and money is taken once."""
    queues = queues_of_its_own(settings)
    own_settings = settings.model_copy(
        update={"orders_queue": queues["ORDERS_TASK_QUEUE"], "shipping_queue": queues["SHIPPING_TASK_QUEUE"]}
    )
    assert house.desk.stack is not None
    await house.faults("charge: reply-lost, hang, hang, hang, hang, hang, hang, hang, hang, hang, hang, hang*")
    desk = await open_desk(house.desk.stack, own_settings, house.pool)
    its = House(desk, house.pool, house.watch)
    first = worker_process(settings, queues)
    try:
        order = await its.start(tuned(preset("swift"), budget=60, review_window=60))
        await desk.approve(order.order_id)
        await its.until(order, "charge:ATTEMPT_TIMED_OUT", timeout=60)
    finally:
        first.kill()
        first.wait()
    status = await desk.status(order.order_id)
    assert status["step"] == "charge"
    await house.faults("calm")
    second = worker_process(settings, queues)
    try:
        await its.ends(order, State.COMPLETED, timeout=60)
    finally:
        second.terminate()
        second.wait(30)
    executions = {e["execution"] for e in await desk.events(order.order_id) if e["step"] == "charge"}
    assert executions == {1, 2}


async def test_what_temporals_core_says_is_logged_and_never_printed(house: House, settings: Settings) -> None:
    """A task that fails: core's warning is a line of JSON on stderr, as the others are, and stdout stays clean."""
    queues = queues_of_its_own(settings)
    worker = worker_process(settings, queues, subprocess.PIPE, subprocess.PIPE)
    warnings: list[dict[str, str]] = []
    try:
        handle = await house.desk.client.start_workflow(
            "NotRegisteredHere", id=f"t-{uuid.uuid4().hex}", task_queue=queues["ORDERS_TASK_QUEUE"]
        )
        assert worker.stderr is not None
        async with asyncio.timeout(30):
            while not any("Failing workflow task" in one["event"] for one in warnings):
                line = await asyncio.to_thread(worker.stderr.readline)
                warnings += [json.loads(line)] if line.startswith(b"{") else []
        await handle.terminate("it was never an order")
    finally:
        worker.terminate()
        printed, _ = await asyncio.to_thread(worker.communicate, timeout=30)
    assert printed == b""
    assert warnings[-1]["logger"].startswith("temporalio.core")


async def test_without_workers_the_desk_still_answers(idle_desk: Desk, settings: Settings, house: House) -> None:
    """Workers down: status comes from Temporal and the ledger, an approval is pending, and is honoured later."""
    queues = queues_of_its_own(settings)
    own_settings = settings.model_copy(
        update={"orders_queue": queues["ORDERS_TASK_QUEUE"], "shipping_queue": queues["SHIPPING_TASK_QUEUE"]}
    )
    assert idle_desk.stack is not None
    desk = await open_desk(idle_desk.stack, own_settings, house.pool)
    order = house.order()
    await desk.start(order, preset("swift"))
    assert (await desk.status(order.order_id))["state"] == State.ORDER_RECEIVED
    assert (await desk.approve(order.order_id)).verdict == "pending"
    async with workers.running(desk.client, house.pool, own_settings):
        await House(desk, house.pool, house.watch).ends(order, State.COMPLETED)
    approvals = [e for e in await desk.events(order.order_id) if e["type"] == "ORDER_APPROVED"]
    assert len(approvals) == 1


async def test_an_unknown_queue_is_a_sentence(house: House, settings: Settings) -> None:
    """A misspelt queue is refused before any worker starts."""
    with pytest.raises(ConfigError, match="no queue"):
        async with workers.running(house.desk.client, house.pool, settings, ("ordres",)):
            await asyncio.sleep(0)

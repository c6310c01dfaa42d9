"""What the processes write on stderr: one line an attempt, one a change of state, all of one shape."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import House
from trellis.faults import FaultPlan
from trellis.model import EDGES, STATE_AFTER, Order, State
from trellis.policies import Policy, preset, tuned

KEYS = {"order_id", "workflow_id", "step", "attempt", "outcome", "duration_ms", "worker"}
OUTCOMES = {"ATTEMPT_FAILED": "failed", "ATTEMPT_TIMED_OUT": "timed out", "ATTEMPT_ABANDONED": "abandoned"}


@asynccontextmanager
async def worker(house: House, queue: str, stream: Path, **environment: str) -> AsyncIterator[House]:
    """A real `trellis worker` on queues of its own, its stderr in a file, and a desk for these queues."""
    settings = house.desk.settings.model_copy(
        update={"orders_queue": f"orders-{queue}", "shipping_queue": f"shipping-{queue}"}
    )
    with stream.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trellis", "worker", stdout=asyncio.subprocess.DEVNULL, stderr=err,
            env=os.environ | settings.environment() | {"LOG_LEVEL": "INFO"} | environment,
        )  # fmt: skip
    try:
        desk = type(house.desk)(
            house.desk.client, house.desk.ledger, settings, search_attributes=False, stack=house.desk.stack
        )
        yield House(desk, house.pool, house.watch)
    finally:
        process.terminate()
        await process.wait()


def lines_of(stream: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.read_text("utf-8").splitlines()]


async def logged(house: House, stream: Path, order: Order) -> None:
    """Assert that the lines of an order are the events of the ledger, number by number."""
    events = await house.desk.ledger.events(order.order_id)
    order_lines = [line for line in lines_of(stream) if line.get("order_id") == order.order_id and "outcome" in line]
    assert all(line.keys() >= KEYS for line in order_lines)
    assert all(line["worker"].startswith("worker-") for line in order_lines)
    logged = [(line["event"], line["attempt"]) for line in order_lines]
    assert sorted(logged, key=str) == sorted(((e.type, e.attempt) for e in events), key=str)
    numbered = {(e.step, e.attempt): e for e in events if e.attempt is not None}
    for line in order_lines:
        if line["attempt"] is not None:
            event = numbered.pop((line["step"], line["attempt"]))
            assert line["outcome"] == OUTCOMES.get(event.type, "succeeded")
            assert line["duration_ms"] == pytest.approx(event.duration_ms, abs=0.001)
            child = event.step in ("prepare", "dispatch")
            assert line["workflow_id"] == (f"shipping-{order.order_id}-1" if child else f"order-{order.order_id}")
    assert not numbered
    states = [line["state"] for line in order_lines if "state" in line]
    assert states[0] == "ORDER_RECEIVED"
    assert set(itertools.pairwise(states)) <= {(str(a), str(b)) for a, b in EDGES}
    row = await house.desk.ledger.order(order.order_id)
    assert row is not None
    assert states[-1] == row.state


@pytest.mark.parametrize("placement", ["activity", "server"])
@pytest.mark.slow
async def test_a_worker_logs_every_attempt_with_the_ledgers_number(
    house: House, tmp_path: Path, placement: str
) -> None:
    """Each event of the ledger is one JSON line of the worker, with the same number, wherever the retries live."""
    stream = tmp_path / "log"
    policy = preset("swift") if placement == "activity" else tuned(preset("compact"), try_timeout=0.5)
    await house.faults(FaultPlan.parse("charge: error, error, ok; dispatch: hang, ok; validate: error, ok"))
    async with worker(house, uuid.uuid4().hex[:8], stream, LOG_FORMAT="json") as own:
        orders = [await own.start(policy, approve=True) for _ in range(3)]
        for order in orders:
            await own.ends(order, State.COMPLETED)
    for order in orders:
        await logged(house, stream, order)
    assert any(line["event"].startswith("Working on") for line in lines_of(stream))


async def test_a_terminal_reads_lines_without_json(house: House, tmp_path: Path, quick: Policy) -> None:
    """LOG_FORMAT=console gives one aligned line an event: when, what, and the keys that apply."""
    stream = tmp_path / "log"
    async with worker(house, uuid.uuid4().hex[:8], stream, LOG_FORMAT="console") as own:
        order = await own.start(quick, approve=True)
        await own.ends(order, State.COMPLETED)
    order_lines = [line for line in stream.read_text().splitlines() if order.order_id in line]
    assert len(order_lines) == len(await house.desk.ledger.events(order.order_id))
    charged = next(line for line in order_lines if "PAYMENT_CHARGED" in line)
    assert "step=charge attempt=1 outcome=succeeded duration_ms=" in charged
    assert not any("None" in line or "{" in line for line in order_lines)


def test_every_state_is_reached_by_an_event() -> None:
    """A change of state without a line would be one that no event stands for."""
    assert {state for edge in EDGES for state in edge} == set(STATE_AFTER.values())


async def test_the_api_logs_one_line_a_request(house: House, tmp_path: Path) -> None:
    """Every request is one JSON line with its status and duration, refused ones too; no token is in it."""
    stream = tmp_path / "log"
    order = house.order()
    secret = "t0ken-of-the-api"
    environment = house.desk.settings.environment() | {
        "LOG_LEVEL": "INFO", "LOG_FORMAT": "json", "TRELLIS_API_TOKEN": secret,
    }  # fmt: skip
    with stream.open("wb") as err:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trellis", "api", "--port", "0", stdout=asyncio.subprocess.PIPE, stderr=err,
            env=os.environ | environment,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().split()[2].rstrip(",")
        async with httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {secret}"}) as client:
            await client.get("/health")
            await client.post(f"/orders/{order.order_id}/start", json={"payment_id": order.payment_id})
            await client.get(f"/orders/{order.order_id}/status", headers={"Authorization": "Bearer no"})
            await client.get(f"/orders?state=nonsense&token={secret}")
    finally:
        process.terminate()
        await process.communicate()
    requests = [line for line in lines_of(stream) if line["event"] == "request"]
    assert [(line["method"], line["path"], line["status"], line.get("order_id")) for line in requests] == [
        ("GET", "/health", 200, None),
        ("POST", f"/orders/{order.order_id}/start", 201, order.order_id),
        ("GET", f"/orders/{order.order_id}/status", 401, order.order_id),
        ("GET", "/orders", 422, None),
    ]
    assert all(line["duration_ms"] > 0 for line in requests)
    assert secret not in stream.read_text("utf-8")

"""The sample payloads of docs/samples, each sent for real: over HTTP, and by Temporal's own command line."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.integration.http_api import Api
from trellis.config import Settings
from trellis.model import Order, State, workflow_id
from trellis.policies import preset, tuned

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).resolve().parents[2] / "docs" / "samples"
STARTS = ("start.json", "start-minimal.json", "start-other-names.json")
CANCELS = ("cancel.json", "cancel-without-reason.json")
ADDRESSES = ("address.json", "address-wrapped.json", "address-street.json")
BY_HAND = ("start-by-hand.json", "cancel-by-hand.json")
# A review that the slowest machine does not outlast; nobody waits for its end.
WAITING = tuned(preset("patient"), review_window=600)


def sample(name: str, **replaced: str) -> Any:
    """The sample's value, with its placeholders replaced by ids of this test."""
    text = (SAMPLES / name).read_text("utf-8")
    for placeholder, value in replaced.items():
        text = text.replace(placeholder.replace("_", "-").upper(), value)
    return json.loads(text)


def test_every_sample_is_sent_by_a_test() -> None:
    """A sample that nothing sends may have gone stale."""
    known = {*STARTS, *CANCELS, *ADDRESSES, *BY_HAND, "approve.json"}
    assert {path.name for path in SAMPLES.glob("*")} == known


@pytest.mark.parametrize("name", STARTS)
async def test_a_start_is_taken_over_http(name: str, api: Api, house: House) -> None:
    """Started and approved with the sample bodies, the order completes."""
    order = house.order()
    path = f"/orders/{order.order_id}"
    assert (await api.post(f"{path}/start", sample(name, payment_id=order.payment_id))).status_code == 201
    assert (await api.post(f"{path}/signals/approve", sample("approve.json"))).status_code == 202
    await house.ends(order, State.COMPLETED)


@pytest.mark.parametrize("name", CANCELS)
async def test_a_cancel_is_taken_over_http(name: str, api: Api, house: House) -> None:
    """With a reason or without one."""
    order = await house.start(WAITING)
    answer = await api.post(f"/orders/{order.order_id}/signals/cancel", sample(name))
    assert answer.status_code == 202, answer.text
    await house.ends(order, State.CANCELLED)


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("path", ["signals/update-address", "signals/address", "address"])
async def test_a_new_address_is_taken_over_http(name: str, path: str, api: Api, house: House) -> None:
    """Bare or wrapped, with line1 or street, under each of the three paths."""
    order = await house.start(WAITING)
    answer = await api.post(f"/orders/{order.order_id}/{path}", sample(name))
    assert answer.status_code == 202, answer.text
    await house.until(order, "ADDRESS_UPDATED")
    status = (await api.http.get(f"/orders/{order.order_id}/status")).json()
    assert status["address"]["line1"] == "2 New Road"
    await house.desk.cancel(order.order_id)


async def temporal(house: House, *words: str) -> str:
    """Run Temporal's own command line on the tests' server; returns what it printed."""
    assert house.desk.stack is not None
    target = house.desk.stack.temporal
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("temporal")), *words, "--address", target.address,
        "--namespace", house.desk.client.namespace,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


async def started_by_hand(settings: Settings, house: House, tmp_path: Path, name: str) -> Order:
    """An order that nobody but Temporal's command line started."""
    order = house.order()
    file = tmp_path / name
    file.write_text(json.dumps(sample(name, payment_id=order.payment_id, order_id=order.order_id)), "utf-8")
    await temporal(
        house, "workflow", "start", "--type", "OrderWorkflow", "--task-queue", settings.orders_queue,
        "--workflow-id", workflow_id(order.order_id), "--input-file", str(file),
    )  # fmt: skip
    return order


@pytest.mark.parametrize("name", ["start-by-hand.json", *STARTS])
async def test_an_order_runs_by_temporals_command_line_alone(
    name: str, settings: Settings, house: House, tmp_path: Path
) -> None:
    """The order is started and approved by hand, without the desk. It completes and its books balance."""
    order = await started_by_hand(settings, house, tmp_path, name)
    await house.until(order, "ORDER_RECEIVED")
    await temporal(
        house, "workflow", "signal", "--workflow-id", workflow_id(order.order_id), "--name", "approve",
        "--input-file", str(SAMPLES / "approve.json"),
    )  # fmt: skip
    await house.ends(order, State.COMPLETED)


@pytest.mark.parametrize("name", [*CANCELS, "cancel-by-hand.json"])
@pytest.mark.parametrize("signal", ["cancel", "cancel_order"])
async def test_a_cancel_is_taken_by_hand(name: str, signal: str, house: House) -> None:
    """As an object, as an empty one, or as the bare reason."""
    order = await house.start(WAITING)
    await temporal(
        house, "workflow", "signal", "--workflow-id", workflow_id(order.order_id), "--name", signal,
        "--input-file", str(SAMPLES / name),
    )  # fmt: skip
    await house.ends(order, State.CANCELLED)


@pytest.mark.parametrize("name", ADDRESSES)
async def test_a_new_address_is_taken_by_hand(name: str, house: House) -> None:
    """As an update, which answers with the verdict."""
    order = await house.start(WAITING)
    answer = await temporal(
        house, "workflow", "update", "execute", "--workflow-id", workflow_id(order.order_id),
        "--name", "update_address", "--input-file", str(SAMPLES / name),
    )  # fmt: skip
    assert "accepted:true" in answer
    await house.until(order, "ADDRESS_UPDATED")
    await house.desk.cancel(order.order_id)

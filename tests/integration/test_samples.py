"""The sample payloads of docs/samples, each sent for real: over HTTP, and by Temporal's own command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import House
from tests.integration.http_api import Api
from trellis.model import State
from trellis.policies import preset, tuned

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

"""Orders over real HTTP: the API is a process of its own, on the real servers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import asdict
from datetime import datetime
from typing import Any

import pytest

from tests.conftest import House
from tests.integration.http_api import Api, assert_problem, body_of, serving, until_listed
from trellis.api.bodies import read_cursor, write_cursor
from trellis.config import Settings
from trellis.db.pool import Pool
from trellis.desk import Desk
from trellis.model import State, workflow_id
from trellis.policies import preset, tuned
from trellis.workers import running as working


async def test_a_start_over_http_may_name_its_policy(house: House, api: Api) -> None:
    """A preset's name, or fields with rules for single steps; what cannot be used is refused in one sentence."""
    policies = ["classic", {"preset": "swift", "review_window": 60, "steps": {"dispatch": {"max_tries": 4}}}]
    for policy, tries in zip(policies, (0, 4), strict=True):
        order = house.order()
        path = f"/orders/{order.order_id}"
        assert (await api.post(f"{path}/start", body_of(order) | {"policy": policy})).status_code == 201
        await house.until(order, "AWAITING_APPROVAL")
        ran = (await api.http.get(f"{path}/status")).json()["policy"]
        assert ran["name"].startswith(policy if isinstance(policy, str) else "swift*")
        assert not tries or ran["steps"]["dispatch"]["max_tries"] == tries
        await api.post(f"{path}/signals/cancel")
        await house.ends(order, State.CANCELLED)
    nonsense: list[object] = ["swfit", 3, {"bugdet": 3}, {"budget": -1}, {"preset": []}, {"steps": {"dance": {}}}]
    for wrong in nonsense:
        order = house.order()
        refused = await api.post(f"/orders/{order.order_id}/start", body_of(order) | {"policy": wrong})
        assert_problem(refused, 422)


async def test_an_order_runs_over_http_from_start_to_end(house: House, api: Api) -> None:
    """201, 200 for the same again, 409 for another body, 202 for approve, then COMPLETED with both books balanced."""
    order = house.order()
    path = f"/orders/{order.order_id}"
    first = await api.post(f"{path}/start", body_of(order))
    assert (first.status_code, first.json()["workflow_id"]) == (201, workflow_id(order.order_id))
    early = await api.http.get(f"{path}/status")
    assert (early.status_code, early.json()["order_id"]) == (200, order.order_id)
    again = await api.post(f"{path}/start", body_of(order))
    assert (again.status_code, again.json()) == (200, first.json())
    other = await api.post(f"{path}/start", {"payment_id": order.payment_id})
    assert (other.status_code, other.json()["error"]) == (409, "conflict")
    await house.until(order, "AWAITING_APPROVAL")
    thief = await api.post("/orders/thief/start", {"payment_id": order.payment_id})
    assert thief.status_code == 409
    assert order.order_id in thief.json()["message"]
    approved = await api.post(f"{path}/signals/approve")
    assert (approved.status_code, approved.json()["verdict"]) == (202, "accepted")
    await house.ends(order, State.COMPLETED)
    after = await api.post(f"{path}/start", body_of(order))
    assert (after.status_code, after.json()) == (200, first.json())
    status = (await api.http.get(f"{path}/status")).json()
    assert {"order_id", "state", "step", "last_error"} <= status.keys()
    assert (status["state"], status["payment"]["status"], status["step"]) == ("COMPLETED", "CHARGED", None)
    assert len(status["shipments"]) == 1
    events = (await api.http.get(f"{path}/events")).json()["events"]
    assert [event["type"] for event in events] == await house.events(order)
    late = await api.post(f"{path}/signals/cancel", {})
    assert (late.status_code, late.json()["error"]) == (409, "refused")
    assert "COMPLETED" in late.json()["message"]


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"items": [], "address": None},
        {"items": None},
        {"address": {"street": "1 Main St", "city": "c", "state": "s", "zip": "z", "country": "x"}},
        {"items": [{"name": "book", "qty": 2, "price": 1.5}]},
        {"items": [{"sku": "book"}], "address": {"line1": "Straße 1, 東京"}},
    ],
)
async def test_every_form_of_a_start_is_taken(house: House, api: Api, rest: dict[str, Any]) -> None:
    """A payment id alone, items under both names, addresses under both names, and null for none."""
    order = house.order()
    answer = await api.post(f"/orders/{order.order_id}/start", {"payment_id": order.payment_id} | rest)
    assert answer.status_code == 201, answer.text
    await house.until(order, "AWAITING_APPROVAL")
    assert (await api.post(f"/orders/{order.order_id}/signals/approve", {})).status_code == 202
    status = await house.ends(order, State.COMPLETED)
    assert str(status["total"]) == ("3.00" if "price" in str(rest) else "0.00")


async def test_a_status_tells_the_whole_row(house: House, api: Api) -> None:
    """Items as they were sent, the policy with all its fields, and when the row was written and last changed."""
    order = house.order()
    path = f"/orders/{order.order_id}"
    await api.post(f"{path}/start", body_of(order))
    await house.until(order, "AWAITING_APPROVAL")
    status = (await api.http.get(f"{path}/status")).json()
    assert status["items"] == body_of(order)["items"]
    assert status["policy"] == json.loads(json.dumps(asdict(house.desk.default_policy())))
    assert datetime.fromisoformat(status["created_at"]) < datetime.fromisoformat(status["updated_at"])
    found = await house.desk.status(order.order_id)
    assert found.to_json().keys() == status.keys()
    assert (found["state"], dict(found)["items"]) == (found.state, found.items)


async def test_aliases_are_the_same_body(house: House, api: Api) -> None:
    """The fingerprint does not depend on the spelling: name and sku, 1.50 and "1.5" start one run."""
    order = house.order()
    path = f"/orders/{order.order_id}/start"
    forms = [{"sku": "book", "quantity": 2, "price": "1.5"}, {"name": " book ", "qty": 2, "price": 1.50}]
    answers = [await api.post(path, {"payment_id": order.payment_id, "items": [form]}) for form in forms]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize("path", ["signals/update-address", "signals/address", "address"])
@pytest.mark.parametrize("wrapped", [True, False])
async def test_every_form_of_a_new_address_is_taken(house: House, api: Api, path: str, wrapped: bool) -> None:
    """Bare or wrapped, on each of the three paths; the ledger holds the new one, and nothing of the old one."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    address = {"street": "2 New Road", "city": "x"}
    answer = await api.post(f"/orders/{order.order_id}/{path}", {"address": address} if wrapped else address)
    assert (answer.status_code, answer.json()["verdict"]) == (202, "accepted")
    status = (await api.http.get(f"/orders/{order.order_id}/status")).json()
    assert status["address"] == {"line1": "2 New Road", "city": "x", "state": "", "zip": "", "country": ""}
    assert (status["step"], status["can_cancel"]) == ("review", True)
    assert status["seconds_left"] > 0


@pytest.mark.parametrize("content", [b"", b"{}", b'{"reason": "changed my mind"}', b'{"reason": null}'])
async def test_every_form_of_a_cancel_is_taken(house: House, api: Api, content: bytes) -> None:
    """No body, an empty one, or a reason."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    answer = await api.http.post(f"/orders/{order.order_id}/signals/cancel", content=content)
    # A busy machine may judge it after the second that the API waits; the order's end is the proof.
    assert answer.status_code == 202
    assert answer.json()["verdict"] in ("accepted", "pending")
    await house.ends(order, State.CANCELLED)


async def test_an_unknown_order_is_404_everywhere(house: House, api: Api) -> None:
    """Every path of an order that nobody started says so in one sentence."""
    for path in ("status", "events"):
        answer = await api.http.get(f"/orders/nobody/{path}")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
    for path, body in [("signals/approve", None), ("signals/cancel", {}), ("address", {"line1": "x"})]:
        answer = await api.post(f"/orders/nobody/{path}", body)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), path


async def test_pages_hold_every_order_once(house: House, api: Api) -> None:
    """Following `next` shows every order of a state once, newest first, while new ones arrive."""
    orders = [await house.start() for _ in range(5)]
    for order in orders:
        await house.until(order, "AWAITING_APPROVAL")
    seen: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        params = {"limit": "2", "state": "AWAITING_APPROVAL"} | after
        page = (await api.http.get("/orders", params=params)).json()
        seen += page["orders"]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
        await house.start()
    ids = [row["id"] for row in seen]
    assert len(ids) == len(set(ids))
    assert {order.order_id for order in orders} <= set(ids)
    assert [row["created_at"] for row in seen] == sorted((row["created_at"] for row in seen), reverse=True)


async def test_a_cursor_says_where_a_page_ended(house: House) -> None:
    """A cursor that is written and read again names the same order, to the microsecond."""
    await house.start()
    row = None
    async with asyncio.timeout(20):
        while row is None:
            row = next(iter(await house.desk.orders(limit=1)), None)
    assert read_cursor(write_cursor(row.created_at, row.id)) == (row.created_at, row.id)


async def test_an_order_that_died_unreceived_says_so(house: House, api: Api) -> None:
    """The workflow was terminated before the row was written: every request is refused, and the reason says what to
    do."""
    await house.faults("receive: hang*")
    order = await house.start(tuned(preset("swift"), try_timeout=10))
    path = f"/orders/{order.order_id}"
    before = (await api.http.get(f"{path}/status")).json()
    assert (before["can_cancel"], before["last_error"]) == (True, None)
    workflow = house.desk.client.get_workflow_handle(workflow_id(order.order_id))
    await workflow.terminate("planted")
    status = (await api.http.get(f"{path}/status")).json()
    assert (status["state"], status["step"], status["can_cancel"], status["can_update_address"]) == (
        "ORDER_RECEIVED", None, False, False,
    )  # fmt: skip
    why = "its workflow closed as TERMINATED before it was received; `trellis reconcile --apply` ends it"
    assert (status["last_error"], status["workflow"]["late"]) == (why, False)
    answer = await api.post(f"{path}/signals/approve")
    assert_problem(answer, 409)
    assert answer.json() == {"error": "refused", "message": f"Order {order.order_id} refused approve: {why}."}


async def test_what_a_closed_workflow_cannot_do_is_not_offered(house: House, api: Api) -> None:
    """The workflow was terminated in its review: until reconcile ends the order, it takes no cancel and no address."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.client.get_workflow_handle(workflow_id(order.order_id)).terminate("planted")
    status = await house.desk.status(order.order_id)
    assert (status["state"], status["can_cancel"], status["can_update_address"]) == ("AWAITING_APPROVAL", False, False)


async def test_a_refusal_gives_its_reason_alone(house: House, api: Api) -> None:
    """The message is the validator's sentence alone, without Temporal's name for the kind of failure."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*; refund: hang*")
    assert (await api.post(f"/orders/{order.order_id}/signals/cancel")).status_code == 202
    answer = await api.post(f"/orders/{order.order_id}/signals/approve")
    assert_problem(answer, 409)
    assert answer.json()["message"] == f"Order {order.order_id} refused approve: the order is ending as CANCELLED."
    await house.faults("calm")
    await house.ends(order, State.CANCELLED)


async def test_fifty_starts_of_one_id_are_one_run(house: House, api: Api) -> None:
    """Exactly one answers 201; all name one run; Temporal and the ledger know one order."""
    order = house.order()
    path = f"/orders/{order.order_id}/start"
    answers = await asyncio.gather(*(api.post(path, body_of(order)) for _ in range(50)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 49}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    await house.until(order, "AWAITING_APPROVAL")
    assert (
        await house.one("SELECT count(*) FROM events WHERE order_id = %s AND type = 'ORDER_RECEIVED'", order.order_id)
        == 1
    )


@pytest.mark.slow
async def test_fifty_cancels_cancel_once(house: House, api: Api) -> None:
    """Each has an answer, at least one is taken, and the log holds one cancellation."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    path = f"/orders/{order.order_id}/signals/cancel"
    answers = await asyncio.gather(*(api.post(path, {"reason": f"number {n}"}) for n in range(50)))
    codes = Counter(answer.status_code for answer in answers)
    assert codes.keys() <= {202, 409}
    assert codes[202] >= 1
    await house.ends(order, State.CANCELLED)
    assert (await house.events(order)).count("ORDER_CANCELLED") == 1


@pytest.mark.slow
async def test_without_workers_requests_are_pending_and_status_answers(
    idle_desk: Desk, pool: Pool, settings: Settings
) -> None:
    """On queues that nobody polls: status says ORDER_RECEIVED, approve is pending; a worker that comes judges it."""
    queues = {"ORDERS_TASK_QUEUE": "idle-orders", "SHIPPING_TASK_QUEUE": "idle-shipping"}
    aside = settings.model_copy(update={"orders_queue": "idle-orders", "shipping_queue": "idle-shipping"})
    async with serving(settings, **queues) as api:
        path = "/orders/idle-1"
        assert (await api.post(f"{path}/start", {"payment_id": "idle-pay-1"})).status_code == 201
        status = await api.http.get(f"{path}/status")
        assert status.status_code == 200
        assert (status.json()["state"], status.json()["workflow"]["close_status"]) == ("ORDER_RECEIVED", "RUNNING")
        assert (await api.http.get(f"{path}/events")).json() == {"events": []}
        approved = await api.post(f"{path}/signals/approve")
        assert (approved.status_code, approved.json()["verdict"]) == (202, "pending")
        assert (await api.post(f"{path}/start", {"payment_id": "idle-pay-1"})).status_code == 200
        async with working(idle_desk.client, pool, aside):
            done = await until_listed(api, "idle-1", "COMPLETED")
    assert done["payment"]["status"] == "CHARGED"


async def test_what_temporal_does_not_say_in_time_is_read_off_the_ledger(house: House) -> None:
    """A status that does not wait for Temporal has the step and the end of the review, and says that Temporal was
    late."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    heard, late = [await house.desk.status(order.order_id, patience=patience) for patience in (10, 0)]
    assert (heard["workflow"]["late"], late["workflow"]["late"]) == (False, True)
    assert (heard["step"], late["step"]) == ("review", "review")
    assert late["can_cancel"] is True
    assert abs(late["seconds_left"] - heard["seconds_left"]) < 2
    await house.desk.approve(order.order_id)
    await house.ends(order, State.COMPLETED)
    done = await house.desk.status(order.order_id, patience=0)
    assert (done["state"], done["step"], done["review_deadline"]) == (State.COMPLETED, None, None)

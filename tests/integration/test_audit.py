"""The audit finds nothing where nothing is wrong, and finds each kind of error that is planted."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle

from tests.conftest import House
from tests.integration.auditing import cancelled, completed, planted, violated, withdrawn
from trellis import stack
from trellis.audit import audit
from trellis.db.audit import AuditBooks
from trellis.db.pool import Pool, open_pool
from trellis.db.provider import Provider
from trellis.errors import DatabaseUnavailable, RequestRefused
from trellis.messages import ORDER_WORKFLOW, OrderInput
from trellis.model import Order, State, workflow_id
from trellis.policies import preset, tuned


async def twin(house: House, order: Order) -> tuple[Order, WorkflowHandle[Any, Any]]:
    """Another order with the same payment id, started without the desk, as by two starts at the same moment."""
    other = replace(order, order_id=house.order().order_id)
    handle: WorkflowHandle[Any, Any] = await house.desk.client.start_workflow(
        ORDER_WORKFLOW,
        OrderInput(other, preset("swift"), house.desk.settings.shipping_queue, False),
        id=workflow_id(other.order_id),
        task_queue=house.desk.settings.orders_queue,
        run_timeout=timedelta(seconds=60),
    )
    return other, handle


async def test_a_mixed_bag_of_orders_is_clean(house: House) -> None:
    """Completed, refunded, refused, failed and timed out orders with all their faults break no invariant."""
    orders = [await completed(house), await cancelled(house)]
    late = await completed(house)
    with pytest.raises(RequestRefused):
        await house.desk.cancel(late.order_id)
    unseen = await house.start(tuned(preset("swift"), review_window=0.5))
    await house.ends(unseen, State.APPROVAL_TIMEOUT)
    await house.faults("dispatch: error*")
    failed = await house.start(tuned(preset("swift"), max_tries=2, dispatch_retries=1), approve=True)
    await house.ends(failed, State.FAILED)
    await house.faults("receive: error, hang, ok; charge: reply-lost, hang, ok")
    faulty = await house.start()
    await house.desk.update_address(faulty.order_id, {"line1": "2 New Road"})
    await house.desk.approve(faulty.order_id)
    await house.ends(faulty, State.COMPLETED)
    loser, handle = await twin(house, late)
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    await house.faults("receive: hang*")
    unreceived, handle = await twin(house, late)
    await house.desk.cancel(unreceived.order_id)
    await handle.result()
    orders += [late, unseen, failed, faulty, loser, unreceived]
    report = await audit(house.desk.client, house.pool)
    started = {order.order_id for order in orders}
    assert [violation for violation in report.violations if violation.order_id in started] == []
    assert report.orders >= 6
    assert report.charges >= 5
    assert report.faults >= 5
    assert report.histories >= 10


CHARGE_AGAIN = (
    "INSERT INTO provider.charges (idempotency_key, order_id, amount, ts) "
    "SELECT 'charge:again-' || order_id, order_id, amount, ts - interval '1 minute' FROM provider.charges "
    "WHERE order_id = %(order)s"
)
PLANTS: dict[str, tuple[set[int], Callable[[House], Awaitable[Order]], str]] = {
    "charged twice": ({1, 2, 4}, completed, CHARGE_AGAIN),
    "kept less than the total": (
        {2, 4}, completed, "UPDATE provider.charges SET amount = amount - 1 WHERE order_id = %(order)s",
    ),
    "kept after a cancel": ({2, 4}, cancelled, "DELETE FROM provider.refunds WHERE order_id = %(order)s"),
    "two parcels": (
        {3}, completed,
        "INSERT INTO provider.parcels (idempotency_key, order_id, tracking) "
        "VALUES ('again-' || %(order)s, %(order)s, 'T')",
    ),
    "shipped without a charge": ({2, 3, 4}, completed, "DELETE FROM provider.charges WHERE order_id = %(order)s"),
    "shipped elsewhere": (
        {3}, completed, "UPDATE provider.parcels SET address_json = '{\"line1\": \"X\"}' WHERE order_id = %(order)s",
    ),
    "the payment is not the provider's": (
        {4, 5}, completed, "UPDATE payments SET status = 'FAILED' WHERE order_id = %(order)s",
    ),
    "the payment is not the total": (
        {2, 4}, completed, "UPDATE orders SET total = total + 1 WHERE id = %(order)s",
    ),
    "the payment and the charge are not the total": (
        {4}, cancelled, "UPDATE payments SET amount = amount + 1 WHERE order_id = %(order)s",
    ),
    "a payment is pending after the end": (
        {4}, withdrawn, "UPDATE payments SET status = 'PENDING' WHERE order_id = %(order)s",
    ),
    "a payment failed without a word": (
        {5}, withdrawn, "DELETE FROM events WHERE order_id = %(order)s AND type = 'PAYMENT_FAILED'",
    ),
    "no payment for what was shipped": ({4}, completed, "DELETE FROM payments WHERE order_id = %(order)s"),
    "an event is missing": (
        {5}, completed, "DELETE FROM events WHERE order_id = %(order)s AND type = 'ORDER_VALIDATED'",
    ),
    "an event stands twice": (
        {5}, completed,
        "INSERT INTO events (event_id, order_id, type) VALUES (gen_random_uuid(), %(order)s, 'CARRIER_DISPATCHED')",
    ),
    "an attempt number stands twice": (
        {5}, completed,
        "INSERT INTO events (event_id, order_id, type, step, attempt) "
        "VALUES (gen_random_uuid(), %(order)s, 'ATTEMPT_FAILED', 'charge', 1)",
    ),
    "a refused call was made again": (
        {11}, completed,
        "INSERT INTO events (event_id, order_id, type, step, attempt, round, execution, try, started_at, duration_ms, "
        "payload_json) SELECT gen_random_uuid(), %(order)s, 'ATTEMPT_FAILED', 'charge', 90 + n, 0, 1, 90 + n, "
        "now() + n * interval '1 s', 10, jsonb_build_object('error', 'the order is being undone') "
        "FROM generate_series(1, 2) AS n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS)
async def test_an_error_in_the_books_is_found(house: House, plant: str) -> None:
    """Each planted error is reported for its order, under its invariants and no others, with evidence."""
    invariants, made, statement = PLANTS[plant]
    order = await made(house)
    assert await violated(house, order) == set()
    await planted(house, statement, order=order.order_id)
    assert await violated(house, order) == invariants


@pytest.mark.parametrize(("in_contact", "invariants"), [(True, {11}), (False, set())])
async def test_a_worker_that_goes_on_with_a_step_it_lost_is_found(
    house: House, in_contact: bool, invariants: set[int]
) -> None:
    """Temporal gave the step out again, and the worker's first execution went on. That is wrong if the worker was in
    contact with Temporal at the time, and no more than a broken wire if it was not."""
    order = await completed(house)
    tries = [("dispatch", 2, 1, 10.0), ("dispatch", 1, 9, 13.0)]
    tries += [("ship", 1, 1, 8.0)] if in_contact else []
    for number, (step, execution, try_, seconds) in enumerate(tries):
        await planted(
            house,
            "INSERT INTO events (event_id, order_id, type, step, attempt, round, execution, try, started_at, "
            "duration_ms, worker, ts) SELECT gen_random_uuid(), %(order)s, 'ATTEMPT_TIMED_OUT', %(step)s, %(number)s, "
            "1, %(execution)s, %(try)s, began, 250, %(order)s, began + interval '250 ms' "
            "FROM (SELECT now() + %(seconds)s * interval '1 s' AS began) AS try_",
            **{"order": order.order_id, "step": step, "number": 90 + number, "execution": execution, "try": try_},
            seconds=seconds,
        )
    assert await violated(house, order) == invariants


@pytest.mark.parametrize(
    ("table", "invariant", "values"),
    [
        ("charges", 4, "('charge:nobody', %(order)s, 5, now() - interval '1 minute')"),
        ("refunds", 4, "('charge:nobody', %(order)s, 5, now() - interval '1 minute')"),
        ("parcels", 3, "('dispatch:nobody', %(order)s, NULL, 'TRK-1', now() - interval '1 minute')"),
    ],
)
async def test_what_the_ledger_does_not_have_is_found(house: House, table: str, invariant: int, values: str) -> None:
    """A charge, a refund or a parcel at the provider for an order that does not exist is found too."""
    stranger = house.order()
    await completed(house)
    await planted(house, f"INSERT INTO provider.{table} VALUES {values}", order=stranger.order_id)
    assert await violated(house, stranger) == {invariant}
    await planted(house, f"DELETE FROM provider.{table} WHERE order_id = %(order)s", order=stranger.order_id)


@pytest.mark.slow
async def test_running_orders_raise_no_false_alarm(house: House) -> None:
    """An audit beside fifty orders under the canonical faults reports none of them, early or late."""
    await house.faults("canonical")
    query = f"StartTime >= '{datetime.now(UTC).isoformat()}'"
    orders = await asyncio.gather(*(house.start(approve=True) for _ in range(50)))
    started = {order.order_id for order in orders}
    while True:
        states = await asyncio.gather(*(house.desk.ledger.order(id_) for id_ in started))
        report = await audit(house.desk.client, house.pool, query=query)
        assert [violation for violation in report.violations if violation.order_id in started] == []
        if all(row is not None and State(row["state"]).terminal for row in states):
            break


@pytest.mark.parametrize(
    "call",
    [
        lambda pool: AuditBooks(pool, grace=1).counts(),
        lambda pool: AuditBooks(pool, grace=1).strays(),
        lambda pool: AuditBooks(pool, grace=1).order("nobody"),
        lambda pool: anext(AuditBooks(pool, grace=1).batches()),
        lambda pool: Provider(pool).void_parcel("dispatch:nobody", "nobody"),
    ],
    ids=["counts", "strays", "order", "batches", "provider"],
)
async def test_a_cut_connection_is_one_sentence(
    running: stack.Stack, house: House, call: Callable[[Pool], Awaitable[object]]
) -> None:
    """Postgres cuts the connection, as it does when it shuts down: DatabaseUnavailable, which says what to do."""
    pool = await open_pool(running.database_url, size=1)
    try:
        async with pool.connection() as connection:
            [backend] = await (await connection.execute("SELECT pg_backend_pid()")).fetchone() or [0]
        assert await house.one("SELECT pg_terminate_backend(%s, 5000)", backend)
        with pytest.raises(DatabaseUnavailable, match="trellis up"):
            await call(pool)
    finally:
        await pool.close()


async def test_an_audit_that_saw_nothing_says_so(running: stack.Stack, house: House) -> None:
    """Without an order an audit is void, and void is not clean."""
    name = f"empty_{uuid.uuid4().hex[:8]}"
    async with house.pool.connection() as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    from trellis.db.migrate import migrate

    url = running.database_url.replace("/trellis?", f"/{name}?", 1)
    assert url != running.database_url
    await migrate(url)
    pool = await open_pool(url)
    try:
        report = await audit(house.desk.client, pool, histories=False)
        assert report.void
        assert not report.clean
    finally:
        await pool.close()
        async with house.pool.connection() as connection:
            await connection.execute(f"DROP DATABASE {name}")

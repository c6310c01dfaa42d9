"""The ledger itself: what the database refuses, and what it does only once."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.conftest import House
from trellis import stack
from trellis.db import migrate as migrations
from trellis.db.ledger import Ledger
from trellis.db.pool import open_pool
from trellis.db.provider import Provider, ProviderRefused
from trellis.db.tries import Tried
from trellis.errors import DatabaseUnavailable, SchemaMismatch
from trellis.model import EDGES, Order, State, TryId
from trellis.policies import preset


def tried(order: Order, step: str, number: int = 1) -> Tried:
    return Tried(TryId(order.order_id, step, 0, 1, number), datetime.now(UTC), 1.0, "test", 0)


async def received(house: House) -> Order:
    order = house.order()
    await house.desk.ledger.receive(order, preset("swift"), tried(order, "receive"))
    return order


async def test_the_database_knows_exactly_the_legal_edges(house: House) -> None:
    """The table of edges and the model's are the same."""
    async with house.pool.connection() as connection:
        rows = await (await connection.execute("SELECT from_state, to_state FROM order_edges")).fetchall()
    assert {(State(a), State(b)) for a, b in rows} == EDGES


@pytest.mark.parametrize("state", ["COMPLETED", "SHIPPING", "APPROVAL_TIMEOUT", "NONSENSE"])
async def test_an_illegal_edge_is_refused(house: House, state: str) -> None:
    """No statement, however it is written, moves an order along an edge that does not exist."""
    order = await received(house)
    with pytest.raises(psycopg.errors.CheckViolation, match="cannot go"):
        await house.one("UPDATE orders SET state = %s WHERE id = %s RETURNING id", state, order.order_id)


@pytest.mark.parametrize("sql", ["UPDATE events SET type = 'x'", "DELETE FROM events", "TRUNCATE events"])
async def test_the_log_is_append_only(house: House, sql: str) -> None:
    """The database itself refuses to rewrite what happened."""
    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        await house.one(sql)


async def test_a_payment_never_goes_backwards(house: House) -> None:
    """A payment cannot go from PENDING to REFUNDED."""
    order = await received(house)
    with pytest.raises(psycopg.errors.CheckViolation):
        await house.one("UPDATE payments SET status = 'REFUNDED' WHERE order_id = %s RETURNING 1", order.order_id)


async def test_writing_a_step_twice_writes_it_once(house: House) -> None:
    """The same cause gives the same event, and a second call changes nothing."""
    order, ledger = house.order(), house.desk.ledger
    for _ in range(3):
        await ledger.receive(order, preset("swift"), tried(order, "receive"))
        await ledger.validate(order.order_id, tried(order, "validate"))
        await ledger.record_charge(order, tried(order, "charge"))
    assert await house.events(order) == ["ORDER_RECEIVED", "ORDER_VALIDATED", "AWAITING_APPROVAL", "PAYMENT_CHARGED"]


async def test_a_claim_and_a_closing_exclude_one_another(house: House) -> None:
    """If a dispatch and a cancel race for one order, exactly one wins; tried fifty times."""
    for _ in range(50):
        order, ledger = await received(house), house.desk.ledger
        await ledger.validate(order.order_id, tried(order, "validate"))
        await ledger.record_charge(order, tried(order, "charge"))
        both = [ledger.claim_dispatch(order.order_id), ledger.close(order.order_id, State.CANCELLED, "")]
        random.shuffle(both)
        answers: list[Any] = await asyncio.gather(*both)
        claimed = next(a[0] for a in answers if isinstance(a, tuple))
        closed = next(a.closed for a in answers if not isinstance(a, tuple))
        assert claimed != closed


async def test_a_charge_and_its_void_never_both_stand(house: House) -> None:
    """Whichever of a charge and its void comes first, no money is kept: the charge is refunded or refused."""
    provider = Provider(house.pool)
    for _ in range(60):
        order = house.order()
        key = f"charge:{order.payment_id}"
        results = await asyncio.gather(
            provider.charge(key, order.order_id, 100),
            provider.void_charge(key, order.order_id),
            provider.charge(key, order.order_id, 100),
            return_exceptions=True,
        )
        assert all(r is None or isinstance(r, bool | ProviderRefused) for r in results)
        kept = await house.one(
            "SELECT (SELECT count(*) FROM provider.charges WHERE idempotency_key = %s) "
            "- (SELECT count(*) FROM provider.refunds WHERE idempotency_key = %s)",
            key,
            key,
        )
        assert kept == 0
        with pytest.raises(ProviderRefused):
            await provider.charge(key, order.order_id, 100)


async def test_one_key_never_pays_for_two_things(house: House) -> None:
    """A key reused with another amount is refused."""
    provider, order = Provider(house.pool), house.order()
    await provider.charge("charge:" + order.payment_id, order.order_id, 100)
    with pytest.raises(ProviderRefused, match="something else"):
        await provider.charge("charge:" + order.payment_id, order.order_id, 200)


async def test_migrations_are_applied_once_even_when_started_together(running: stack.Stack) -> None:
    """Five processes that migrate a new database at once apply each file once between them."""
    admin = running.database_url
    fresh = psycopg.conninfo.make_conninfo(admin, dbname="fresh")
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        await connection.execute("CREATE DATABASE fresh")
        try:
            applied = await asyncio.gather(*(migrations.migrate(fresh) for _ in range(5)))
            files = [*migrations.LEDGER.names(), *migrations.BOOK.names()]
            assert sorted(name for names in applied for name in names) == files
            await migrations.check_schema(fresh)
            async with await psycopg.AsyncConnection.connect(fresh, autocommit=True) as inside:
                await inside.execute("INSERT INTO trellis_migrations VALUES (999, 'future', '')")
            for refused in (migrations.migrate(fresh), migrations.check_schema(fresh)):
                with pytest.raises(SchemaMismatch, match="newer"):
                    await refused
            async with await psycopg.AsyncConnection.connect(fresh, autocommit=True) as inside:
                await inside.execute("DELETE FROM trellis_migrations WHERE number = 999")
                await inside.execute("UPDATE trellis_migrations SET sha256 = 'edited' WHERE number = 1")
            with pytest.raises(SchemaMismatch, match="changed after"):
                await migrations.migrate(fresh)
        finally:
            await connection.execute("DROP DATABASE fresh WITH (FORCE)")


async def test_a_database_that_is_down_is_a_sentence() -> None:
    """An address where nothing listens gives one sentence that says what to do."""
    with pytest.raises(DatabaseUnavailable, match="trellis up"):
        await open_pool("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable, match="postgresql://"):
        await open_pool("what is this")


async def test_attempt_numbers_count_tries_in_order(house: House) -> None:
    """Twenty tries noted at once are numbered 1 to 20, without a gap or a double."""
    order, ledger = await received(house), Ledger(house.pool)
    from trellis.db.tries import FailedTry
    from trellis.model import EventType

    await asyncio.gather(
        *(
            ledger.add_failed_try(FailedTry(tried(order, "charge", n), EventType.ATTEMPT_FAILED, "x"))
            for n in range(1, 21)
        )
    )
    numbers = [e["attempt"] for e in await ledger.events(order.order_id) if e["step"] == "charge"]
    assert sorted(numbers) == list(range(1, 21))

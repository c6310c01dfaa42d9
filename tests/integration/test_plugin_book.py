"""The book itself: what is delivered twice, what is settled, what a user may not do, and databases that are away."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.integration.flown_app import Call
from tests.integration.flying import Airfield, database, outcomes, said
from trellis.db.flights import migrate_flights
from trellis.db.migrate import BOOK
from trellis.errors import BadInput, DatabaseUnavailable, SchemaMismatch
from trellis.flights import CHANNEL, FlightRow, changed
from trellis.outages import Capacity
from trellis.plugin.batches import deliver, deliver_leftovers
from trellis.plugin.saying import Saying
from trellis.plugin.spool import Spool
from trellis.plugin.where import where

GREETING = {"word": "Hello", "name": "World"}
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


def begun(queue: str, attempt: int = 1) -> FlightRow:
    return FlightRow(
        namespace="default", workflow_id=f"wf-{queue}", run_id="r", workflow_type="W", activity_id="1",
        activity_type="a", attempt=attempt, queue=queue, worker="w", scheduled_at=NOW, attempt_scheduled_at=NOW,
        started_at=NOW,
    )  # fmt: skip


def line(row: FlightRow) -> bytes:
    """The row as a worker's file holds it."""
    return f'{{"n":{row.attempt},{row.to_json()[1:]}'.encode()


async def test_a_row_delivered_twice_is_one_row(airfield: Airfield) -> None:
    """In one batch or in two, in any order: an end is not replaced by its beginning."""
    open_ = begun(airfield.queue)
    done = open_.with_end("succeeded", NOW + timedelta(seconds=1), heartbeats=3)
    assert await airfield.book.write([open_, done, open_]) == 1
    assert await airfield.book.write([done]) == 0
    assert await airfield.book.write([open_]) == 0
    assert await airfield.book.attempts(queue=airfield.queue) == [done]


async def test_what_the_server_said_stays_and_what_was_lost_can_be_found(airfield: Airfield) -> None:
    """A settled end stays. An attempt that was counted as lost gives way to its row, which comes late."""
    first, second = begun(airfield.queue), begun(airfield.queue, 2)
    settled = first.with_end("timed out", NOW + timedelta(seconds=9))
    lost = replace(second, attempt_scheduled_at=None, started_at=None, worker=None, outcome="lost")
    await airfield.book.write([first])
    await airfield.book.write([settled, lost])
    assert outcomes(await airfield.book.attempts(queue=airfield.queue)) == {"timed out": 1, "lost": 1}
    await airfield.book.write([first.with_end("succeeded", NOW), second.with_end("failed", NOW, error="late")])
    await airfield.book.write([lost])
    rows = await airfield.book.attempts(queue=airfield.queue)
    assert [(row.attempt, row.outcome) for row in rows] == [(1, "timed out"), (2, "failed")]
    # An operator can reset an activity, and then it has a first attempt again.
    await airfield.book.write([replace(first, attempt_scheduled_at=NOW + timedelta(seconds=20))])
    assert outcomes(await airfield.book.attempts(queue=airfield.queue)) == {"timed out": 1, "failed": 1, "open": 1}


async def test_each_workflow_that_changed_is_told_once_a_batch(airfield: Airfield) -> None:
    """Listeners hear namespace and workflow id; a batch that changes nothing is silent."""
    rows = [begun(airfield.queue, attempt) for attempt in (1, 2, 3)]
    async with await psycopg.AsyncConnection.connect(airfield.url, autocommit=True) as listener:
        await listener.execute(f"LISTEN {CHANNEL}".encode())
        await airfield.book.write(rows)
        await airfield.book.write(rows)
        await airfield.book.write([replace(rows[0], workflow_id=f"last-{airfield.queue}")])
        heard = []
        async with asyncio.timeout(30), aclosing(listener.notifies()) as told:
            async for one in told:
                heard.append(changed(one.payload))
                if heard[-1][1] == f"last-{airfield.queue}":
                    break
    mine = [workflow for _, workflow in heard if workflow.endswith(airfield.queue)]
    assert mine == [f"wf-{airfield.queue}", f"last-{airfield.queue}"]


async def test_a_row_that_the_book_cannot_hold_keeps_no_other_out(airfield: Airfield) -> None:
    """It is left out, counted and said once."""
    good = [
        f'{{"n":{row.attempt},{row.to_json()[1:]}'.encode() for row in (begun(airfield.queue), begun(airfield.queue, 2))
    ]
    bad = [good[0].replace(b'"open"', b'"unheard of"').replace(b'"n":1', b'"n":3'), b'{"n":4,"namespace":"no more"}']
    with said() as lines:
        assert await deliver(airfield.book, [good[0], *bad, b'{"n":5,half}', good[1]], Saying()) == 3
    assert len(await airfield.book.attempts(queue=airfield.queue)) == 2
    assert len(lines) == 1
    with pytest.raises(BadInput, match="cannot hold"):
        await airfield.book.write([replace(begun(airfield.queue), outcome="unheard of")])
    # A server keeps texts that Postgres cannot.
    await airfield.book.write([begun(airfield.queue).with_end("failed", NOW, error="a\0b \ud83d")])
    assert "a\ufffdb \ufffd" in {row.error for row in await airfield.book.attempts(queue=airfield.queue)}


async def test_a_database_that_comes_back_gets_every_row(airfield: Airfield) -> None:
    """While it is away nothing fails and nothing waits; more rows than may be held are dropped and said."""
    async with database(airfield.url) as (url, create):
        away = replace(airfield, url=url)
        with said() as lines:
            async with away.worker(away.plugin(held=12)):
                for _ in range(10):
                    assert await away.call(Call("compose", [GREETING])) == ["Hello, World!"]
                away = replace(away, book=await create())
                rows = await away.rows(lambda rows: len(rows) == 6)
                assert len([line for line in lines if "Attempts wait in" in line]) == 1
                # As `trellis reset` does while a worker runs.
                async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
                    await admin.execute("DROP SCHEMA flights CASCADE")
                assert await away.call(Call("compose", [GREETING])) == ["Hello, World!"]
                assert len(await away.rows()) == 1
        assert outcomes(rows) == {"succeeded": 6}
        assert {line for line in lines if "back" in line} == {"The book of attempts is back."}
        assert any("newer ones are dropped" in line for line in lines)


async def test_rows_left_by_a_dead_worker_are_delivered_by_whoever_asks(airfield: Airfield) -> None:
    """A reader of the book needs no worker for that. Half a last line is ignored."""
    folder = where(airfield.settings, airfield.url).folder
    spool = Spool(folder, held=10)
    row = begun(airfield.queue)
    spool.add(line(row) + b"\n")
    assert spool.close() == (1, 0)
    [left] = airfield.files()
    left.write_bytes(left.read_bytes() + b'{"n":2,"namespace":"def')
    # Files of another database stay where they are.
    assert await deliver_leftovers(airfield.settings, airfield.url + "&application_name=x") == 0
    assert await deliver_leftovers(airfield.settings, airfield.url) == 1
    assert await airfield.book.attempts(queue=airfield.queue) == [row]
    assert airfield.files() == []


async def test_a_book_of_a_newer_trellis_is_left_alone(airfield: Airfield) -> None:
    """One sentence; nothing is noted, and the worker goes on."""
    async with database(airfield.url) as (url, create):
        book = await create()
        assert await migrate_flights(url) == BOOK.names()
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as inside:
            await inside.execute("INSERT INTO flights.migrations VALUES (999, 'future', '')")
        newer = replace(airfield, url=url, book=book)
        with said() as lines:
            async with newer.worker(newer.plugin()):
                async with asyncio.timeout(60):
                    while not lines:
                        assert await newer.call(Call("compose", [GREETING])) == ["Hello, World!"]
        assert lines == [
            "No attempts are noted: The book's schema is newer than this Trellis. Update Trellis and try again."
        ]
        assert await book.attempts() == []
        with pytest.raises(SchemaMismatch, match="newer"):
            await migrate_flights(url)


async def test_a_user_without_rights_hears_who_must_and_can_note_with_them(airfield: Airfield) -> None:
    """Whoever owns the database migrates. Afterwards a user with rights on the book alone is enough."""
    role = f"guest_{airfield.queue.rpartition('-')[2]}"
    async with database(airfield.url) as (url, create):
        owner = await create()
        guest = psycopg.conninfo.make_conninfo(url, user=role)
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
            await admin.execute(f"CREATE ROLE {role} LOGIN".encode())
            try:
                with pytest.raises(DatabaseUnavailable, match="owner of the database must run `trellis migrate`"):
                    await migrate_flights(guest)
                assert await migrate_flights(url)
                with pytest.raises(DatabaseUnavailable, match="grant this user the schema flights"):
                    await migrate_flights(guest)
                await admin.execute(
                    f"GRANT USAGE ON SCHEMA flights TO {role}; GRANT SELECT ON flights.migrations TO {role}; "
                    f"GRANT SELECT, INSERT, UPDATE, DELETE ON flights.attempts TO {role}".encode()
                )
                assert await migrate_flights(guest) == []
                # It may not read the plans, which is said, and costs no row.
                with said() as lines:
                    guests = replace(airfield, book=owner, url=guest)
                    async with guests.worker(guests.plugin()):
                        async with asyncio.timeout(60):
                            while not any("permission denied for table plans" in line for line in lines):
                                assert await guests.call(Call("compose", [GREETING])) == ["Hello, World!"]
                        await guests.rows()
                assert [line for line in lines if "cannot be written" in line] == []
            finally:
                await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


async def test_old_rows_are_dropped_in_small_batches(airfield: Airfield) -> None:
    """By their end, or else their beginning; a long attempt that has just ended stays."""
    async with database(airfield.url) as (url, create):
        book = await create()
        await migrate_flights(url)
        old = [replace(begun("q", attempt), outcome="succeeded", ended_at=NOW) for attempt in range(1, 8)]
        new = replace(begun("q", 8), outcome="succeeded", ended_at=datetime.now(UTC))
        await book.write([*old, new])
        assert [await book.drop_older(3600, batch=4) for _ in range(3)] == [4, 3, 0]
        assert [row.attempt for row in await book.attempts()] == [8]
        old_app = replace(airfield, url=url, book=book)
        await book.write(old)
        async with old_app.worker(old_app.plugin(retention_days=1)):
            async with asyncio.timeout(60):
                while await book.count() > 1:
                    await asyncio.sleep(0.05)


async def test_calls_beyond_a_providers_capacity_queue(airfield: Airfield) -> None:
    """Two places for calls of 60 s: the third call waits for the first place, another app's does not."""
    two = Capacity(2, 60)
    waits = [await airfield.book.reserve("default", airfield.queue, "pay", two) for _ in range(3)]
    assert [round(wait / 60) for wait in waits] == [1, 1, 2]
    assert round(await airfield.book.reserve("other", airfield.queue, "pay", two)) == 60

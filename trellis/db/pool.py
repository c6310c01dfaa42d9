"""The connection pool, and the driver's errors in our own words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from trellis.errors import BadInput, DatabaseUnavailable

Pool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]

AGAIN = 1.0
"""How long the pool tries to replace a broken connection before it begins anew [s]. Its own pauses double: after an
outage of 6 s it would look again only after 7 s, and after one of 12 s not before somebody asks."""

_NOTICES_THE_DEAD = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000}
"""Over TCP, a server that vanished without a word is given up after about 20 s. The system's own default is 2 hours."""


async def open_pool(
    url: str, *, size: int = 8, wait: float = 10.0, patience: float = 30.0, checked: bool = False
) -> Pool:
    """An open pool of autocommitting connections: every statement is a transaction of its own.

    A caller waits at most `patience` seconds for a connection. With `checked`, each connection is tested before it is
    given out, which costs a round trip. So after a restart of the database no caller gets a broken connection.
    Raises DatabaseUnavailable when no connection can be had within `wait` seconds.
    """
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise DatabaseUnavailable("DATABASE_URL is not a Postgres address (postgresql://user@host/name).") from None

    async def alive(connection: psycopg.AsyncConnection[Any]) -> None:
        try:
            await AsyncConnectionPool.check_connection(connection)
        except psycopg.OperationalError:
            # If one idle connection is broken, all are. The pool would try them in turn, with longer and longer waits.
            await pool.check()
            raise

    asking: set[asyncio.Task[None]] = set()

    async def ask(pool: Pool) -> None:
        with suppress(psycopg.OperationalError):
            async with pool.connection(timeout=AGAIN):
                pass

    async def begin_anew(pool: Pool) -> None:
        # The pool has given up, and now connects only for somebody who asks from now on. Callers who wait already would
        # wait in vain. In a task of its own: the pool's own task is one of the few that connect.
        task = asyncio.create_task(ask(pool))
        asking.add(task)
        task.add_done_callback(asking.discard)

    pool: Pool = AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size,
        open=False,
        timeout=patience,
        check=alive if checked else None,
        # The same few statements come again and again. Prepared at their second use, an order costs Postgres an eighth
        # less than with the driver's default of the sixth, because each connection counts for itself.
        kwargs={
            "autocommit": True,
            "connect_timeout": 5,
            "application_name": "trellis",
            "prepare_threshold": 1,
            **{name: value for name, value in _NOTICES_THE_DEAD.items() if name not in given},
        },
        name="trellis",
        reconnect_timeout=min(wait, AGAIN),
        reconnect_failed=begin_anew,
    )
    try:
        # Open one plain connection first. Its error says why; the pool's error says only that it waited.
        probe = await psycopg.AsyncConnection.connect(url, connect_timeout=5)
        await probe.close()
        await pool.open(wait=True, timeout=wait)
    except (psycopg.OperationalError, PoolTimeout) as error:
        await pool.close()
        raise unavailable(error) from None
    except BaseException:
        # Cancelled, as when a worker ends while its plugin connects: the pool would keep its connection for ever.
        await pool.close()
        raise
    return pool


def unavailable(error: Exception) -> DatabaseUnavailable:
    """The driver's error as one sentence that says what to do."""
    why = " ".join(str(error).split()).split(" Is the server running")[0][:300]
    return DatabaseUnavailable(
        f"Postgres does not answer ({why}). Start it with `trellis up`, or correct DATABASE_URL."
    )


def not_allowed(error: psycopg.Error) -> DatabaseUnavailable:
    """The database answers, and refuses what its owner may do."""
    why = " ".join(str(error.diag.message_primary or error).split())[:300]
    return DatabaseUnavailable(
        f"Postgres refuses ({why}). The user of DATABASE_URL must own the database: ALTER DATABASE name OWNER TO user."
    )


@asynccontextmanager
async def borrowed(pool: Pool) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection of the pool. Raises DatabaseUnavailable if there is none, or if it breaks in use.

    Raises BadInput for a value that Postgres cannot hold and that no earlier check refused.
    """
    try:
        async with pool.connection() as connection:
            yield connection
    except (psycopg.OperationalError, PoolTimeout) as error:
        raise unavailable(error) from error
    except psycopg.DataError as error:
        raise BadInput(f"Postgres cannot hold what was sent ({' '.join(str(error).split())[:200]}).") from error

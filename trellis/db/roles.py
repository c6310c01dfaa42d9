"""The rights of a connection: those of the owner, who migrates, or of `trellis_app`, for desk and workers (sql/008)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from trellis.db.pool import Pool, open_pool, unavailable

ROLE = "trellis_app"
log = logging.getLogger("trellis.database")


async def application_url(url: str, *, login: bool) -> str:
    """The address for desk and workers, from the owner's address: as `trellis_app` if that is possible.

    login: log in as `trellis_app`, which the embedded Postgres allows. Without it the owner's session takes on the
    role, which needs an owner that is a member of it. If that is impossible: the owner's address, and a log line.
    Raises DatabaseUnavailable.
    """
    who = await _user(url)
    if who == ROLE:
        return url
    given = psycopg.conninfo.conninfo_to_dict(url)
    if login:
        found = psycopg.conninfo.make_conninfo(url, user=ROLE)
        if await _is_application(found):
            return found
    options = str(given.get("options") or "")
    found = psycopg.conninfo.make_conninfo(url, options=f"{options} -c role={ROLE}".strip())
    if await _is_application(found):
        return found
    # `migrate` has warned. A warning at every command would be read by nobody.
    log.info(
        "this database gives Trellis no role of its own (%s); it works with all the rights of the user %s", ROLE, who
    )
    return url


async def _user(url: str) -> str:
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
            row = await (await connection.execute("SELECT current_user")).fetchone()
    except psycopg.OperationalError as error:
        raise unavailable(error) from None
    return str(row[0]) if row else ""


async def _is_application(url: str) -> bool:
    """Whether this address connects, and has the rights of the role in this same database."""
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
            row = await (
                await connection.execute(
                    "SELECT current_user = %s AND has_table_privilege('events', 'INSERT') "
                    "AND has_schema_privilege('provider', 'USAGE')",
                    (ROLE,),
                )
            ).fetchone()
    except psycopg.Error:
        # The role does not exist, may not be taken on, or a pooler does not pass options on.
        return False
    return bool(row and row[0])


@asynccontextmanager
async def as_owner(url: str) -> AsyncIterator[Pool]:
    """A pool with the rights of the address's own user, for made-up rows that the triggers would refuse."""
    pool = await open_pool(url, size=1)
    try:
        yield pool
    finally:
        await pool.close()

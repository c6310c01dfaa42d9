"""The composition root: the one place that puts servers, schema, pool, desk and workers together.

Commands, benchmarks, the lab, the API and the tests open what they need here, and get a frozen `Runtime`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from trellis import stack, workers
from trellis.config import Settings
from trellis.db.ledger import Ledger
from trellis.db.migrate import check_schema, migrate
from trellis.db.pool import Pool, open_pool
from trellis.db.roles import application_url
from trellis.desk import Desk
from trellis.model import QUEUES
from trellis.stack.temporal import ensure_search_attributes

log = structlog.get_logger("trellis.runtime")

SOON = 5.0
"""How long a caller waits for a free connection [s], where a person waits for the answer."""


@dataclass(frozen=True)
class Runtime:
    """Servers that answer, with a ledger of this version, a pool of connections and a desk."""

    settings: Settings
    stack: stack.Stack
    pool: Pool
    desk: Desk

    def workers(self, queues: tuple[str, ...] = QUEUES) -> AbstractAsyncContextManager[workers.FaultWatch]:
        """Workers of these queues for as long as the block lasts. Raises ConfigError for an unknown queue."""
        return workers.running(self.desk.client, self.pool, self.settings, queues)


@asynccontextmanager
async def opened(
    settings: Settings,
    *,
    start: bool = False,
    end: bool = False,
    pool_size: int = 8,
    pool_wait: float = SOON,
    checked: bool = False,
) -> AsyncIterator[Runtime]:
    """Open everything but workers, and close it after the block. The pool connects as `trellis_app` where it can.

    start: start the servers that do not run, and apply missing migrations. Without it nothing is started or changed:
        StackError where no server runs, SchemaMismatch where the schema is older or newer than this code.
    end: end the servers after the block, unless both ran before.
    pool_size, pool_wait: connections, and how long a caller waits for a free one [s].
    checked: see `open_pool`.
    Raises StackError, TemporalUnavailable, DatabaseUnavailable, SchemaMismatch.
    """
    ends = end and stack.find(settings) is None
    try:
        if start:
            found = await stack.up(settings)
            await migrate(found.database_url)
        else:
            found = stack.require(settings)
            await check_schema(found.database_url)
        url = await application_url(found.database_url, login=not found.database_external)
        pool = await open_pool(url, size=pool_size, patience=pool_wait, checked=checked)
        try:
            yield Runtime(settings, found, pool, await open_desk(found, settings, pool))
        finally:
            await pool.close()
    finally:
        if ends:
            stack.down(settings)


async def open_desk(on: stack.Stack, settings: Settings, pool: Pool) -> Desk:
    """A desk with a Temporal client of its own. Raises TemporalUnavailable."""
    client = await stack.connect(on.temporal)
    known = await ensure_search_attributes(client)
    if not known:
        log.warning(
            "Temporal lacks the search attributes OrderState and OrderTotal, and they cannot be added; "
            "orders run without them"
        )
    return Desk(client, Ledger(pool), settings, search_attributes=known, stack=on)


@contextmanager
def workspace(
    settings: Settings, *, own_servers: bool = True, kept: Callable[[], bool] = lambda: False
) -> Iterator[Settings]:
    """Settings for a new workspace that is ended and deleted after the block.

    `own_servers`: servers of its own, even if the settings name others. Made-up orders and killed workers need them.
    `kept`: asked at the end whether the folder stays, so that somebody can look at what went wrong in it.
    """
    home = Path(tempfile.mkdtemp(prefix="trellis-"))
    own = settings.with_own_servers(home) if own_servers else settings.model_copy(update={"home": home})
    try:
        yield own
    finally:
        stack.down(own)
        if not kept():
            shutil.rmtree(home, ignore_errors=True)

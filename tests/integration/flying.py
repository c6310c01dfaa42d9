"""Workers of somebody else's app with the plugin, and what the book says of them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from temporalio.client import Client
from temporalio.worker import Worker

from tests.integration.flown_app import ACTIVITIES, Call, Calls
from trellis.config import Settings
from trellis.db.flights import FlightBook
from trellis.db.pool import open_pool
from trellis.errors import SchemaMismatch
from trellis.flights import FlightRow
from trellis.plugin import TrellisPlugin


@dataclass
class Airfield:
    """A server, a book, a workspace of its own for the files, and a task queue of its own."""

    client: Client
    book: FlightBook
    url: str
    settings: Settings
    queue: str = field(default_factory=lambda: f"flown-{uuid.uuid4().hex[:8]}")

    def plugin(self, faults: Any = None, **options: Any) -> TrellisPlugin:
        return TrellisPlugin(faults, **{"database_url": self.url, "settings": self.settings, **options})

    @asynccontextmanager
    async def worker(self, *plugins: TrellisPlugin, **options: Any) -> AsyncIterator[Worker]:
        with ThreadPoolExecutor(8, "flown") as pool:
            given = {"activity_executor": pool, "workflows": [Calls], "activities": ACTIVITIES, **options}
            given.setdefault("client", self.client)
            async with Worker(task_queue=self.queue, plugins=plugins, **given) as worker:
                yield worker

    async def call(self, *calls: Call, id_: str | None = None) -> list[Any]:
        """Run a workflow with these calls; returns its answers."""
        answers: list[Any] = await self.client.execute_workflow(
            Calls.run, list(calls), id=id_ or f"{self.queue}-{uuid.uuid4().hex[:8]}", task_queue=self.queue
        )
        return answers

    @property
    def folder(self) -> Path:
        return self.settings.home / "flights"

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.rows"))

    async def rows(self, until: Callable[[list[FlightRow]], bool] = bool, seconds: float = 60) -> list[FlightRow]:
        """The attempts of this queue, once they are as `until` says."""
        async with asyncio.timeout(seconds):
            while True:
                # A book without tables yet has no attempts.
                with suppress(SchemaMismatch):
                    found = await self.book.attempts(queue=self.queue)
                    if until(found):
                        return found
                await asyncio.sleep(0.05)


def outcomes(rows: list[FlightRow]) -> Counter[str]:
    return Counter(row.outcome for row in rows)


@asynccontextmanager
async def database(admin_url: str) -> AsyncIterator[tuple[str, Callable[[], Awaitable[FlightBook]]]]:
    """The address of a database that does not exist yet, and what creates it, empty. The book that it then gives can be
    read once somebody made its tables."""
    name = f"flights_{uuid.uuid4().hex[:8]}"
    url = psycopg.conninfo.make_conninfo(admin_url, dbname=name)
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(await psycopg.AsyncConnection.connect(admin_url, autocommit=True))

        async def create() -> FlightBook:
            await admin.execute(f"CREATE DATABASE {name}".encode())
            pool = await open_pool(url, size=2)
            stack.push_async_callback(pool.close)
            return FlightBook(pool)

        yield url, create
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


@contextmanager
def said() -> Iterator[list[str]]:
    """What the plugin's logger says."""
    lines: list[str] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler, logger = Keeps(), logging.getLogger("trellis.plugin")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

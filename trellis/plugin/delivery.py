"""Rows go to the database here: in batches, in a thread of its own, whatever the workers' loops do.

All workers of a process with the same book share one delivery. It ends with the last of them. The same thread follows
the plans of apps, delivers what dead workers left, and drops what is older than it is kept.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from trellis.db.flights import FlightBook, migrate_flights
from trellis.db.pool import Pool, open_pool
from trellis.db.roles import application_url
from trellis.db.settled import SettledRuns
from trellis.errors import ConfigError, SchemaMismatch, TrellisError
from trellis.faults import PlanInForce
from trellis.plugin.batches import deliver, deliver_left
from trellis.plugin.saying import Saying, log
from trellis.plugin.spool import Spool, forget_old
from trellis.plugin.where import Where

T = TypeVar("T")

GATHERED = 0.08
"""How long rows are gathered before they are sent [s]."""

FOLLOWED = 0.5
"""How often the plan of each app is read [s]."""

SWEPT = 2.0
"""How often files of dead workers are looked for [s]."""

AGAIN = (0.5, 5.0)
"""The first and the longest pause before a database that is away is tried again [s]."""

DROPPED = 3600.0
"""How often old rows are dropped [s]."""

LAST_FLUSH = 2.0
"""How long the end of a worker waits for its rows to be in the book [s]. The file keeps what is not."""


class Follower(Protocol):
    """An app whose plan is the one in the book."""

    namespace: str
    queue: str

    def follow(self, force: PlanInForce | None) -> None: ...


class Delivery:
    """The way of the rows of this process to one book. `acquire` gives it, and `release` ends it."""

    def __init__(self, where: Where, held: int, retention: float) -> None:
        self.where = where
        self.users = 0
        self.followers: list[Follower] = []
        self.saying = Saying()
        self.retention = retention
        self.delivered = 0
        """Rows that were written to the book."""
        self.refused = 0
        """Rows that Postgres cannot hold."""
        self._numbers = itertools.count(1)
        self.spool = Spool(where.folder, held)
        self._off = False
        self._awake = False
        self._pool: Pool | None = None
        self._retry_at = 0.0
        self._pause = AGAIN[0]
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._connecting = asyncio.Lock()
        self._ended: Future[None] = Future()
        self._main: asyncio.Task[None] | None = None
        # A daemon: a worker that ends without a word must not be kept alive by it. Its rows are in the file.
        self._thread = threading.Thread(target=self._run, name="trellis-plugin", daemon=True)

    def number(self) -> int:
        return next(self._numbers)

    def add(self, line: bytes) -> None:
        """Take one row. Any thread; never waits, never raises."""
        if self._off:
            return
        self.spool.add(line)
        if not self._awake:
            # One call for each batch and not for each row: it is the dearest of all on the activity's path.
            self._awake = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    async def ask(self, question: Callable[[FlightBook], Awaitable[T]], seconds: float) -> T:
        """An answer of the book, asked in the delivery's own loop. Raises TrellisError, TimeoutError."""
        return await self._in_its_loop(self._answer(question), seconds)

    async def _answer(self, question: Callable[[FlightBook], Awaitable[T]]) -> T:
        return await question(await self._book())

    async def _in_its_loop(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        try:
            if self._ended.done():
                raise RuntimeError("the delivery has ended")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)

    def start(self) -> None:
        self._thread.start()

    async def flush(self) -> None:
        """Return when all rows so far are in the book, or after a short while. Never raises Exception."""
        with suppress(Exception):
            await self._in_its_loop(self._flush(whole=True), LAST_FLUSH)

    async def end(self) -> None:
        """Flush, end the thread, and give the file up; the last two also if this is cancelled."""
        try:
            await self.flush()
        finally:
            try:
                await self._stop()
            finally:
                self._close()

    async def _stop(self) -> None:
        def stop() -> None:
            if self._main is not None:
                self._main.cancel()

        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(stop)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._ended)), 2 * LAST_FLUSH)
            self._thread.join(LAST_FLUSH)

    def _close(self) -> None:
        left, lost = self.spool.close()
        if left and not self._off:
            self.saying.once(
                "left", f"{left} rows of attempts wait in {self.where.folder}; whoever flies there next delivers them."
            )
        if lost or self.spool.dropped:
            self.saying.once(
                "lost",
                f"{lost + self.spool.dropped} rows of attempts are lost: {self.spool.dropped} were more than may be "
                f"held, {lost} were in memory only.",
            )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._main = self._loop.create_task(self._work())
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except Exception as error:
            self._explain(error)
        finally:
            with suppress(Exception):
                self._loop.run_until_complete(self._let_go(asyncio.all_tasks(self._loop)))
            self._loop.close()
            self._ended.set_result(None)

    async def _let_go(self, others: set[asyncio.Task[Any]]) -> None:
        """End what somebody still asks, and the threads that looked up names."""
        for one in others:
            one.cancel()
        if others:
            await asyncio.wait(others, timeout=1.0)
        # One of them may have connected since the work ended.
        await self._disconnect()
        await asyncio.wait_for(self._loop.shutdown_default_executor(), 1.0)

    async def _work(self) -> None:
        self._say_of_spool()
        try:
            await asyncio.gather(self._deliver(), self._follow(), self._sweep())
        finally:
            await self._disconnect()

    async def _deliver(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHERED)
            self._wake.clear()
            self._awake = False
            if not await self._flush() and not self._off:
                await asyncio.sleep(max(0.0, self._retry_at - self._loop.time()))
                self._wake.set()
            elif self.spool.in_memory and not self._off:
                # They come after those of the file, and nobody wakes us for them again.
                self._wake.set()

    async def _flush(self, *, whole: bool = False) -> bool:
        """Write what waits; with `whole`, what comes meanwhile too. False: the database does not take it now."""
        async with self._turn:
            while not self._off and (lines := self.spool.take()):
                try:
                    self.refused += await deliver(await self._book(), lines, self.saying)
                except Exception as error:
                    await self._failed(error)
                    return False
                self.spool.commit()
                self.delivered += len(lines)
                # Not when it is connected: it could refuse each row.
                self._pause = AGAIN[0]
                if self.saying.over("away"):
                    self.saying.over("back")
                    self.saying.once("back", "The book of attempts is back.", logging.INFO)
                self._say_of_spool()
                if len(lines) < 100 and not whole:
                    # What came in the meantime comes with the next batch. Many small ones cost more.
                    break
        return True

    async def _book(self) -> FlightBook:
        """The book, connected and with its tables up to date. Raises TrellisError."""
        async with self._connecting:
            if self._pool is None:
                if self._loop.time() < self._retry_at:
                    raise TrellisError("the book is away")
                owner, login = await asyncio.to_thread(self.where.address)
                try:
                    await migrate_flights(owner)
                except SchemaMismatch as error:
                    self._off = True
                    self.saying.once("schema", f"No attempts are noted: {error}")
                    raise
                url = await application_url(owner, login=login)
                self._pool = await open_pool(url, size=3, wait=5.0, patience=2.0)
                self.saying.once("where", f"Attempts are noted in {self.where.in_words}.", logging.INFO)
            return FlightBook(self._pool)

    async def _disconnect(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(Exception):
                await pool.close(timeout=1.0)

    async def _failed(self, error: Exception) -> None:
        """The book did not take rows. They wait; the connection is made anew after a pause that doubles."""
        if self._off:
            return
        # A book that has no tables any more was replaced, and gets them with the next connection.
        if self._loop.time() >= self._retry_at:
            await self._disconnect()
            self._retry_at = self._loop.time() + self._pause
            self._pause = min(2 * self._pause, AGAIN[1])
        self._explain(error)
        self._say_of_spool()

    async def _failed_beside(self, what: str, error: Exception) -> None:
        """Something else than the way of the rows failed. A user may have rights on the table of attempts alone, so it
        must not cost the connection."""
        if self._pool is None or isinstance(error, SchemaMismatch):
            await self._failed(error)
        else:
            self.saying.once(what, f"{what}: {_why(error)}")

    def _explain(self, error: Exception) -> None:
        self.saying.once(
            "away", f"Attempts wait in {self.spool.path}, because the book cannot be written: {_why(error)}"
        )

    def _say_of_spool(self) -> None:
        if self.spool.trouble:
            self.saying.once(
                "file",
                f"Attempts cannot be written to {self.where.folder} ({self.spool.trouble}); they are kept in memory "
                f"until they are in the book, and die with the process.",
            )
        if self.spool.dropped:
            self.saying.once(
                "dropped", "More rows of attempts wait for the book than may be held; newer ones are dropped."
            )
        if self.spool.torn:
            self.saying.once("torn", f"{self.spool.path} held half a line, which was ignored.")

    async def _follow(self) -> None:
        while not self._off:
            for app in list(self.followers):
                try:
                    app.follow(await (await self._book()).plan(app.namespace, app.queue))
                except ConfigError as error:
                    self.saying.once("plan", f"The stored fault plan of {app.queue} is ignored: {error}")
                except Exception as error:
                    await self._failed_beside(f"The stored fault plan of {app.queue} cannot be read", error)
            await asyncio.sleep(FOLLOWED)

    async def _sweep(self) -> None:
        dropped_at = forgot_at = float("-inf")
        while not self._off:
            try:
                if self._loop.time() - forgot_at > DROPPED:
                    # Without this, an app whose book was never there would fill the disk, one file for each worker.
                    forgot_at = self._loop.time()
                    if old := forget_old(self.where.folder, self.retention):
                        log.info("%d files of rows were removed: nobody had delivered them while rows are kept.", old)
                if found := await deliver_left(self.where.folder, self._book, self.saying):
                    self.saying.once("swept", f"Delivered {found} rows that an ended worker had left.", logging.INFO)
                    self.saying.over("swept")
                if self._loop.time() - dropped_at > DROPPED:
                    book = await self._book()
                    while await book.drop_older(self.retention):
                        await asyncio.sleep(0.05)
                    if self._pool is not None:
                        await SettledRuns(self._pool).forget()
                    dropped_at = self._loop.time()
            except Exception as error:
                await self._failed_beside("What ended workers left, or what is old, stays", error)
            await asyncio.sleep(SWEPT)


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, TrellisError) else f"{type(error).__name__}: {error}"


_deliveries: dict[Where, Delivery] = {}
_lock = threading.Lock()


@lru_cache(maxsize=1)
def _watch_forks() -> None:
    # The thread does not exist in a child, and a lock may be held there for ever.
    def forget() -> None:
        global _lock
        _lock = threading.Lock()
        _deliveries.clear()

    os.register_at_fork(after_in_child=forget)


def acquire(where: Where, held: int, retention: float) -> Delivery:
    """The delivery of this process for that book, started. The first who asks says how much is held and kept."""
    _watch_forks()
    with _lock:
        found = _deliveries.get(where)
        if found is None:
            found = Delivery(where, held, retention)
            found.start()
            _deliveries[where] = found
        found.users += 1
    return found


async def release(delivery: Delivery) -> None:
    """A worker has ended: its rows go out now, and the delivery ends with the last worker."""
    with _lock:
        delivery.users -= 1
        last = delivery.users == 0
        if last and _deliveries.get(delivery.where) is delivery:
            del _deliveries[delivery.where]
    await (delivery.end() if last else delivery.flush())

"""The engine of a lab: servers, workers and a desk on a thread of their own, so that a busy cell delays no order.

A notebook's cell runs on the kernel's event loop and may block it for seconds. The engine has its own loop on its own
thread. Cells and callbacks reach it only by `do`, `awaiting` and `submit`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from trellis import config, workers
from trellis.db.pool import Pool
from trellis.desk import Desk
from trellis.errors import BadInput, StackError, TrellisError
from trellis.lab.breaking import Breaker
from trellis.lab.keeper import LogKeeper
from trellis.runtime import Runtime, opened

if TYPE_CHECKING:
    from trellis.chaos.wire import Wire
    from trellis.crew import Crew

log = structlog.get_logger("trellis.lab")

T = TypeVar("T")

STOPPED = "The lab has stopped. Run lab.start() again."
MOST_WORKERS = 16


class Engine:
    """Servers, workers and desk of one kernel. `log` keeps what went wrong in the background.

    `processes`: so many processes run the workers, each both queues; with 0 they run in the kernel. `crew` and `wires`:
    those processes, and what they reach the servers through; None and empty with 0.
    `breaker`: experiments, in which something is broken on purpose.
    Calls raise TrellisError, which a notebook shows as one sentence. After `stop` every call raises it.
    """

    worker_environment: Mapping[str, str] = MappingProxyType({})
    """Variables for the worker processes, on top of the settings."""

    def __init__(self, settings: config.Settings, processes: int = 0) -> None:
        _check_number(processes)
        self.settings = settings
        self.processes = processes
        self.crew: Crew | None = None
        self.wires: Mapping[str, Wire] = {}
        self.runtime: Runtime
        self.desk: Desk
        self.pool: Pool
        self.watch: workers.FaultWatch
        self.log = LogKeeper()
        self.breaker = Breaker(self)
        self._loop = asyncio.new_event_loop()
        self._resources = AsyncExitStack()
        self._workers = AsyncExitStack()
        self._replacing = asyncio.Lock()
        self._workers_lost = asyncio.Event()
        self._replacements: set[asyncio.Task[None]] = set()
        self._submitted: set[Future[Any]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trellis-engine", daemon=True)
        self._thread.start()
        logging.getLogger().addHandler(self.log)
        try:
            self.do(self._open())
        except BaseException:
            self.stop()
            raise

    # --- running work on the engine's loop -----------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._stopping.is_set()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the engine's loop. Await the result with `asyncio.wrap_future`.

        The future is cancelled when the lab stops. Raises TrellisError when it has stopped.
        """
        if not self.running:
            # A stopped loop would never run it, and the caller would wait for ever.
            work.close()
            raise TrellisError(STOPPED)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._submitted.add(future)
        future.add_done_callback(self._submitted.discard)
        return future

    def call_soon(self, work: Callable[[], None]) -> None:
        """Run a short function on the engine's thread. After the lab has stopped, the function is not run."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop and wait for it. Blocks the kernel, so the coroutine must be short."""
        future = self.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            # An interrupted cell must not leave its work behind on the engine.
            future.cancel()
            raise
        except CancelledError:
            raise TrellisError(STOPPED) from None

    async def awaiting(self, work: Coroutine[Any, Any, T]) -> T:
        """Await engine work in a cell. Use it for long work: the kernel stays free for buttons and interrupts."""
        waiting = asyncio.wrap_future(self.submit(work))
        try:
            while not waiting.done():
                # A kernel's interrupt cancels the cell but does not wake the cell's loop. This wakes it.
                await asyncio.wait({waiting}, timeout=0.25)
            return waiting.result()
        except asyncio.CancelledError:
            if self.running:
                raise
            raise TrellisError(STOPPED) from None
        finally:
            waiting.cancel()

    # --- the workers ---------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self.runtime = await self._resources.enter_async_context(opened(self.settings, start=True, pool_wait=30))
        self.desk, self.pool = self.runtime.desk, self.runtime.pool
        self._resources.push_async_callback(self._end_workers)
        await self._start_workers()
        # The last in, so the first out: what is broken is healed while workers and connections are still there.
        self._resources.push_async_callback(self.breaker.close)
        replacing = asyncio.create_task(self._replace_lost_workers())
        self._resources.callback(replacing.cancel)

    async def _replace_lost_workers(self) -> None:
        """A worker ends when its server was away for too long. Start new workers until they run again."""
        while True:
            await self._workers_lost.wait()
            try:
                await self._replace_workers(lambda: None)
            except Exception as error:
                log.warning("the workers cannot be started again yet", error=str(error))
            await asyncio.sleep(1)

    async def employ(self, processes: int) -> None:
        """Run the workers in so many processes; 0: in the kernel. Running orders go on.

        Raises StackError, and the workers stay what they were.
        """
        _check_number(processes)
        if self.breaker.current is not None:
            raise StackError(f"{self.breaker.current.title} is not over yet. Change the workers after its verdict.")
        before = self.processes

        def change() -> None:
            self.processes = processes

        try:
            await self._replace_workers(change)
        except BaseException:
            # `_replace_lost_workers` tries again, and must not repeat what has just failed.
            self.processes = before
            raise

    async def _replace_workers(self, change: Callable[[], None]) -> None:
        """End the workers, make a change, and start new ones. It runs to its end, even when its caller is cancelled."""

        async def work() -> None:
            async with self._replacing:
                if self.crew is not None:
                    await self._relieve(change)
                    return
                try:
                    # Both workers must have ended before new ones start: the client refuses two of one kind at a time.
                    await self._workers.aclose()
                    change()
                finally:
                    await self._start_workers()

        task = asyncio.create_task(work())
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)
        # Without the shield, a cancel between the end and the start would leave the lab without workers.
        await asyncio.shield(task)

    async def _relieve(self, change: Callable[[], None]) -> None:
        """Make a change, start new workers, and end the processes that worked until now.

        Processes may overlap. So if the new workers cannot start, for example because of an edit, the old ones go on.
        """
        change()
        before = self._workers, self.crew, self.wires, self.watch
        self._workers = AsyncExitStack()
        try:
            await self._run_workers()
        except BaseException as error:
            await self._workers.aclose()
            self._workers, self.crew, self.wires, self.watch = before
            if isinstance(error, StackError):
                raise StackError(f"{error} The old worker processes go on.") from None
            raise
        self._watch_workers()
        await before[0].aclose()

    async def _start_workers(self) -> None:
        try:
            await self._run_workers()
        except BaseException:
            # No worker runs now: `_replace_lost_workers` tries again.
            self._workers_lost.set()
            raise
        self._workers_lost.clear()
        self._watch_workers()

    async def _run_workers(self) -> None:
        if not self.processes:
            self.watch = await self._workers.enter_async_context(self.runtime.workers())
            self.crew, self.wires = None, {}
            return
        crew, wires = await self._workers.enter_async_context(self._processes())
        self.watch = await self._workers.enter_async_context(workers.FaultWatch(self.desk.ledger, self.settings))
        self.crew, self.wires = crew, wires

    @asynccontextmanager
    async def _processes(self) -> AsyncIterator[tuple[Crew, Mapping[str, Wire]]]:
        """The worker processes. They reach servers of this workspace through wires, and others directly."""
        # Imported here: the first cell of most notebooks needs neither, and must be fast.
        from trellis.chaos.house import crew_behind_wires
        from trellis.crew import Crew

        at = self.runtime.stack
        if at.temporal.external or at.database_external:
            log_file = self.settings.home / "worker.log"
            async with Crew(self.settings, log_file, self.processes, self.worker_environment) as crew:
                yield crew, {}
        else:
            async with crew_behind_wires(self.runtime, self.processes, self.worker_environment) as both:
                yield both

    def _watch_workers(self) -> None:
        """Notice it when workers end by themselves."""
        watching = asyncio.create_task(
            self._watch_for_failure(self.watch) if self.crew is None else self._keep_crew(self.crew)
        )
        self._workers.callback(watching.cancel)
        self.breaker.tell()

    async def _watch_for_failure(self, watch: workers.FaultWatch) -> None:
        await watch.worker_failed.wait()
        self._workers_lost.set()

    async def _keep_crew(self, crew: Crew) -> None:
        """A worker process ends by itself when its server was away for too long. Start another one in its place."""
        while True:
            await asyncio.sleep(0.5)
            # While something is broken on purpose, the nemesis decides which workers live.
            if self.breaker.broken:
                continue
            for member in crew.sweep():
                log.warning("a worker process ended by itself; another one starts", error=member.last_words())
            if len(crew.members) >= crew.size:
                continue
            try:
                await crew.fill()
            except Exception as error:
                log.warning("the worker process cannot be started again yet", error=str(error))
                await asyncio.sleep(1)

    async def _end_workers(self) -> None:
        if self._replacements:
            await asyncio.wait(self._replacements, timeout=10)
        await self._workers.aclose()

    # --- the end -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End workers and connections. The servers go on, for other notebooks and the next kernel."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(timeout=20)
        finally:
            logging.getLogger().removeHandler(self.log)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
            if not self._thread.is_alive():
                self._loop.close()

    async def _close(self) -> None:
        # Cancel submitted work first. Otherwise panels would use a desk whose connections are closed.
        for future in list(self._submitted):
            future.cancel()
        await self._resources.aclose()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


def _check_number(processes: int) -> None:
    if isinstance(processes, bool) or not isinstance(processes, int) or not 0 <= processes <= MOST_WORKERS:
        raise BadInput(f"The number of worker processes must be a whole number from 0 to {MOST_WORKERS}.")

"""The engine: servers, workers and desk on a thread of their own, so that a busy cell holds no order up."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import structlog

from trellis import config, logs, stack, workers
from trellis.db.migrate import migrate
from trellis.db.pool import Pool, open_pool
from trellis.desk import Desk, Receipt, opened
from trellis.errors import TrellisError
from trellis.faults import FaultPlan
from trellis.insight import events as read_events
from trellis.lab import reloading
from trellis.lab.keeper import LogKeeper
from trellis.model import State
from trellis.parsing import parse_order
from trellis.policies import Policy, preset
from trellis.status import OrderStatus

if TYPE_CHECKING:
    from trellis.lab.room import ControlRoom

log = structlog.get_logger("trellis.lab")

T = TypeVar("T")

BOOK = [{"sku": "book", "quantity": 2, "price": "12.50"}]
HOME = {"line1": "1 Main Street", "city": "Springfield"}

ASKED = 200
"""Running orders that are asked, after a reload, whether their histories fit the new code."""

STOPPED = "The lab has stopped. Run lab.start() again."


class Session:
    """A running lab. Short calls block; what may take long is awaitable; `submit` serves callbacks.

    Every call raises TrellisError, which a notebook shows as one sentence; once stopped, each says so. What went wrong
    in the background is kept in `log`.
    """

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self.desk: Desk
        self.pool: Pool
        self.watch: workers.FaultWatch
        self.log = LogKeeper()
        self._room: ControlRoom | None = None
        self._loop = asyncio.new_event_loop()
        self._exit = AsyncExitStack()
        self._crew = AsyncExitStack()
        self._changing = asyncio.Lock()
        self._lost = asyncio.Event()
        self._renewing: set[asyncio.Task[None]] = set()
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

    async def _open(self) -> None:
        up = await stack.up(self.settings)
        await migrate(up.database_url)
        self.pool = await open_pool(up.database_url)
        self._exit.push_async_callback(self.pool.close)
        self.desk = await self._exit.enter_async_context(opened(up, self.settings, pool=self.pool))
        self._exit.push_async_callback(self._leave)
        await self._hire()
        minding = asyncio.create_task(self._mind())
        self._exit.callback(minding.cancel)

    async def _mind(self) -> None:
        """A worker that its server was away from for too long ends; a lab goes on when the server is back."""
        while True:
            await self._lost.wait()
            try:
                await self._renew(lambda: None)
            except Exception as error:
                log.warning("the workers cannot be started again yet", error=str(error))
            await asyncio.sleep(1)

    async def _renew(self, change: Callable[[], None]) -> None:
        """Dismiss the workers, make a change, and hire new ones: to its end, whoever stops waiting for it."""

        async def work() -> None:
            async with self._changing:
                try:
                    # Both workers are gone before new ones come: the client refuses two of one kind at a time.
                    await self._crew.aclose()
                    change()
                finally:
                    await self._hire()

        task = asyncio.create_task(work())
        self._renewing.add(task)
        task.add_done_callback(self._renewing.discard)
        # Cancelled between the two, it would leave a lab without workers and without anybody who minds.
        await asyncio.shield(task)

    async def _hire(self) -> None:
        try:
            await self._hire_crew()
        except BaseException:
            # There are none now: `_mind` tries again.
            self._lost.set()
            raise
        self._lost.clear()
        listening = asyncio.create_task(self._hear_of_failure(self.watch))
        self._crew.callback(listening.cancel)

    async def _hire_crew(self) -> None:
        running = workers.running(self.desk.client, self.pool, self.settings)
        self.watch = await self._crew.enter_async_context(running)

    async def _hear_of_failure(self, watch: workers.FaultWatch) -> None:
        await watch.worker_failed.wait()
        self._lost.set()

    async def _leave(self) -> None:
        if self._renewing:
            await asyncio.wait(self._renewing, timeout=10)
        await self._crew.aclose()

    @property
    def running(self) -> bool:
        return self._thread.is_alive() and not self._stopping.is_set()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the engine's loop. Await the result with `asyncio.wrap_future`.

        The future is cancelled when the lab stops. Raises TrellisError when it has stopped.
        """
        if not self.running:
            # Handed to a loop that no longer turns, it would leave its caller waiting for ever.
            work.close()
            raise TrellisError(STOPPED)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._submitted.add(future)
        future.add_done_callback(self._submitted.discard)
        return future

    def call_soon(self, work: Callable[[], None]) -> None:
        """Run something short on the engine's thread. What comes too late is dropped."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the engine's loop and wait for it, for what is short."""
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
        """Await engine work in a cell, for what may take long: the kernel stays free to hear buttons and interrupts."""
        waiting = asyncio.wrap_future(self.submit(work))
        try:
            while not waiting.done():
                # A kernel's interrupt cancels the cell but does not wake its loop; this does.
                await asyncio.wait({waiting}, timeout=0.25)
            return waiting.result()
        except asyncio.CancelledError:
            if self.running:
                raise
            raise TrellisError(STOPPED) from None
        finally:
            waiting.cancel()

    def faults(self, plan: str | FaultPlan) -> None:
        """Put a plan in force: "canonical", "calm", a script, or a FaultPlan. Raises ConfigError."""
        chosen = FaultPlan.parse(plan) if isinstance(plan, str) else plan.check()

        async def change() -> None:
            await self.desk.ledger.set_fault_plan(chosen)
            await self.watch.refresh()

        self.do(change())

    def start_order(
        self,
        items: list[dict[str, Any]] | None = None,
        address: dict[str, str] | None = None,
        policy: str | Policy | None = None,
        order_id: str | None = None,
    ) -> str:
        """Start an order and return its id. Raises BadInput, OrderConflict."""
        id_ = order_id or f"order-{uuid.uuid4().hex[:8]}"
        order = parse_order(id_, f"pay-{id_}", BOOK if items is None else items, address or HOME)
        self.do(self.desk.start(order, preset(policy) if isinstance(policy, str) else policy))
        return id_

    def approve(self, order_id: str) -> Receipt:
        """Raises RequestRefused with the reason."""
        return self.do(self.desk.approve(order_id))

    def cancel(self, order_id: str, reason: str = "") -> Receipt:
        """Raises RequestRefused with the reason."""
        return self.do(self.desk.cancel(order_id, reason))

    def update_address(self, order_id: str, address: dict[str, str]) -> Receipt:
        """Raises RequestRefused with the reason."""
        return self.do(self.desk.update_address(order_id, address))

    def status(self, order_id: str) -> OrderStatus:
        """As `Desk.status`."""
        return self.do(self.desk.status(order_id))

    async def wait(self, order_id: str, timeout: float = 60) -> OrderStatus:
        """The status once the order has ended: `await session.wait(id)`. Raises TimeoutError after `timeout` seconds.

        Awaited, it leaves the kernel free to hear the buttons; a blocking wait would hold every click up.
        """
        return await self.awaiting(self.desk.wait(order_id, timeout))

    def events(self, order_id: str | None = None) -> pd.DataFrame:
        """The log as `trellis.insight.events` gives it."""
        assert self.desk.stack is not None
        return read_events(self.desk.stack.database_url, order_id)

    def charges(self, order_id: str) -> int:
        """How often the payment provider's own book says that the order was charged."""
        return self.do(self.desk.ledger.charges(order_id))

    def control_room(self) -> ControlRoom:
        """Everything at hand in one widget: new orders, the live board, requests, faults, tries and errors.

        A session has one, however often the cell is run; shown twice, both show the same.
        """
        # Imported here: the first cell needs no widgets, and is measured.
        from trellis.lab.room import ControlRoom

        if self._room is None or self._room.closed:
            self._room = ControlRoom(self)
        return self._room

    def reload(self) -> str:
        """Take edited workflow and activity code into use, in kernel and sandbox; running orders go on.

        Returns what became of them, in words: an order whose history does not fit the new code stands still until
        the code fits again. Raises TrellisError when the new code cannot be imported; the old code then goes on.
        Interrupted, it still comes to its end in the background.
        """
        said = self.do(self._reload())
        if not said.startswith("Reloaded"):
            self.log.add("error", said, int(time.time() * 1000))
        return said

    async def _reload(self) -> str:
        reloading.check()
        try:
            await self._renew(reloading.reload)
        except TrellisError:
            raise
        except Exception as error:
            raise TrellisError(
                f"The workers could not be started again ({error}). The lab goes on trying; see `session.log`."
            ) from error
        return await self._fit()

    async def _fit(self) -> str:
        """Ask each open order for its status: to answer, the new code must replay the history."""
        open_ = [state for state in State if not state.terminal]
        rows = [row for state in open_ for row in await self.desk.orders(state=state, limit=ASKED)][:ASKED]
        misfits = [
            (row["id"], why)
            for row, why in zip(
                rows,
                await asyncio.gather(*(reloading.misfit(self.desk.client, row["id"]) for row in rows)),
                strict=True,
            )
            if why
        ]
        if not misfits:
            return f"Reloaded. {len(rows)} running orders go on with the new code."
        first, why = misfits[0]
        return (
            f"{len(misfits)} of {len(rows)} running orders stand still: their histories do not fit the new code. "
            f"Order {first}: {why} Put the old order of steps back and reload, or terminate the order in Temporal's UI."
        )

    def stop(self) -> None:
        """End workers and connections; the servers go on, for other notebooks and the next kernel."""
        global _session
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
            if _session is self:
                _session = None

    async def _close(self) -> None:
        # The panels first: they would ask a desk whose connections are gone.
        for future in list(self._submitted):
            future.cancel()
        await self._exit.aclose()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def _repr_html_(self) -> str:
        if not self.running:
            return f"<b>{STOPPED}</b>"
        at = self.desk.stack
        ui = at.temporal.ui if at else None
        link = f' · <a href="{ui}" target="_blank">Temporal\'s Web UI</a>' if ui else ""
        queues = f"{self.settings.orders_queue} and {self.settings.shipping_queue}"
        lines = len(list(self.log))
        trouble = f" · {lines} lines in <code>session.log</code>" if lines else ""
        return f"<b>Trellis is running.</b> Workers on {queues}{link}{trouble}"

    def __repr__(self) -> str:
        return "Trellis is running." if self.running else STOPPED


_session: Session | None = None
_starting = threading.Lock()


def start() -> Session:
    """The lab of this kernel: servers, both workers and a desk. Running the cell again gives the same session.

    Raises TrellisError, one sentence that says what to do.
    """
    global _session
    with _starting:
        if _session is None or not _session.running:
            settings = config.load()
            _log_quietly(settings)
            _session = Session(settings)
        return _session


def reload() -> str:
    """As `Session.reload`, of this kernel's lab. Raises TrellisError when none is running."""
    if _session is None:
        raise TrellisError(STOPPED)
    return _session.reload()


def _log_quietly(settings: config.Settings) -> None:
    """Warnings and errors of the background go to `session.log`: printed, they would land in whichever cell runs."""
    logs.configure(settings.model_copy(update={"log_level": "WARNING"}))
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)


@atexit.register
def _stop_at_exit() -> None:
    if _session is not None:
        with suppress(TrellisError, TimeoutError):
            _session.stop()

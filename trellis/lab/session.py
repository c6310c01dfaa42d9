"""A running lab, as a notebook uses it: start orders, steer them, read their events, reload edited code."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pandas as pd

from trellis import config, logs
from trellis.desk import Receipt
from trellis.driving import SAMPLE_ADDRESS, SAMPLE_ITEMS
from trellis.errors import StackError, TrellisError
from trellis.faults import FaultPlan
from trellis.insight import events as read_events
from trellis.lab import reloading
from trellis.lab.breaking import LONGEST
from trellis.lab.engine import STOPPED, Engine
from trellis.lab.experiment import Experiment, frame
from trellis.model import State, workflow_id
from trellis.parsing import parse_order
from trellis.policies import Policy, preset
from trellis.status import OrderStatus

if TYPE_CHECKING:
    from temporalio.converter import DataConverter

    from trellis.lab.control_room.recording import RunRecorder
    from trellis.lab.control_room.widget import ControlRoom
    from trellis.lab.flights.flight import Flight, Flights
    from trellis.lab.time_machines import OrderMachine
    from trellis.replay.recording import Recording
    from trellis.replay.saving import Books


CHECKED_AFTER_RELOAD = 200
"""After a reload, at most this many running orders are checked: do their histories fit the new code?"""


class Session(Engine):
    """A running lab. Short calls block, long ones must be awaited, and callbacks use `submit`.

    Calls raise TrellisError, which a notebook shows as one sentence. After `stop` every call raises it. `log` keeps the
    warnings and errors of the background.
    """

    def __init__(self, settings: config.Settings, processes: int = 0) -> None:
        self._room: ControlRoom | None = None
        self._flights: Flights | None = None
        self._boards: dict[tuple[str | None, str], ControlRoom] = {}
        super().__init__(settings, processes)

    def faults(self, plan: str | FaultPlan) -> None:
        """Put a plan in force for the next order: "canonical", "calm", a script, or a FaultPlan. Raises ConfigError."""
        chosen = FaultPlan.parse(plan) if isinstance(plan, str) else plan.check()

        async def change() -> None:
            await self.desk.set_faults(chosen, followed=True)
            await self.watch.refresh()

        self.do(change())

    def start_order(
        self,
        items: list[dict[str, Any]] | None = None,
        address: dict[str, str] | None = None,
        policy: str | Policy | None = None,
        order_id: str | None = None,
    ) -> str:
        """Start an order, by default of two books, and return its id. Raises BadInput, ConfigError, OrderConflict."""
        id_ = order_id or f"order-{uuid.uuid4().hex[:8]}"
        order = parse_order(id_, f"pay-{id_}", SAMPLE_ITEMS if items is None else items, address or SAMPLE_ADDRESS)
        self.do(self.desk.start(order, preset(policy) if isinstance(policy, str) else policy))
        return id_

    def approve(self, order_id: str) -> Receipt:
        """End the review: the order is charged and shipped. Raises RequestRefused with the reason."""
        return self.do(self.desk.approve(order_id))

    def cancel(self, order_id: str, reason: str = "") -> Receipt:
        """Cancel the order; what was charged is refunded. Raises RequestRefused with the reason."""
        return self.do(self.desk.cancel(order_id, reason))

    def update_address(self, order_id: str, address: dict[str, str]) -> Receipt:
        """Replace the whole address of the parcel. Raises BadInput, RequestRefused with the reason."""
        return self.do(self.desk.update_address(order_id, address))

    def status(self, order_id: str) -> OrderStatus:
        """As `Desk.status`."""
        return self.do(self.desk.status(order_id))

    async def wait(self, order_id: str, timeout: float = 60) -> OrderStatus:
        """The status once the order has ended: `await session.wait(id)`. Raises TimeoutError after `timeout` seconds.

        Awaited, it leaves the kernel free to handle clicks. A blocking wait would delay them all.
        """
        return await self.awaiting(self.desk.wait(order_id, timeout))

    def events(self, order_id: str | None = None) -> pd.DataFrame:
        """The log as `trellis.insight.events` gives it."""
        assert self.desk.stack is not None
        return read_events(self.desk.stack.database_url, order_id)

    def charges(self, order_id: str) -> int:
        """How often the order was charged, according to the payment provider's own book."""
        return self.do(self.desk.ledger.charges(order_id))

    async def break_it(self, nemesis: str, seconds: float | None = None, *, worker_of: str | None = None) -> Experiment:
        """Break something, heal it after `seconds`, wait for the orders, and audit: `await session.break_it(name)`.

        nemesis: a name that `trellis chaos --list` shows. worker_of: break the worker that works on this order.
        Raises BadInput, StackError: an unknown name, or what this lab cannot break; then nothing was broken.
        """
        try:
            experiment = await self.awaiting(self.breaker.begin(nemesis, seconds, worker_of=worker_of))
            return await self.awaiting(self.breaker.over(experiment))
        except asyncio.CancelledError:
            self.call_soon(self.breaker.heal)
            raise

    @asynccontextmanager
    async def breaking(self, nemesis: str, *, worker_of: str | None = None) -> AsyncIterator[Experiment]:
        """Something is broken while the block runs, for at most 10 minutes; after the block come heal and audit.

            async with session.breaking("worker-frozen", worker_of=order) as experiment:
                session.cancel(order)

        Parameters and errors are those of `break_it`. After an error in the block it is healed, and not audited.
        """
        experiment = await self.awaiting(self.breaker.begin(nemesis, LONGEST, worker_of=worker_of))
        try:
            yield experiment
        finally:
            self.call_soon(self.breaker.heal)
        await self.awaiting(self.breaker.over(experiment))

    def experiments(self) -> pd.DataFrame:
        """What was broken in this session, the oldest first, for the bands of `insight.gantt` and `insight.timelines`.

        Columns: name [string], began, healed [UTC; empty as long as it lasts], landed [int], verdict [string: clean,
        violations or void; empty until the audit].
        """
        return frame(reversed(self.breaker.experiments))

    def control_room(self) -> ControlRoom:
        """One widget for everything: new orders, the live board, requests, faults, attempts and errors.

        A session has one control room. Running the cell again gives a second view of the same one.
        """
        # Imported here, because the first cell needs no widgets and must be fast.
        from trellis.lab.control_room.widget import ControlRoom

        if self._room is None or self._room.closed:
            self._room = ControlRoom(self)
        return self._room

    def fly(
        self,
        workflows: Iterable[type] = (),
        activities: Iterable[Callable[..., Any]] = (),
        *,
        task_queue: str | None = None,
        namespace: str | None = None,
        faults: FaultPlan | str | None = None,
        data_converter: DataConverter | None = None,
        **worker_options: Any,
    ) -> Flight:
        """Run your own workflows and activities in this lab, with every attempt noted: `session.fly([Trip], [book])`.

        task_queue: by default named after the module. A flight that is on this queue already is replaced: its running
        workflows go on with the new code, and files that were edited are read again. namespace: by default the
        session's; one that the workspace's own server does not have is made. faults: a plan whose steps are activity
        types; without one the plan counts that the board's sliders put in force. data_converter: that of your own
        client, such as `pydantic_data_converter`. worker_options: further arguments of the SDK's Worker.
        Raises BadInput, TemporalUnavailable; then a flight that was on this queue goes on.
        """
        return self.do(
            self._all_flights().fly(
                workflows, activities, task_queue=task_queue, namespace=namespace, faults=faults,
                data_converter=data_converter, options=worker_options,
            )
        )  # fmt: skip

    @property
    def flights(self) -> tuple[Flight, ...]:
        """The flights that are not closed, the oldest first."""
        return () if self._flights is None else self._flights.running

    def board(self, query: str | None = None, *, namespace: str | None = None) -> ControlRoom:
        """The control room for any workflows, in this lab or elsewhere: `session.board("WorkflowType = 'Trip'")`.

        query: a visibility query; "" for all workflows of the namespace; by default the types of the running
        flights, and all workflows while there are none.
        namespace: by default the session's. Without TrellisPlugin in its worker a workflow is shown as Temporal knows
        it. With it, every attempt is shown as it happens. Running the cell again gives a second view of the same board.
        Raises BadInput: a query that Temporal refuses, no such namespace, or no permission.
        """
        from trellis.lab.control_room.widget import ControlRoom
        from trellis.lab.flights.board import flight_board

        at = query, namespace or self.desk.client.namespace
        self._boards = {key: room for key, room in self._boards.items() if not room.closed}
        if at not in self._boards:
            self._boards[at] = ControlRoom(self, board=flight_board(self, query, namespace))
        return self._boards[at]

    def time_machine(self, order_id: str) -> OrderMachine:
        """Step through the order's past: its code, variables, commands and books. A running order is followed live.

        Raises OrderNotFound.
        """
        from trellis.lab.time_machines import OrderMachine, described

        self.do(described(self, workflow_id(order_id), order_id))
        return OrderMachine(self, order_id)

    def replay(self, order_id: str) -> Recording:
        """The order's history so far, replayed, with its children: `session.replay(id).save("order.html")`.

        Raises OrderNotFound, ReplayError.
        """
        from trellis.lab.time_machines import described, recorded

        self.do(described(self, workflow_id(order_id), order_id))
        return self.do(recorded(self, order_id))

    def books(self, order_id: str) -> Books:
        """What was written about the order outside its workflow, for `Recording.save` and `lab.time_machine`."""
        from trellis.lab.time_machines import books

        return self.do(books(self, order_id))

    def record(self, path: str | os.PathLike[str]) -> RunRecorder:
        """Record the board into a file that anybody can scrub through, without a kernel and without a network.

            with session.record("run.html"):
                ...

        It begins at once, and the file is written at the block's end, or at `stop()`. It holds the orders that changed
        meanwhile. Raises BadInput for a path that cannot be written.
        """
        from trellis.lab.control_room.recording import RunRecorder

        return RunRecorder(self, path)

    def reload(self) -> str:
        """Load edited workflow and activity code, in the kernel and in the sandbox. Running orders go on.

        Returns a sentence about the running orders. An order whose history does not fit the new code stands still until
        the code fits again. Raises TrellisError when the new code cannot be imported; then the old code goes on. An
        interrupted reload is finished in the background.
        """
        outcome = self.do(self._reload())
        if not outcome.startswith("Reloaded"):
            self.log.add("error", outcome, int(time.time() * 1000))
        return outcome

    def _all_flights(self) -> Flights:
        # Imported here: the first cell of most notebooks flies nothing, and must be fast.
        from trellis.lab.flights.flight import Flights

        if self._flights is None:
            self._flights = Flights(self, lambda query, namespace: self.board(query, namespace=namespace))
            # The last in, so the first out: connections must be there while the workers end.
            self._resources.push_async_callback(self._flights.close)
        return self._flights

    async def _reload(self) -> str:
        if self.breaker.current is not None:
            raise StackError(f"{self.breaker.current.title} is not over yet. Reload after its verdict.")
        reloading.modules()
        try:
            await self._replace_workers(reloading.reload)
        except TrellisError:
            raise
        except Exception as error:
            raise TrellisError(
                f"The workers could not be started again ({error}). The lab goes on trying; see `session.log`."
            ) from error
        return await self._check_histories()

    async def _check_histories(self) -> str:
        """Ask each open order for its status: to answer, the new code must replay the history."""
        most = CHECKED_AFTER_RELOAD
        open_states = [state for state in State if not state.terminal]
        rows = [row for state in open_states for row in await self.desk.orders(state=state, limit=most)][:most]
        misfits = [
            (row.id, why)
            for row, why in zip(
                rows,
                await asyncio.gather(*(reloading.misfit(self.desk.client, row.id) for row in rows)),
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
        """End workers and connections. The servers go on, for other notebooks and the next kernel."""
        global _session
        try:
            super().stop()
        finally:
            if _session is self:
                _session = None

    def _repr_html_(self) -> str:
        if not self.running:
            return f"<b>{STOPPED}</b>"
        at = self.desk.stack
        ui = at.temporal.ui if at else None
        link = f' · <a href="{ui}" target="_blank">Temporal\'s Web UI</a>' if ui else ""
        queues = f"{self.settings.orders_queue} and {self.settings.shipping_queue}"
        if self.processes:
            queues += f", in {self.processes} process" + "es" * (self.processes > 1)
        lines = len(list(self.log))
        trouble = f" · {lines} lines in <code>session.log</code>" if lines else ""
        return f"<b>Trellis is running.</b> Workers on {queues}{link}{trouble}"

    def __repr__(self) -> str:
        return "Trellis is running." if self.running else STOPPED


_session: Session | None = None
_starting = threading.Lock()


def start(workers: int | None = None) -> Session:
    """Start the lab of this kernel: servers, workers and a desk. A second call returns the same session.

    workers: run the workers in so many processes of their own, which can be killed and frozen; 0 runs them in the
    kernel, and so does the first call without a number. A second call with another number replaces the workers of the
    running session, and running orders go on.
    Raises TrellisError, one sentence that says what to do.
    """
    global _session
    with _starting:
        if _session is None or not _session.running:
            settings = config.load()
            _log_quietly(settings)
            _session = Session(settings, workers or 0)
        elif workers is not None and workers != _session.processes:
            _session.do(_session.employ(workers))
        return _session


def reload() -> str:
    """`Session.reload` for the lab of this kernel. Raises TrellisError when none is running."""
    if _session is None:
        raise TrellisError(STOPPED)
    return _session.reload()


def _log_quietly(settings: config.Settings) -> None:
    """Send the background's warnings and errors to `session.log`. Printed, they would appear in an unrelated cell."""
    logs.configure(settings.model_copy(update={"log_level": "WARNING"}))
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)


@atexit.register
def _stop_at_exit() -> None:
    if _session is not None:
        with suppress(TrellisError, TimeoutError):
            _session.stop()

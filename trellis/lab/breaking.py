"""Experiments in a running lab: break something on purpose, heal it, and let the audit say what became of the orders.

An experiment goes through these phases:

    breaking -> broken -> healing -> recovering -> auditing -> over

It is a task of its own on the engine's loop. So an interrupted cell, or a page that is closed, leaves nothing broken:
whoever waits for the experiment may go away, and the task still heals.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import structlog
from temporalio.service import RPCError

from trellis.db.board import BoardReader
from trellis.db.pool import Pool
from trellis.desk import Desk
from trellis.errors import BadInput, OrderNotFound, StackError, TrellisError
from trellis.faults import FaultPlan
from trellis.lab.control_room.rows import at
from trellis.lab.experiment import Experiment, Phase
from trellis.messages import ORDER_WORKFLOW, as_queried
from trellis.model import REVIEW, workflow_id
from trellis.runtime import Runtime

if TYPE_CHECKING:
    # Imported when something is broken: a lab's start must be quick.
    from trellis.chaos.house import Break, House
    from trellis.chaos.nemesis import Nemesis
    from trellis.chaos.wire import Wire
    from trellis.crew import Crew

LONGEST = 600.0
"""An experiment breaks something for at most this long [s]. After that it heals by itself."""
RECOVERY = 60.0
"""How long the audit waits, after the heal, for the orders that were open [s]."""
LOOKED_AT = 500
"""At most this many open orders are looked at."""
IN_KERNEL = (
    "The workers run in this kernel, and only the kernel could be killed. Run lab.start(workers=2): the session then "
    "runs them as processes of their own."
)

log = structlog.get_logger("trellis.lab")


class Lab(Protocol):
    """What an experiment needs of its engine. `crew`: None where the workers run in this process."""

    runtime: Runtime
    desk: Desk
    pool: Pool
    crew: Crew | None
    wires: Mapping[str, Wire]


class Breaker:
    """Runs the experiments of one engine, one at a time. All its methods run on the engine's loop.

    `experiments`: all of this session, the newest first. A change of one of them calls the listeners.
    """

    def __init__(self, lab: Lab) -> None:
        self.experiments: list[Experiment] = []
        self.listeners: set[Callable[[], None]] = set()
        self._lab = lab
        self._task: asyncio.Task[None] | None = None
        self._heal = asyncio.Event()
        self._starting = False

    @property
    def current(self) -> Experiment | None:
        """The experiment that is not over."""
        return next((one for one in self.experiments[:1] if one.phase is not Phase.OVER), None)

    @property
    def broken(self) -> bool:
        """Whether something is broken on purpose at this moment. Then nobody else may mend it."""
        return self.current is not None and self.current.healed is None

    def why_not(self, name: str) -> str | None:
        """Why this lab cannot stage the nemesis, in a sentence; None where it can. Raises BadInput for an unknown name.

        `begin` also looks for workers of other processes, which takes a moment.
        """
        from trellis.chaos.house import House, refuse_servers_of_others

        try:
            refuse_servers_of_others(self._lab.runtime)
        except StackError as why:
            return str(why)
        if self.current is not None and self._lab.crew is not None:
            # A worker that is missing now is missing on purpose.
            return None
        house = House(self._lab.runtime, self._crew(), self._lab.wires, FaultPlan.calm())
        why_not = _nemesis(name).why_not(house)
        return IN_KERNEL if why_not is not None and self._lab.crew is None else why_not

    def says(self, name: str) -> str:
        """What the nemesis breaks, in a sentence. Raises BadInput for an unknown name."""
        return _nemesis(name).says

    def _crew(self) -> Crew:
        """The crew; one of nobody where the workers run in this process."""
        from trellis.crew import Crew

        settings = self._lab.runtime.settings
        return self._lab.crew or Crew(settings, settings.home / "worker.log", 0)

    async def begin(self, name: str, seconds: float | None = None, *, worker_of: str | None = None) -> Experiment:
        """Break it, and return as soon as it is broken. After `seconds`, or at `heal`, it is healed, then audited.

        seconds: None for the nemesis's own. worker_of: break the worker that last worked on this order.
        Raises BadInput, StackError with one sentence; then nothing is broken.
        """
        if self._starting or self.current is not None:
            title = self.current.title if self.current is not None else "Another experiment"
            raise StackError(f"{title} is not over yet. One thing is broken at a time.")
        if seconds is not None and not 0 <= seconds <= LONGEST:
            raise BadInput(f"Something can be broken for 0 to {LONGEST:g} s, not for {seconds:g} s.")
        self._starting = True
        try:
            nemesis, house = await self._prepared(name, worker_of)
            experiment = Experiment(nemesis.name, nemesis.says, number=len(self.experiments) + 1)
            experiment.seconds = nemesis.seconds if seconds is None else seconds
            self._heal.clear()
            self.experiments.insert(0, experiment)
            self._task = asyncio.create_task(self._run(experiment, nemesis, house))
        finally:
            self._starting = False
        try:
            while experiment.phase is Phase.BREAKING:
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            # Whoever asked is gone, and could not ask for the heal.
            self.heal()
            raise
        return experiment

    def heal(self) -> None:
        """Heal what is broken now."""
        self._heal.set()

    async def over(self, experiment: Experiment) -> Experiment:
        """Wait for its verdict."""
        while experiment.phase is not Phase.OVER:
            await asyncio.sleep(0.05)
        return experiment

    async def close(self) -> None:
        """Heal what is broken, and end the experiment without its audit."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    # --- one experiment ------------------------------------------------------------------------------------

    async def _prepared(self, name: str, worker_of: str | None) -> tuple[Nemesis, House]:
        from trellis.chaos.house import House

        why = self.why_not(name)
        if why is not None:
            raise StackError(why)
        house = await House.over(self._lab.runtime, self._crew(), self._lab.wires)
        if worker_of is not None:
            await self._aim(house, worker_of)
        return _nemesis(name), house

    async def _aim(self, house: House, order_id: str) -> None:
        """Put the worker that last worked on the order first in the crew. Raises OrderNotFound, BadInput."""
        events = await self._lab.desk.events(order_id)
        names = [event["worker"] for event in events if event["worker"]]
        if not names:
            raise OrderNotFound(f"No worker has written anything about order {order_id} yet.")
        found = next((member for member in house.crew.working if member.name == names[-1]), None)
        if found is None:
            raise BadInput(f"The worker of order {order_id} ({names[-1]}) is not at work any more.")
        house.crew.members.sort(key=lambda member: member is not found)

    async def _run(self, experiment: Experiment, nemesis: Nemesis, house: House) -> None:
        try:
            await self._stage(experiment, nemesis, house)
            await self._recover(experiment)
            self._enter(experiment, Phase.AUDITING)
            await self._judge(experiment, nemesis, house)
        except asyncio.CancelledError:
            experiment.trouble = "the lab was stopped."
            raise
        except Exception as error:
            # A person sees the sentence on the card. The next experiment must be possible.
            experiment.trouble = f"{error}" if isinstance(error, TrellisError) else f"{type(error).__name__}: {error}"
            log.warning("an experiment did not work", error=experiment.trouble)
        finally:
            experiment.healed = experiment.healed or datetime.now(UTC)
            self._enter(experiment, Phase.OVER)

    async def _stage(self, experiment: Experiment, nemesis: Nemesis, house: House) -> None:
        self.tell()
        before = len(house.broken)
        staging = asyncio.create_task(house.stage(nemesis, experiment.seconds))
        ending = asyncio.create_task(self._heal.wait())
        try:
            while not staging.done() and not _note(house, before, "broken"):
                await asyncio.sleep(0.02)
            if not staging.done():
                experiment.broken = datetime.now(UTC)
                self._enter(experiment, Phase.BROKEN)
            await asyncio.wait({staging, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not staging.done():
                # `House.stage` heals when it is cancelled, and ends after that.
                staging.cancel()
            self._enter(experiment, Phase.HEALING)
            await asyncio.wait({staging})
            if not staging.cancelled():
                staging.result()
        finally:
            ending.cancel()
            if not staging.done():
                staging.cancel()
                await asyncio.wait({staging})
        experiment.healed = _note(house, before, "healed") or datetime.now(UTC)
        # After a restart of Postgres the pool's connections are broken. Without this, each would fail one call.
        with suppress(Exception):
            await self._lab.pool.check()

    async def _recover(self, experiment: Experiment) -> None:
        """Wait until the orders that were open have ended. Orders that wait for a person are not waited for."""
        assert experiment.healed is not None
        began = time.monotonic()
        first = True
        while True:
            with suppress(TrellisError, RPCError):
                experiment.still_open = await self._open_orders(experiment.healed)
                if first:
                    experiment.open_orders, first = experiment.still_open, False
                self._enter(experiment, Phase.RECOVERING)
                if not experiment.still_open:
                    break
            if time.monotonic() - began > RECOVERY:
                return
            await asyncio.sleep(0.2)
        if experiment.open_orders:
            experiment.recovered_s = (datetime.now(UTC) - experiment.healed).total_seconds()

    async def _open_orders(self, started_by: datetime) -> int:
        started = f"StartTime <= '{as_queried(started_by)}'"
        query = f"WorkflowType = '{ORDER_WORKFLOW}' AND ExecutionStatus = 'Running' AND {started}"
        prefix = workflow_id("")
        running = self._lab.desk.client.list_workflows(query, limit=LOOKED_AT)
        ids = [execution.id.removeprefix(prefix) async for execution in running]
        if not ids:
            return 0
        rows = await BoardReader(self._lab.pool).orders(ids)
        return sum(at(row)[0] != REVIEW for row in rows)

    async def _judge(self, experiment: Experiment, nemesis: Nemesis, house: House) -> None:
        """Audit all orders in the books, and the histories of those that ran since the experiment began.

        Older histories are left out: to replay them all would take the processor from the orders that run now.
        """
        from trellis.chaos.verdict import judge

        query = f"ExecutionStatus = 'Running' OR CloseTime >= '{as_queried(experiment.began)}'"
        experiment.judged = await judge(house, await nemesis.landed(house), query=query)

    def tell(self) -> None:
        """Call the listeners: an experiment changed, or the workers, and with them what can be broken."""
        for listener in list(self.listeners):
            listener()

    def _enter(self, experiment: Experiment, phase: Phase) -> None:
        experiment.phase = phase
        self.tell()


def _nemesis(name: str) -> Nemesis:
    """Raises BadInput for an unknown name."""
    from trellis.chaos.registry import find

    found = find(name)
    if len(found) != 1:
        raise BadInput(f"{name} names {len(found)} things. In a lab one thing is broken at a time.")
    return found[0]()


def _note(house: House, place: int, name: str) -> datetime | None:
    """A time of the break that `House.stage` noted at `place`."""
    noted: list[Break] = house.broken[place:]
    found: datetime | None = getattr(noted[0], name) if noted else None
    return found

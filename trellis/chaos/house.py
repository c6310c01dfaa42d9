"""The house: the servers of one run, and handles on everything that a nemesis may touch."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import psutil

from trellis.chaos.wire import Wire
from trellis.chaos.wiring import open_wires, through
from trellis.config import Settings
from trellis.crew import Crew
from trellis.desk import POLLED, Receipt, Started
from trellis.errors import StackError
from trellis.faults import FaultPlan
from trellis.model import Order
from trellis.policies import Policy
from trellis.runtime import Runtime, opened


class Door(Protocol):
    """What clients use to start and steer orders. `Desk` is one. A nemesis of requests puts itself before it."""

    async def start(self, order: Order, policy: Policy | None = None) -> Started: ...

    async def approve(self, order_id: str, *, request_id: str | None = None) -> Receipt: ...

    async def cancel(self, order_id: str, reason: str = "", *, request_id: str | None = None) -> Receipt: ...

    async def update_address(self, order_id: str, address: object, *, request_id: str | None = None) -> Receipt: ...


class Staged(Protocol):
    """What `House.stage` needs of a nemesis."""

    @property
    def name(self) -> str: ...

    def why_not(self, house: House) -> str | None: ...

    async def break_(self, house: House) -> None: ...

    async def heal(self, house: House) -> None: ...


@dataclass
class Break:
    """One fault: the name of its nemesis, when it was broken, and when it was healed; None as long as it lasts [UTC].

    `broken`: when `break_` had returned. `healing`: when `heal` was called; `healed`: when it had returned.
    """

    name: str
    began: datetime
    broken: datetime | None = None
    healing: datetime | None = None
    healed: datetime | None = None

    @property
    def until(self) -> datetime:
        """When it was over; its begin as long as it is not."""
        return self.healed or self.began


class House:
    """Servers that Trellis started, workers in processes of their own, and the wires between them.

    settings, runtime: the workspace. The runtime's desk and pool reach the servers directly, not through the wires.
    crew: the workers. They reach Temporal and Postgres through the wires.
    wires: "postgres" and "temporal"; empty in a lab without wires.
    door: what clients use. A nemesis may put its own in its place, and must put the old one back in `heal`.
    plan: the faults of providers that are in force when nothing is broken.
    broken: what was broken, in the order of the breaks.
    """

    def __init__(self, runtime: Runtime, crew: Crew, wires: Mapping[str, Wire], plan: FaultPlan) -> None:
        self.settings: Settings = runtime.settings
        self.runtime = runtime
        self.crew = crew
        self.wires = wires
        self.plan = plan
        self.door: Door = runtime.desk
        self.broken: list[Break] = []

    @classmethod
    async def over(cls, runtime: Runtime, crew: Crew, wires: Mapping[str, Wire] | None = None) -> House:
        """The house of a workspace that is open already, such as a lab's. Starts nothing.

        Raises StackError with one sentence where a server is not Trellis's own, and where another process works in the
        same workspace: its orders would be broken, too.
        """
        refuse_servers_of_others(runtime)
        await _refuse_others_at_work(runtime, crew)
        return cls(runtime, crew, wires or {}, (await runtime.desk.faults()).plan)

    async def set_plan(self, plan: FaultPlan) -> None:
        """Put a plan of provider faults in force; all workers follow within a second."""
        await self.runtime.desk.set_faults(plan)

    async def stage(self, nemesis: Staged, seconds: float) -> Break:
        """Break, wait `seconds`, heal. Returns the note of it, which is in `broken` as well.

        Heals in any case: when this call is cancelled, and when `break_` fails half-way. Raises StackError if this
        machine cannot stage the nemesis; then nothing was broken.
        """
        why = nemesis.why_not(self)
        if why is not None:
            raise StackError(why)
        noted = Break(nemesis.name, datetime.now(UTC))
        self.broken.append(noted)
        try:
            await nemesis.break_(self)
            noted.broken = datetime.now(UTC)
            await asyncio.sleep(seconds)
        finally:
            noted.healing = datetime.now(UTC)
            await _to_its_end(nemesis.heal(self))
            noted.healed = datetime.now(UTC)
        return noted


@asynccontextmanager
async def own_house(settings: Settings, plan: FaultPlan, workers: int = 2) -> AsyncIterator[House]:
    """A house with servers, wires and workers of its own, in the workspace of `settings`. All end with the block.

    `settings` must name no servers, and its folder must be empty or new: `runtime.workspace` gives such settings.
    Raises StackError.
    """
    async with (
        _quiet_retries(),
        # Checked: after a restart of Postgres, no client may get a connection that the restart broke.
        opened(settings, start=True, pool_size=32, pool_wait=30, checked=True) as runtime,
        crew_behind_wires(runtime, workers) as (crew, wires),
    ):
        await runtime.desk.set_faults(plan)
        yield House(runtime, crew, wires, plan)


@asynccontextmanager
async def _quiet_retries() -> AsyncIterator[None]:
    """Keep the SDK from a warning for each call that it repeats: here the server is gone on purpose."""
    repeated = logging.getLogger("temporalio.core-sdk_core::temporalio_client::retry")
    before = repeated.level
    repeated.setLevel(logging.ERROR)
    try:
        yield
    finally:
        repeated.setLevel(before)


@asynccontextmanager
async def crew_behind_wires(
    runtime: Runtime, size: int, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Crew, dict[str, Wire]]]:
    """Worker processes that reach the servers of an open workspace through wires, for as long as the block lasts.

    environment: further variables of the workers. Raises StackError, also where a server is not Trellis's own.
    """
    refuse_servers_of_others(runtime)
    async with open_wires(runtime) as wires:
        behind = through(runtime, wires) | dict(environment or {})
        async with Crew(runtime.settings, runtime.settings.home / "worker.log", size, behind) as crew:
            yield crew, wires


def refuse_servers_of_others(runtime: Runtime) -> None:
    """Raise StackError with one sentence unless Trellis started both servers of this workspace."""
    named = [
        name
        for name, theirs in (
            ("Temporal", runtime.stack.temporal.external), ("Postgres", runtime.stack.database_external),
        )
        if theirs
    ]  # fmt: skip
    if named:
        raise StackError(
            f"Chaos breaks only servers that Trellis started, and this workspace's {' and '.join(named)} "
            f"{'is' if len(named) == 1 else 'are'} named by its settings. Unset them, and start the lab again."
        )


async def _refuse_others_at_work(runtime: Runtime, crew: Crew) -> None:
    ours = {os.getpid(), *(member.pid for member in crew.members)}
    since = datetime.now(UTC) - POLLED
    others = set()
    for worker in await runtime.desk.workers():
        pid, _, host = worker["identity"].partition("@")
        # A server of our own listens on loopback, so its workers are processes of this machine.
        alive = pid.isdigit() and psutil.pid_exists(int(pid))
        if alive and host and int(pid) not in ours and worker["polled_at"] > since:
            others.add(int(pid))
    if others:
        raise StackError(
            f"Process {min(others)} also works in this workspace, and what is broken here would break its orders. "
            f"End it, or start the lab with another TRELLIS_HOME."
        )


async def _to_its_end(healing: Coroutine[Any, Any, None]) -> None:
    """Await it, also when the caller is cancelled meanwhile: what was broken must be whole before anything else."""
    task = asyncio.ensure_future(healing)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = not task.cancelled()
        except Exception:
            break
    task.result()
    if cancelled:
        raise asyncio.CancelledError

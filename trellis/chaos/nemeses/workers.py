"""Nemeses of workers: one killed, all gone, one frozen past its heartbeats."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from typing import ClassVar

from trellis.chaos.experiments import KILL_ALL, RESTART_OFTEN
from trellis.chaos.house import House
from trellis.chaos.nemesis import Nemesis, insist
from trellis.chaos.tasks import lost_tasks
from trellis.crew import Member
from trellis.db.recovering import Recovering
from trellis.errors import StackError
from trellis.stack.processes import stands_still


async def refill(house: House) -> None:
    """Start the workers that are missing. Raises StackError if none can be started for a minute: another nemesis may
    hold what they need."""
    await insist(house.crew.fill, StackError)


class WorkerKilled(Nemesis):
    name: ClassVar[str] = "worker-killed"
    says: ClassVar[str] = "One worker gets SIGKILL in the middle of its work, and a new one takes its place."
    experiment: ClassVar[str] = RESTART_OFTEN
    seconds: ClassVar[float] = 0.0
    replaces_workers: ClassVar[bool] = True

    def __init__(self) -> None:
        self.killed: list[Member] = []

    def why_not(self, house: House) -> str | None:
        return None if house.crew.working else "No worker runs in a process of its own, so none can be killed."

    async def break_(self, house: House) -> None:
        # The oldest: in a run with many kills each worker has its turn, and each has had time to get work.
        if not house.crew.working:
            raise StackError("No worker is left that could be killed.")
        member = house.crew.working[0]
        self.killed.append(member)
        await house.crew.kill(member)

    async def heal(self, house: House) -> None:
        await refill(house)

    async def landed(self, house: House) -> int:
        return sum(member.process.returncode == -signal.SIGKILL for member in self.killed)


class AllWorkersGone(WorkerKilled):
    name: ClassVar[str] = "workers-gone"
    says: ClassVar[str] = "All workers get SIGKILL, and for some seconds there is none."
    experiment: ClassVar[str] = KILL_ALL
    seconds: ClassVar[float] = 6.0
    outage: ClassVar[bool] = True

    async def break_(self, house: House) -> None:
        self.killed += house.crew.members
        await asyncio.gather(*(house.crew.kill(member) for member in list(house.crew.members)))


class WorkerFrozen(Nemesis):
    name: ClassVar[str] = "worker-frozen"
    says: ClassVar[str] = "One worker stops (SIGSTOP) past its heartbeats, and goes on when others did its work."
    # Longer than the server waits for a step's heartbeat (5 s) and for a workflow task (4 s).
    seconds: ClassVar[float] = 12.0

    def __init__(self) -> None:
        self.frozen: Member | None = None
        self._since: datetime | None = None
        self._until: datetime | None = None

    def why_not(self, house: House) -> str | None:
        if len(house.crew.working) >= 2:
            return None
        return "Two workers in processes of their own are needed: one freezes, and the other takes over."

    async def break_(self, house: House) -> None:
        if not house.crew.working:
            raise StackError("No worker is left that could be frozen.")
        self.frozen = house.crew.working[0]
        self._since = datetime.now(UTC)
        house.crew.freeze(self.frozen)
        await stands_still(self.frozen.pid)

    async def heal(self, house: House) -> None:
        if self.frozen is not None and self.frozen.frozen:
            house.crew.thaw(self.frozen)
            self._until = datetime.now(UTC)

    async def landed(self, house: House) -> int:
        """How many of its steps and of its workflow tasks were given to others, and how many of its orders others moved
        in another way, such as to their refund, while it was frozen."""
        if self.frozen is None or self._since is None or self._until is None:
            return 0
        books = Recovering(house.runtime.pool)
        period = self._since, self._until
        moved = await books.taken_over(*period, self.frozen.name) + await books.left(*period, self.frozen.name)
        tasks = await lost_tasks(house.runtime.desk.client, *period)
        return moved + sum(
            task.worker.startswith(f"{self.frozen.pid}@") and self._since <= task.timed_out <= self._until
            for task in tasks
        )


ALL: tuple[type[Nemesis], ...] = (WorkerKilled, AllWorkersGone, WorkerFrozen)

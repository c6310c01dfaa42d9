"""Worker processes of one workspace: start them, kill them, freeze them, and leave none behind.

A worker in the own process cannot be killed without that process. Chaos and the lab's buttons need workers that can.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from trellis.config import Settings
from trellis.errors import StackError

PATIENCE = 60.0
"""How long a worker may need until it works [s]. It takes 2 s on a machine that does nothing else."""

_READY = "Working on "
"""How the line begins that `trellis worker` prints when its workers run."""

_POLL = 0.02


@dataclass(eq=False)
class Member:
    """One worker process. `ready_at`: when its workers began to poll; None until then. Times are UTC."""

    process: subprocess.Popen[bytes]
    log: Path
    started_at: datetime
    ready_at: datetime | None = None
    frozen: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended. A frozen one is alive."""
        return self.process.poll() is None

    @property
    def name(self) -> str:
        """The name that this worker's events carry in their column `worker`."""
        return f"worker-{self.pid}"

    def last_words(self) -> str:
        """The last line of its log, for messages."""
        try:
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else "its log is empty"


class Crew:
    """`size` processes of `trellis worker` with these settings, for as long as the block lasts.

    environment: variables on top of the settings, such as DATABASE_URL with the address of a wire.
    log: the workers' logs lie beside it: worker.log -> worker-1.log, worker-2.log and so on.
    The crew ends only processes that it started. A worker also ends by itself when this process has ended.
    """

    def __init__(self, settings: Settings, log: Path, size: int, environment: Mapping[str, str] | None = None) -> None:
        self.settings = settings
        self.size = size
        self.environment = dict(environment or {})
        self.members: list[Member] = []
        """The processes that live, in the order of their start, and those that ended since somebody last looked."""
        self.hired: list[Member] = []
        """All that were ever started."""
        self.ended: list[Member] = []
        """Those that ended by themselves: not killed, not dismissed."""
        self._log = log

    async def __aenter__(self) -> Crew:
        # A block that is left by os.abort or a kernel's restart runs no `__aexit__`.
        atexit.register(self._kill_all)
        try:
            await self.fill()
        except BaseException:
            await self.stop_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    @property
    def working(self) -> list[Member]:
        """The members that are alive and not frozen."""
        return [member for member in self.members if member.alive and not member.frozen]

    async def fill(self) -> list[Member]:
        """Start workers until `size` of them live; returns the new ones, which work by then. Raises StackError."""
        self.sweep()
        fresh = [self._start() for _ in range(self.size - len(self.members))]
        await asyncio.gather(*(self._ready(member) for member in fresh))
        return fresh

    def sweep(self) -> list[Member]:
        """Move the members that ended by themselves to `ended`; returns the ones that are new there."""
        gone = [member for member in self.members if not member.alive]
        for member in gone:
            self._forget(member)
        self.ended += gone
        return gone

    async def hire(self, *, wait: bool = True) -> Member:
        """Start one more worker and wait until it works. Raises StackError with the last line of its log.

        wait: without it the process is only started.
        """
        member = self._start()
        if wait:
            await self._ready(member)
        return member

    async def dismiss(self, member: Member) -> None:
        """End a worker by SIGTERM: it finishes what it can within a second or two. Waits for its end."""
        self._forget(member)
        try:
            self.thaw(member)
            member.process.terminate()
            await self._gone(member)
        finally:
            member.process.kill()
            member.process.wait()

    async def kill(self, member: Member) -> None:
        """End a worker by SIGKILL, frozen or not: it can finish nothing. Waits for its end."""
        self._forget(member)
        member.process.kill()
        # Not awaited: it takes no time, and a caller who is cancelled here would leave a zombie.
        member.process.wait()

    def freeze(self, member: Member) -> None:
        """Stop the process in the middle of what it does (SIGSTOP). It keeps its connections and sends nothing."""
        member.process.send_signal(signal.SIGSTOP)
        member.frozen = True

    def thaw(self, member: Member) -> None:
        """Let a frozen process go on where it stopped (SIGCONT). Safe to call twice."""
        member.process.send_signal(signal.SIGCONT)
        member.frozen = False

    async def stop_all(self) -> None:
        """End all workers: they may finish what they can for some seconds, then they are killed. Safe to call twice."""
        try:
            for member in self.members:
                # A stopped process would take notice of SIGTERM only when it is continued.
                self.thaw(member)
                member.process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await asyncio.gather(*(self._gone(member) for member in self.members))
        finally:
            # Also when this call is cancelled. SIGKILL needs no time of ours.
            self._kill_all()
            atexit.unregister(self._kill_all)

    def _start(self) -> Member:
        log = self._log.with_name(f"{self._log.stem}-{len(self.hired) + 1}{self._log.suffix}")
        # LOG_FORMAT: the line that says "ready" must be there, whatever the logs look like elsewhere.
        given = {"LOG_LEVEL": "ERROR", "LOG_FORMAT": "console"}
        started_at = datetime.now(UTC)
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "trellis", "worker", "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=os.environ | self.settings.environment() | given | self.environment,
                # A Ctrl-C in our terminal must not reach the workers: the crew ends them, frozen ones too.
                process_group=0,
            )
        member = Member(process, log, started_at)
        self.members.append(member)
        self.hired.append(member)
        return member

    async def _ready(self, member: Member) -> None:
        deadline = time.monotonic() + PATIENCE
        while _READY not in member.log.read_text("utf-8", "replace"):
            if member not in self.members:
                # Somebody killed it before it worked.
                return
            if not member.alive:
                self._forget(member)
                raise StackError(f"A worker ended by itself. The last line of its log: {member.last_words()}")
            if time.monotonic() > deadline:
                raise StackError(f"A worker did not begin to work within {PATIENCE:.0f} s. See {member.log}.")
            await asyncio.sleep(_POLL)
        member.ready_at = datetime.now(UTC)

    async def _gone(self, member: Member) -> None:
        while member.alive:
            await asyncio.sleep(_POLL)

    def _forget(self, member: Member) -> None:
        if member in self.members:
            self.members.remove(member)

    def _kill_all(self) -> None:
        for member in self.members:
            member.process.kill()
        for member in self.members:
            member.process.wait()
        self.members = []

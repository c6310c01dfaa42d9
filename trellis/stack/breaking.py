"""What chaos does to a server of this workspace: kill it, start it again at the same address, freeze it, let it go on.

A server is found by its own data, as everywhere in this package, and never by its name: other servers run here, too.
A server that the settings name is refused.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Literal

import psutil

from trellis.config import Settings
from trellis.errors import StackError
from trellis.stack import locked, postgres, temporal
from trellis.stack.processes import go_on, wait_for_end

Server = Literal["temporal", "postgres"]


def processes(settings: Settings, server: Server) -> list[psutil.Process]:
    """The server's processes, its own first, then those that it started. Raises StackError if there is none of ours."""
    external = settings.database_url if server == "postgres" else temporal.external(settings)
    if external is not None:
        raise StackError(f"This workspace's {server.capitalize()} was not started by Trellis, so it is not touched.")
    main = postgres.process(settings.home) if server == "postgres" else temporal.process(settings.home)
    if main is None:
        raise StackError(f"No {server.capitalize()} runs in this workspace. Start it with `trellis up`.")
    try:
        return [main, *main.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [main]


async def kill(settings: Settings, server: Server) -> int:
    """End all processes of the server by SIGKILL, as a crash of its machine would, and wait for their end.

    Returns the id of its first process. Raises StackError.
    """
    async with locked(settings):
        # Freeze it first: a server that goes on could start one more process while we look at the list.
        found = _signal(settings, server, signal.SIGSTOP)
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in found:
            if not await asyncio.to_thread(wait_for_end, process, 20):
                raise StackError(f"{server.capitalize()} (process {process.pid}) does not end.")
        return found[0].pid


async def start_again(settings: Settings, server: Server) -> None:
    """Start a killed server on the same files and at the same address, and return when it answers. Safe to call twice.

    Raises StackError; also if another program has taken Temporal's port meanwhile: its clients could not find it.
    """
    async with locked(settings):
        if server == "postgres":
            # Its socket lies in a folder whose name depends on the workspace only.
            await postgres.up(settings)
            return
        before = temporal.last_address(settings.home)
        if temporal.process(settings.home) is None:
            await temporal.ports_released(settings.home)
        now = await temporal.up(settings)
        if before not in (None, now.address):
            raise StackError(f"Another program has taken {before} meanwhile; Temporal now runs at {now.address}.")


async def freeze(settings: Settings, server: Server) -> int:
    """Stop all processes of the server in the middle of what they do (SIGSTOP). Returns the id of the first.

    Its connections stay open and nobody answers. Raises StackError.
    """
    async with locked(settings):
        return _signal(settings, server, signal.SIGSTOP)[0].pid


async def thaw(settings: Settings, server: Server) -> None:
    """Let a frozen server go on. Safe to call twice, and for a server that does not run."""
    async with locked(settings):
        with suppress(StackError):
            go_on(processes(settings, server)[0])


def _signal(settings: Settings, server: Server, number: signal.Signals) -> list[psutil.Process]:
    """Send it to all processes of the server until none is new. A stopped process starts no other."""
    reached: dict[int, psutil.Process] = {}
    while True:
        fresh = [process for process in processes(settings, server) if process.pid not in reached]
        if not fresh:
            return list(reached.values())
        for process in fresh:
            reached[process.pid] = process
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

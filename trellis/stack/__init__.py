"""The two servers of a workspace: found if they run, else started; shared by its processes; ended together.

Temporal   TEMPORAL_ADDRESS or TEMPORAL_PROFILE -> this workspace's running server -> a local one
Postgres   DATABASE_URL -> this workspace's running server -> an embedded one
neither    StackError, a sentence that says what to do
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import filelock

from trellis.config import Settings
from trellis.errors import StackError
from trellis.stack import postgres, temporal
from trellis.stack.temporal import TemporalTarget, connect

__all__ = ["Stack", "TemporalTarget", "connect", "down", "find", "locked", "require", "reset", "temporal_target", "up"]

LEAST_ROOM = 200 * 2**20
PATIENCE = 60.0
OURS = (
    "postgres", "postgres.new", "postgres.log",
    "temporal.db", "temporal.db-wal", "temporal.db-shm", "temporal.log", "stack.json", "stack.json.new",
    # Attempts that wait for this workspace's database (trellis.plugin). Those for other databases stay.
    "flights/workspace",
)  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """Two servers that answer. `*_external`: Trellis did not start this server, and never ends or empties it."""

    temporal: TemporalTarget
    # It may hold a password, and a notebook shows and stores the `repr` of what a cell ends with.
    database_url: str = field(repr=False)
    database_external: bool
    home: Path


class _Lock:
    """The workspace's lock: only one process at a time starts or ends servers. `with` blocks; `async with` does not."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = filelock.FileLock(home / "stack.lock", thread_local=False)

    def _try(self) -> bool:
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            return True
        except filelock.Timeout:
            return False
        except OSError as error:
            raise StackError(f"TRELLIS_HOME {self._home} cannot be used: {error.strerror or error}.") from None

    def _late(self) -> StackError:
        return StackError(f"Another process has held {self._home} for a minute. End it, then try again.")

    def __enter__(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._try():
            if time.monotonic() > deadline:
                raise self._late()
            time.sleep(0.05)

    async def __aenter__(self) -> None:
        # Another task of this same loop may hold the lock. Blocking here would keep it from ever finishing.
        deadline = time.monotonic() + PATIENCE
        while not self._try():
            if time.monotonic() > deadline:
                raise self._late()
            await asyncio.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def locked(settings: Settings) -> _Lock:
    """Keep other processes from starting or ending this workspace's servers for as long as the block lasts."""
    return _Lock(settings.home)


def _check_room(home: Path) -> None:
    if shutil.disk_usage(home).free < LEAST_ROOM:
        raise StackError(f"The disk of {home} has less than 200 MB free. Make room, or point TRELLIS_HOME elsewhere.")
    if not os.access(home, os.W_OK):
        raise StackError(f"TRELLIS_HOME {home} cannot be written to. Point TRELLIS_HOME at a folder of yours.")


async def up(settings: Settings) -> Stack:
    """Find or start both servers; return when both answer. Many processes may call it at the same time.

    Raises StackError with one sentence. If a server fails, or if this call is cancelled, it ends what it started.
    """
    async with _Lock(settings.home):
        database_ours = settings.database_url is None and postgres.running(settings.home) is None
        temporal_ours = temporal.external(settings) is None and temporal.running(settings) is None
        if database_ours or temporal_ours:
            _check_room(settings.home)
        both = asyncio.create_task(postgres.up(settings)), asyncio.create_task(temporal.up(settings))
        try:
            await asyncio.wait(both)
            url, target = both[0].result(), both[1].result()
        except BaseException:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            if database_ours:
                postgres.down(settings.home)
            if temporal_ours:
                temporal.down(settings.home)
            raise
        return Stack(target, url, settings.database_url is not None, settings.home)


def find(settings: Settings) -> Stack | None:
    """The running stack, external servers included; None if a server is missing. Starts nothing."""
    url = settings.database_url or postgres.running(settings.home)
    target = temporal.external(settings) or temporal.running(settings)
    if url is None or target is None:
        return None
    return Stack(target, url, settings.database_url is not None, settings.home)


def temporal_target(settings: Settings) -> TemporalTarget:
    """The Temporal that the settings name, or else the one that runs in this workspace; no database is needed.

    Raises StackError where there is neither.
    """
    target = temporal.external(settings) or temporal.running(settings)
    if target is None:
        raise StackError(
            "No Temporal is named, and none runs in this workspace. Name one in TEMPORAL_ADDRESS or TEMPORAL_PROFILE, "
            "or start one with `trellis up`."
        )
    return target


def require(settings: Settings) -> Stack:
    """`find`, or StackError."""
    stack = find(settings)
    if stack is None:
        raise StackError("No Trellis stack runs in this workspace. Start it with `trellis up`.")
    return stack


def down(settings: Settings) -> list[str]:
    """End this workspace's servers, wait for their end, and return their names. Never ends an external one."""
    if not settings.home.is_dir():
        return []
    with _Lock(settings.home):
        return _down(settings.home)


def _down(home: Path) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        ended = {name: pool.submit(one.down, home) for name, one in (("temporal", temporal), ("postgres", postgres))}
        return [name for name, answer in ended.items() if answer.result()]


def reset(settings: Settings) -> None:
    """End this workspace's servers and delete their data, nothing else. Refuses if any server is external."""
    if settings.database_url is not None or temporal.external(settings) is not None:
        raise StackError(
            "An external server is configured, and Trellis never empties one. Unset it to reset this workspace."
        )
    if not settings.home.is_dir():
        return
    with _Lock(settings.home):
        _down(settings.home)
        # Delete by name: people may keep other files in TRELLIS_HOME.
        for entry in (settings.home / name for name in OURS):
            try:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)
            except OSError as error:
                raise StackError(f"{entry} cannot be deleted: {error.strerror or error}.") from None

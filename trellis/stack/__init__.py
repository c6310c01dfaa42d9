"""The servers: found when somebody runs them, started when nobody does, shared by a workspace, ended together.

Temporal   TEMPORAL_ADDRESS or TEMPORAL_PROFILE -> this workspace's running server -> a local one
Postgres   DATABASE_URL -> this workspace's running server -> an embedded one
neither    StackError, a sentence that says what to do
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from trellis.config import Settings
from trellis.errors import StackError
from trellis.stack import postgres, temporal
from trellis.stack.temporal import TemporalTarget, connect

__all__ = ["Stack", "TemporalTarget", "connect", "down", "find", "require", "reset", "up"]

LEAST_ROOM = 200 * 2**20


@dataclass(frozen=True)
class Stack:
    """Two servers that answer. `*_external`: somebody else runs it, and Trellis never ends or empties it."""

    temporal: TemporalTarget
    database_url: str
    database_external: bool
    home: Path


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """The workspace's lock: whoever starts or ends servers does so alone."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(settings.home / "stack.lock", timeout=60)
        lock.acquire()
    except filelock.Timeout:
        raise StackError(f"Another process has held {settings.home} for a minute. End it, then try again.") from None
    except OSError as error:
        raise StackError(f"TRELLIS_HOME {settings.home} cannot be used: {error.strerror or error}.") from None
    try:
        yield
    finally:
        lock.release()


def _check_room(home: Path) -> None:
    if shutil.disk_usage(home).free < LEAST_ROOM:
        raise StackError(f"The disk of {home} has less than 200 MB free. Make room, or point TRELLIS_HOME elsewhere.")
    if not os.access(home, os.W_OK):
        raise StackError(f"TRELLIS_HOME {home} cannot be written to. Point TRELLIS_HOME at a folder of yours.")


async def up(settings: Settings) -> Stack:
    """Find or start both servers; return when both answer. Any number of processes may call it together.

    Raises StackError with one sentence; what this call started is ended again when the other server fails.
    """
    with _held(settings):
        _check_room(settings.home)
        database_ours = settings.database_url is None and postgres.running(settings.home) is None
        temporal_ours = temporal.external(settings) is None and temporal.running(settings.home) is None
        url, target = await asyncio.gather(postgres.up(settings), temporal.up(settings), return_exceptions=True)
        if isinstance(url, BaseException) or isinstance(target, BaseException):
            if database_ours and not isinstance(url, BaseException):
                await asyncio.to_thread(postgres.down, settings.home)
            if temporal_ours and not isinstance(target, BaseException):
                await asyncio.to_thread(temporal.down, settings.home)
            raise next(failed for failed in (url, target) if isinstance(failed, BaseException))
        return Stack(target, url, settings.database_url is not None, settings.home)


def find(settings: Settings) -> Stack | None:
    """The stack as it runs, or as it was given from outside; None where a server is missing. Starts nothing."""
    url = settings.database_url or postgres.running(settings.home)
    target = temporal.external(settings) or temporal.running(settings.home)
    if url is None or target is None:
        return None
    return Stack(target, url, settings.database_url is not None, settings.home)


def require(settings: Settings) -> Stack:
    """`find`, or StackError."""
    stack = find(settings)
    if stack is None:
        raise StackError("No Trellis stack runs in this workspace. Start it with `trellis up`.")
    return stack


def down(settings: Settings) -> list[str]:
    """End our own servers, wait until they are gone, and say which ended. Never an external one."""
    if not settings.home.is_dir():
        return []
    with _held(settings):
        return [name for name, end in (("temporal", temporal.down), ("postgres", postgres.down)) if end(settings.home)]


def reset(settings: Settings) -> None:
    """End our servers and delete their data. Refuses where any server is somebody else's."""
    if settings.database_url is not None or temporal.external(settings) is not None:
        raise StackError(
            "An external server is configured, and Trellis never empties those. Unset it to reset this workspace."
        )
    down(settings)
    if settings.home.is_dir():
        with _held(settings):
            for entry in settings.home.iterdir():
                if entry.name != "stack.lock":
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)

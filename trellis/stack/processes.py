"""Server processes: start them detached, recognise them for certain, and wait for their end."""

from __future__ import annotations

import asyncio
import atexit
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

# Servers outlive the call that starts them. Without this list, Popen would warn of that, and a server that ends would
# stay a zombie.
_children: list[subprocess.Popen[bytes]] = []


@atexit.register
def _poll_children() -> None:
    for child in _children:
        child.poll()


def spawn(line: list[str], log: Path, **options: Any) -> subprocess.Popen[bytes]:
    """A server in a session of its own, so that a Ctrl-C in our terminal does not reach it."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **options
        )
    _children.append(child)
    return child


def serves(process: psutil.Process, option: str, path: Path) -> bool:
    """Whether this process is alive and has `option path` on its command line.

    A process id alone is not enough: the system may have given it to another process. Nor is its creation time, which
    changes when the clock is set. The same folder may be spelled in another way.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        line = process.cmdline()
        return path.samefile(line[line.index(option) + 1])
    except (psutil.Error, OSError, ValueError, IndexError):
        return False


def wait_for_end(process: psutil.Process, seconds: float) -> bool:
    """Wait until the process has ended; False after `seconds`. A zombie counts as ended: some containers never reap
    it."""
    deadline = time.monotonic() + seconds
    while True:
        for child in _children:
            child.poll()
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def go_on(process: psutil.Process) -> None:
    """Let a stopped process and its children go on; nothing happens to running ones.

    A stopped process takes no notice of a request to end.
    """
    with suppress(psutil.NoSuchProcess):
        for one in (*process.children(recursive=True), process):
            with suppress(psutil.NoSuchProcess):
                one.resume()


async def stands_still(pid: int) -> bool:
    """Whether the process is stopped. The system may need a moment to stop all of its threads."""
    for _ in range(50):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                return True
        except psutil.NoSuchProcess:
            return False
        await asyncio.sleep(0.02)
    return False


def lines_since(log: Path, start: int = 0) -> list[str]:
    """The lines that were added to a log after its first `start` bytes."""
    try:
        return log.read_bytes()[start:].decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return []


def length(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0

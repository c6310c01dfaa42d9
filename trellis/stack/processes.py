"""Server processes: started apart from us, recognised for certain, and waited for until they are gone."""

from __future__ import annotations

import atexit
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

# Servers outlive the call that starts them; a dropped Popen would warn of that, and leave a zombie when one ends.
_children: list[subprocess.Popen[bytes]] = []


@atexit.register
def _take_note_of_the_ended() -> None:
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
    """Does this live process have `option path` on its command line?

    A process id alone may have been given to somebody else since; its creation time moves when the clock is set;
    and the same folder may have been spelled in another way.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        line = process.cmdline()
        return path.samefile(line[line.index(option) + 1])
    except (psutil.Error, OSError, ValueError, IndexError):
        return False


def gone(process: psutil.Process, seconds: float) -> bool:
    """Wait until the process has ended. A zombie has: not every container reaps what it is left with."""
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


def said(log: Path, start: int = 0) -> list[str]:
    """The lines that a log has gained since it was `start` bytes long."""
    try:
        return log.read_bytes()[start:].decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return []


def length(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0

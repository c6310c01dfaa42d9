"""A full disk under the ledger.

The ledger's tables move to a small file system in memory, a file fills it, and every write that needs more room fails
with Postgres's own "No space left on device". Afterwards the tables move back. The real disk is never filled.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from trellis.chaos.experiments import DEPENDENCY
from trellis.chaos.house import House
from trellis.chaos.nemeses.servers import foreign
from trellis.chaos.nemesis import Nemesis
from trellis.config import Settings
from trellis.db.small_disk import SmallDisk
from trellis.errors import StackError

ROOM = 16 * 2**20
"""Room beside the ledger's own size [bytes]; then it is filled."""

FULL = b"No space left on device"


@cache
def _mountable() -> str | None:
    """Why no small file system can be mounted here; None if it can."""
    if not sys.platform.startswith("linux") or shutil.which("mount") is None:
        return "A small disk for the ledger needs Linux's tmpfs."
    if os.geteuid() != 0:
        return "Only root may mount a small disk for the ledger."
    with tempfile.TemporaryDirectory(prefix="trellis-disk-") as folder:
        try:
            _mount(Path(folder), 2**20)
            _unmount(Path(folder))
        except StackError:
            return "This machine lets nobody mount a small disk for the ledger, as in most containers."
    return None


def _mount(folder: Path, size: int) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "trellis-small-disk", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise StackError(f"A small disk cannot be mounted ({done.stderr.decode().strip()[:200]}).")


def _unmount(folder: Path) -> None:
    """Unmount it if it is mounted. What is still open on it stays until it is closed."""
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def _fill(file: Path) -> None:
    """Take all room that is left on the file's disk."""
    with file.open("ab", buffering=0) as out, suppress(OSError):
        while True:
            out.write(b"\0" * 2**16)
    if file.stat().st_size == 0:
        raise OSError(errno.ENOSPC, "the disk was full before it was filled")


class DiskFull(Nemesis):
    name = "disk-full"
    says = "The disk under the ledger is full: writes that need more room fail."
    experiment = DEPENDENCY
    seconds = 6.0

    def __init__(self) -> None:
        self._log_before: int | None = None
        self._failed = 0

    def why_not(self, house: House) -> str | None:
        return foreign(house) or _mountable()

    def _folder(self, settings: Settings) -> Path:
        return settings.home / "small-disk"

    async def break_(self, house: House) -> None:
        disk = SmallDisk(house.runtime.stack.database_url)
        folder = self._folder(house.settings)
        folder.mkdir(exist_ok=True)
        _mount(folder, await disk.ledger_bytes() + ROOM)
        # Postgres runs as a user of its own here, and a tablespace must belong to that user.
        owner = (house.settings.home / "postgres").stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        space = folder / "tables"
        space.mkdir()
        os.chown(space, owner.st_uid, owner.st_gid)
        await disk.move_in(space)
        self._log_before = _log(house).stat().st_size
        await asyncio.to_thread(_fill, folder / "filler")

    async def heal(self, house: House) -> None:
        folder = self._folder(house.settings)
        (folder / "filler").unlink(missing_ok=True)
        self._failed = await self.landed(house)
        self._log_before = None
        if os.path.ismount(folder):
            await SmallDisk(house.runtime.stack.database_url).move_out()
        self.clear(house.settings)

    def clear(self, settings: Settings) -> None:
        folder = self._folder(settings)
        _unmount(folder)
        with suppress(OSError):
            folder.rmdir()

    async def landed(self, house: House) -> int:
        """How many statements failed for want of room."""
        if self._log_before is None:
            return self._failed
        return self._failed + _log(house).read_bytes()[self._log_before :].count(FULL)


def _log(house: House) -> Path:
    return house.settings.home / "postgres.log"


ALL: tuple[type[Nemesis], ...] = (DiskFull,)

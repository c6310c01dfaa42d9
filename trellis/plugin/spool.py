"""The append-only file of a worker process. What was written to it survives the death of the process.

A row is one line, written by one call. The file is also the queue to the database: the delivery reads it from the front
and truncates it when all was delivered. Its owner holds a lock on it that the kernel drops at the owner's death, so
anybody can tell a file that was left behind from one in use.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

SUFFIX = ".rows"
AT_ONCE = 512 * 1024
"""How many bytes are read and delivered at a time."""

TRUNCATED_FROM = 64 * 1024
ROTATED_FROM = 8 * 2**20
"""A file that is never empty, because rows keep coming, is replaced by a new one at this size."""


class RowFile:
    """One file and its lock. `path`, `size` and `read` [bytes]: how much was written and how much was delivered."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.size = os.fstat(fd).st_size
        self.read = 0
        self.torn = False
        """Whether the last line is a half one, because the disk was full."""
        _watch_forks()
        _OPEN.add(self)

    @classmethod
    def made(cls, folder: Path) -> RowFile:
        """A new file of this process, locked. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
            if _locked(fd):
                return cls(path, fd)
            # Somebody who looked for files without an owner was quicker, and removes it.
            os.close(fd)

    @classmethod
    def left(cls, path: Path) -> RowFile | None:
        """The file, if its owner is gone and nobody else took it."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError:
            return None
        if _locked(fd):
            return cls(path, fd)
        os.close(fd)
        return None

    def lines(self, most: int = AT_ONCE) -> tuple[list[bytes], int]:
        """The next whole lines that are not delivered yet, and where they end. Raises OSError."""
        data = os.pread(self.fd, most, self.read)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == most:
            return self.lines(2 * most)
        return data[:end].splitlines(), self.read + end

    def close(self, *, remove: bool) -> None:
        """Give the file up. With `remove` it is gone before the lock is, so nobody delivers it again."""
        _OPEN.discard(self)
        if remove:
            self.path.unlink(missing_ok=True)
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _locked(fd: int) -> bool:
    """Take the lock. False if another process has it, or removed the file meanwhile."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        os.close(fd)
        raise
    return os.fstat(fd).st_nlink > 0


_OPEN: weakref.WeakSet[RowFile] = weakref.WeakSet()


def _let_go_in_child() -> None:
    # The lock belongs to the open file that both processes share. A child that kept it open, such as one of a process
    # pool, would hold the lock after its parent's death, and nobody would deliver the parent's rows.
    for file in list(_OPEN):
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1
    _OPEN.clear()


@lru_cache(maxsize=1)
def _watch_forks() -> None:
    # Not when this module is imported: the sandbox of workflows imports modules again and again.
    os.register_at_fork(after_in_child=_let_go_in_child)


class Spool:
    """Rows that are not in the book yet: in files, or in memory where no file can be written.

    Any thread adds. One thread takes and commits. At most `held` rows wait. More are dropped and counted.
    """

    def __init__(self, folder: Path, held: int) -> None:
        self._folder = folder
        self._held = held
        self._lock = threading.Lock()
        self._files: list[RowFile] = []
        self._memory: deque[bytes] = deque()
        self._taken: tuple[RowFile | None, int, int] = (None, 0, 0)
        self._closed = False
        self.waiting = 0
        self.dropped = 0
        self.torn = 0
        """Half lines that were found."""
        self.trouble: str | None = None
        """Why rows are kept in memory only."""
        self._new_file()

    @property
    def path(self) -> Path:
        return self._files[-1].path if self._files else self._folder

    @property
    def in_memory(self) -> bool:
        """Whether rows wait that are in no file."""
        return bool(self._memory)

    def add(self, line: bytes) -> None:
        """Take one row: a line with its end. Never raises OSError, never waits for the database."""
        with self._lock:
            if self._closed:
                return
            if self.waiting >= self._held:
                self.dropped += 1
                return
            self.waiting += 1
            if not (self._files and self._written(self._files[-1], line)):
                self._memory.append(line.rstrip())

    def _written(self, file: RowFile, line: bytes) -> bool:
        # After a half line a new one is begun. Otherwise the next row would be lost with it.
        data = b"\n" + line if file.torn else line
        try:
            written = os.write(file.fd, data)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return False
        file.size += written
        file.torn = written != len(data)
        return not file.torn

    def take(self) -> list[bytes]:
        """The oldest rows that wait, a good many at a time. They wait until `commit`. Empty: nothing waits."""
        while self._files:
            file = self._files[0]
            try:
                found, end = file.lines()
            except OSError as error:
                self.trouble = error.strerror or str(error)
                found, end = [], file.read
            rows = whole(found)
            self.torn += len(found) - len(rows)
            self._taken = (file, end, len(rows))
            if rows:
                return rows
            if end > file.read:
                self.commit()
            elif file is self._files[-1]:
                break
            else:
                self._drop_first()
        rows = list(self._memory)[:1000]
        self._taken = (None, len(rows), len(rows))
        return rows

    def commit(self) -> None:
        """What was taken last is in the book."""
        file, end, rows = self._taken
        with self._lock:
            self.waiting = max(0, self.waiting - rows)
            if file is None:
                for _ in range(end):
                    self._memory.popleft()
                return
            file.read = end
            if file.read == file.size and file.size >= TRUNCATED_FROM:
                os.ftruncate(file.fd, 0)
                file.size = file.read = 0
                return
        if file is self._files[-1] and file.size >= ROTATED_FROM:
            self._new_file()

    def _drop_first(self) -> None:
        with self._lock:
            file = self._files.pop(0)
        file.close(remove=True)

    def _new_file(self) -> None:
        try:
            file = RowFile.made(self._folder)
        except OSError as error:
            self.trouble = error.strerror or str(error)
            return
        with self._lock:
            self._files.append(file)

    def close(self) -> tuple[int, int]:
        """Take no more rows. Returns how many are left in files, for whoever runs next, and how many are lost."""
        with self._lock:
            self._closed = True
            lost = len(self._memory)
            left = max(0, self.waiting - lost)
            for file in self._files:
                file.close(remove=file.read >= file.size)
            self._files.clear()
            self._memory.clear()
        return left, lost


def whole(lines: list[bytes]) -> list[bytes]:
    """The lines that are rows; not the half ones."""
    return [line for line in lines if line.startswith(b'{"n":') and line.endswith(b"}")]


def left_behind(folder: Path) -> Iterator[RowFile]:
    """The files of processes that are gone, locked for the caller, who closes them."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        if file := RowFile.left(path):
            yield file


def forget_old(folder: Path, seconds: float) -> int:
    """Remove files without an owner to which nothing was added for so long. Returns how many."""
    found = 0
    for file in left_behind(folder):
        old = time.time() - os.fstat(file.fd).st_mtime > seconds
        found += old
        file.close(remove=old)
    return found

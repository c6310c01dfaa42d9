"""The file in which rows wait for the book."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from trellis.plugin.delivery import acquire, release
from trellis.plugin.spool import ROTATED_FROM, Spool, forget_old, left_behind
from trellis.plugin.where import Where


def row(number: int, text: str = "") -> bytes:
    return b'{"n":%d,"error":"%s"}\n' % (number, text.encode())


def drained(spool: Spool) -> list[bytes]:
    found = []
    while lines := spool.take():
        found += lines
        spool.commit()
    return [one + b"\n" for one in found]


def test_rows_come_out_in_order_and_leave_no_file(tmp_path: Path) -> None:
    """What was committed is not kept, and a file with nothing in it is removed."""
    spool = Spool(tmp_path, held=10)
    for number in range(5):
        spool.add(row(number))
    assert drained(spool) == [row(number) for number in range(5)]
    assert spool.waiting == 0
    assert spool.close() == (0, 0)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_were_taken_and_not_committed_come_again(tmp_path: Path) -> None:
    """A batch that the database refused is not lost."""
    spool = Spool(tmp_path, held=10)
    spool.add(row(1))
    assert spool.take() == spool.take() == [row(1).rstrip()]
    spool.add(row(2))
    assert len(drained(spool)) == 2
    spool.close()


def test_more_rows_than_may_be_held_are_dropped_and_counted(tmp_path: Path) -> None:
    """The oldest are kept; after a delivery there is room again."""
    spool = Spool(tmp_path, held=3)
    for number in range(5):
        spool.add(row(number))
    assert (spool.waiting, spool.dropped) == (3, 2)
    assert drained(spool) == [row(0), row(1), row(2)]
    spool.add(row(9))
    assert drained(spool) == [row(9)]
    spool.close()


def test_a_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    """It is truncated when all is delivered, and replaced if something always waits."""
    spool = Spool(tmp_path, held=10**6)
    for number in range(200):
        spool.add(row(number, "x" * 1000))
    drained(spool)
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]
    written = 0
    while written < ROTATED_FROM + 10**6:
        spool.add(row(1, "x" * 50_000))
        written += 50_000
    spool.take()
    spool.commit()
    assert len(list(tmp_path.iterdir())) == 2
    spool.add(row(7))
    assert drained(spool)[-1] == row(7)
    assert [path.stat().st_size < 100_000 for path in tmp_path.iterdir()] == [True]
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_half_a_line_is_ignored_and_harms_no_other(tmp_path: Path) -> None:
    """A full disk takes a part of a line. That row is kept in memory, and the next ones are written whole."""
    spool = Spool(tmp_path, held=10)
    spool.add(row(1))
    size = spool.path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # The limit of a file's size stands in for a full disk: the kernel writes what fits. Python ignores its signal.
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 6, before[1]))
        spool.add(row(2))
        spool.add(row(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    spool.add(row(4))
    assert sorted(drained(spool)) == [row(1), row(2), row(3), row(4)]
    assert spool.trouble
    assert spool.torn == 1
    spool.close()


def test_without_a_folder_rows_are_kept_in_memory(tmp_path: Path) -> None:
    """There is a reason in words, and nothing is raised."""
    (tmp_path / "file").write_text("not a folder")
    spool = Spool(tmp_path / "file" / "flights", held=10)
    spool.add(row(1))
    assert spool.trouble
    assert drained(spool) == [row(1)]
    spool.add(row(2))
    assert spool.close() == (0, 1)


def test_a_file_in_use_is_nobody_elses(tmp_path: Path) -> None:
    """Its owner holds a lock. What the owner leaves behind can be taken once."""
    spool = Spool(tmp_path, held=10)
    spool.add(row(1))
    assert list(left_behind(tmp_path)) == []
    assert spool.close() == (1, 0)
    [found] = left_behind(tmp_path)
    assert list(left_behind(tmp_path)) == []
    assert found.lines()[0] == [row(1).rstrip()]
    found.close(remove=True)
    assert list(tmp_path.iterdir()) == []


# With threads of other tests in this process, Python warns of every fork.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_files_that_nobody_delivered_for_long_are_removed(tmp_path: Path) -> None:
    """Not those in use, and not the younger ones."""
    old, young, used = (Spool(tmp_path, held=10) for _ in range(3))
    for spool in (old, young, used):
        spool.add(row(1))
    for spool in (old, used):
        os.utime(spool.path, (1, 1))
    kept = [young.path, used.path]
    old.close()
    young.close()
    assert forget_old(tmp_path, 3600) == 1
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    used.close()


async def test_a_worker_that_is_cancelled_twice_gives_thread_and_file_up(tmp_path: Path) -> None:
    """The database takes the connection and never answers, so the last rows cannot be written."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/book"
        delivery = acquire(Where(tmp_path, url), 10, 86_400)
        delivery.add(row(1))
        ending = asyncio.create_task(release(delivery))
        for _ in range(2):
            await asyncio.sleep(0.05)
            ending.cancel()
        with suppress(asyncio.CancelledError):
            await ending
        async with asyncio.timeout(60):
            while delivery._thread.is_alive():
                await asyncio.sleep(0.01)
    [left] = left_behind(delivery.where.folder)
    assert left.lines()[0] == [row(1).rstrip()]
    left.close(remove=True)


def test_a_child_process_keeps_no_file_alive(tmp_path: Path) -> None:
    """A forked child, as of a process pool, holds neither the file nor its lock: it could outlive its parent."""
    spool = Spool(tmp_path, held=10)
    spool.add(row(1))
    context = get_context("fork")
    asked, answer = context.Pipe()
    child = context.Process(target=_tell_and_wait, args=(answer,))
    child.start()
    asked.recv()
    try:
        assert [str(one) for one in _open_files(child.pid) if one.suffix == ".rows"] == []
        spool.close()
        assert len(list(left_behind(tmp_path))) == 1
    finally:
        asked.send("end")
        child.join(30)


def _tell_and_wait(answer: Connection) -> None:
    answer.send("runs")
    answer.recv()


def _open_files(pid: int | None) -> list[Path]:
    folder = Path(f"/proc/{pid}/fd")
    if not folder.is_dir():
        return []
    return [Path(os.readlink(one)) for one in folder.iterdir() if one.is_symlink()]

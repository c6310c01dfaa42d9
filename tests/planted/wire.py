"""A proxy before Postgres that reads the statements that pass, and holds one up or cuts its connection.

The wire of `trellis.chaos` loses answers to commits. These scenarios need one certain statement to be late or lost.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

CUT = float("inf")
Rule = Callable[[str, bytes], float]
"""Given a statement's SQL and its parameters as sent: how long to hold it up [s]; 0 to pass it on, CUT to cut."""


class StatementWire:
    """Listens on a Unix socket of its own while the block lasts. `address`: the database's URL through the proxy."""

    def __init__(self, url: str, rule: Rule) -> None:
        given = psycopg.conninfo.conninfo_to_dict(url)
        self._target = Path(str(given["host"])) / f".s.PGSQL.{given.get('port', 5432)}"
        self._folder = Path(tempfile.mkdtemp(prefix="wire-", dir=Path.cwd()))
        self.address = f"postgresql://{given['user']}@/{given['dbname']}?host={quote(str(self._folder))}"
        self._rule = rule
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> StatementWire:
        self._server = await asyncio.start_unix_server(self._take, self._folder / self._target.name)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _take(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            server, to_server = await asyncio.open_unix_connection(self._target)
            # The answers come back unread.
            back = asyncio.create_task(_copy(server, to_client))
            forth = asyncio.create_task(self._watch(client, to_server))
            try:
                await asyncio.wait({back, forth}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                back.cancel()
                forth.cancel()
                await asyncio.gather(back, forth, return_exceptions=True)
                to_server.close()
                to_client.close()
        finally:
            self._serving.discard(task)

    async def _watch(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        """Pass messages on one by one; returns when the client is gone or the rule cuts."""
        statements: dict[bytes, str] = {}
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            # The first message has no type: a startup, or a request to cancel.
            to_server.write(await _message(client, typed=False))
            while True:
                message = await _message(client, typed=True)
                if message[:1] == b"P":
                    name, sql = message[5:].split(b"\0", 2)[:2]
                    statements[name] = sql.decode("utf-8", "replace")
                elif message[:1] == b"B":
                    _, name, values = message[5:].split(b"\0", 2)
                    held = self._rule(statements.get(name, ""), values)
                    if held == CUT:
                        return
                    await asyncio.sleep(held)
                to_server.write(message)
                await to_server.drain()


async def _message(reader: asyncio.StreamReader, *, typed: bool) -> bytes:
    head = await reader.readexactly(5 if typed else 4)
    return head + await reader.readexactly(int.from_bytes(head[-4:]) - 4)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

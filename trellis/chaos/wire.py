"""A small proxy that stands between a client and its server, and that can be slow, cut, half-open, or lose an answer.

    async with Wire("127.0.0.1:7233") as wire:      # or the path of a server's Unix socket
        ... clients connect to wire.address ...
        wire.mode = slow(0.2)          # every chunk arrives 0.2 s later, in both directions
        wire.mode = CUT                # ends all connections, and each new one at once
        wire.mode = HALF_OPEN          # takes connections and bytes, passes nothing on, answers nothing
        wire.mode = lose_answers(3)    # each third answer is lost, and its connection ends: the server did the work
        wire.mode = PASS               # as if there were no proxy

A server's Unix socket gets a Unix socket in a folder that only we can enter: a port would open a database without a
password to everybody on the machine. A server's port gets a port of loopback. A wire counts what it did (`cuts`,
`refused`, `delayed`, `swallowed`, `lost`), so that a run can tell whether its fault landed.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from trellis.chaos.answers import Answers
from trellis.errors import BadInput

CHUNK = 64 * 1024
LONGEST_SOCKET_FOLDER = 85
"""A Unix socket's path has at most 103 bytes on macOS, its name included."""
ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: a close sends a reset, as a cut connection's next packet would get."""


@dataclass(frozen=True)
class Mode:
    """What a wire does. `seconds`: delay of each chunk. `every`: which share of the answers is lost, 1 of `every`."""

    kind: Literal["pass", "slow", "cut", "half-open", "lose-answers"]
    seconds: float = 0.0
    every: int = 1


PASS = Mode("pass")
CUT = Mode("cut")
HALF_OPEN = Mode("half-open")


def slow(seconds: float) -> Mode:
    """Each chunk arrives `seconds` later. Raises BadInput for a delay that is not positive."""
    if not 0 < seconds < float("inf"):
        raise BadInput(f"A slow wire needs a delay above 0 s, not {seconds:g}.")
    return Mode("slow", seconds=seconds)


def lose_answers(every: int = 1) -> Mode:
    """One in `every` answers is lost after the server did the work, and its connection is cut.

    On a wire to Postgres only the answer to a commit that wrote counts; on any other wire, what its `Answers` finds.
    """
    if every < 1:
        raise BadInput(f"A wire can lose one in 1, 2, 3 ... answers, not one in {every}.")
    return Mode("lose-answers", every=every)


class Wire:
    """A proxy to `target`: `host:port`, or the path of a Unix socket. Use it as an async context manager.

    answers: makes one reader of the protocol for each connection; it says where an answer ends. Without it no answer
        can be lost.
    """

    def __init__(self, target: str | Path, *, answers: Callable[[], Answers] | None = None) -> None:
        self.target = target
        self.cuts = 0
        """Connections that were ended before their time."""
        self.refused = 0
        """Connections that came while the wire was cut or half-open, and that reached no server."""
        self.delayed = 0
        """Chunks that arrived late."""
        self.swallowed = 0
        """Chunks that never arrived."""
        self.lost = 0
        """Answers that were lost after the server did the work."""
        self._answers = answers
        self._due = 0
        self._mode = PASS
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._folder: Path | None = None

    async def __aenter__(self) -> Self:
        if isinstance(self.target, Path):
            self._folder = _private_folder()
            self._server = await asyncio.start_unix_server(self._take, self._folder / self.target.name)
        else:
            self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for link in tuple(self._links):
            link.abort()
        for task in tuple(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Where clients connect: `127.0.0.1:port`, or the folder of the Unix socket, as libpq's `host` takes it."""
        if self._folder is not None:
            return str(self._folder)
        if self._server is None:
            raise RuntimeError("The wire is not open.")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def connections(self) -> int:
        return len(self._links)

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        if mode.kind == "lose-answers" and self._answers is None:
            raise BadInput("This wire cannot tell where an answer ends, so it cannot lose one.")
        self._mode = mode
        for link in tuple(self._links):
            # A connection that lost bytes cannot go on: both ends would read garbage. A middlebox that forgot a
            # connection answers its next packet with a reset, too.
            if mode.kind == "cut" or (link.lost_bytes and mode.kind != "half-open"):
                self.cuts += 1
                link.abort()

    def loses_this(self) -> bool:
        """Called at the end of each answer: whether it is to be lost."""
        if self._mode.kind != "lose-answers":
            return False
        self._due += 1
        if self._due % self._mode.every:
            return False
        self.lost += 1
        self.cuts += 1
        return True

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # The wire closes, or the loop ends. asyncio logs a traceback for a connection whose task is cancelled.
            pass
        finally:
            self._serving.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode.kind == "cut":
            # The listener stays open: a closed one would give its port to the next program that asks for one.
            self.refused += 1
            _abort(writer)
            return
        link = _Link(self, self._answers() if self._answers else None, writer)
        self._links.add(link)
        try:
            if self._mode.kind == "half-open":
                self.refused += 1
                await link.swallow(reader)
            else:
                await link.carry(reader, writer)
        except OSError:
            link.abort()  # One end is gone, or the server does not run. The other end sees that, too.
        finally:
            self._links.discard(link)
            link.close()

    async def to_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        host, _, port = self.target.rpartition(":")
        return await asyncio.open_connection(host, int(port))


class _Link:
    """One client's connection and its connection to the server."""

    def __init__(self, wire: Wire, answers: Answers | None, client: asyncio.StreamWriter) -> None:
        self.lost_bytes = False
        self._wire = wire
        self._answers = answers
        self._ends = [client]
        self._pumps: list[asyncio.Task[None]] = []

    def abort(self) -> None:
        """End both connections at once; what is on its way is lost."""
        for writer in self._ends:
            _abort(writer)
        for pump in self._pumps:
            pump.cancel()

    def close(self) -> None:
        for writer in self._ends:
            writer.close()

    async def swallow(self, reader: asyncio.StreamReader) -> None:
        """Take what comes, and answer nothing, until the connection ends."""
        self.lost_bytes = True
        while await reader.read(CHUNK):
            self._wire.swallowed += 1

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry both directions until both have ended, or until one end is gone. Raises OSError."""
        from_server, to_server = await self._wire.to_server()
        self._ends.append(to_server)
        self._pumps = [
            asyncio.create_task(self._pump(reader, to_server, self._asked)),
            asyncio.create_task(self._pump(from_server, writer, self._answered)),
        ]
        try:
            done, _ = await asyncio.wait(self._pumps, return_when=asyncio.FIRST_EXCEPTION)
            for pump in done:
                if not pump.cancelled():
                    pump.result()
        finally:
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    def _asked(self, data: bytes) -> bytes | None:
        if self._answers is not None:
            self._answers.asked(data)
        return data

    def _answered(self, data: bytes) -> bytes | None:
        if self._answers is None:
            return data
        passed = b""
        for part, ends_answer in self._answers.answered(data):
            if ends_answer and self._wire.loses_this():
                return None
            passed += part
        return passed

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, filtered: Callable[[bytes], bytes | None]
    ) -> None:
        """Carry chunks in their order, each at its time, until this direction ends. Raises OSError."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(maxsize=64)

        async def read() -> None:
            data: bytes | OSError = b"more"
            while data and not isinstance(data, OSError):
                try:
                    data = await reader.read(CHUNK)
                except OSError as error:
                    data = error
                await waiting.put((loop.time() + self._wire.mode.seconds, data))

        reading = asyncio.create_task(read())
        try:
            while True:
                due, data = await waiting.get()
                if due > loop.time():
                    self._wire.delayed += 1
                    await asyncio.sleep(due - loop.time())
                if self._wire.mode.kind == "half-open":
                    # The other end hears of nothing, not even of a close.
                    self.lost_bytes = True
                    self._wire.swallowed += 1
                    if not data or isinstance(data, OSError):
                        await loop.create_future()
                elif isinstance(data, OSError):
                    raise data
                elif not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                else:
                    passed = filtered(data)
                    if passed is None:
                        raise ConnectionAbortedError
                    writer.write(passed)
                    await writer.drain()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def _abort(writer: asyncio.StreamWriter) -> None:
    found = writer.get_extra_info("socket")
    if found is not None and found.family != socket.AF_UNIX:
        with suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    writer.transport.abort()


def _private_folder() -> Path:
    """A new folder that only we can enter, with a name short enough for a socket."""
    base = tempfile.gettempdir()
    made = tempfile.mkdtemp(prefix="trellis-wire-", dir=base if len(base) < LONGEST_SOCKET_FOLDER - 30 else "/tmp")
    return Path(made)

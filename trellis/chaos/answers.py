"""Where an answer ends, read from the bytes of a connection: a commit of Postgres, an answer of Temporal.

A wire asks this, so that it can lose exactly the answer to work that the server has done.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterator
from typing import Protocol

_KEYWORDS = r"\binsert\s+into\b|(?<!for )\bupdate\s+[\w.]+|\bdelete\s+from\b|\bmerge\s+into\b|\btruncate\b"
_SSL, _GSS = 80877103, 80877104
_RELEASED = frozenset(b"GHWAN")
"""Messages that a client acts on before its answer is whole: the three of COPY, notifications, notices."""


class Answers(Protocol):
    """One connection. It sees every byte of both directions, from the first one."""

    def asked(self, data: bytes) -> None:
        """The next bytes from the client."""

    def answered(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The next bytes from the server, in parts: what may be passed on, and whether it ends an answer that counts.

        A part that ends such an answer holds the whole answer. So a caller that drops it drops all of it.
        """


class PostgresCommits:
    """Finds the answers to commits that wrote: of a transaction's COMMIT, or of a statement on its own.

    writers: names of functions that write. A statement writes if it says so, or if it calls one of them.
    Frontend/backend protocol 3: https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self, writers: Collection[str] = ()) -> None:
        names = "|".join(rf"\b{re.escape(name)}\s*\(" for name in sorted(writers))
        self._writes = re.compile("|".join(filter(None, [_KEYWORDS, names])), re.IGNORECASE)
        self._from_client = bytearray()
        self._from_server = bytearray()
        self._held = bytearray()
        self._greeted = False
        self._begun = False
        self._single_bytes = 0
        self._statements: dict[bytes, bool] = {}
        self._bound = False
        self._exchanges: deque[bool] = deque()
        self._transaction_wrote = False
        self._failed = False

    def asked(self, data: bytes) -> None:
        self._from_client += data
        while (message := self._next_from_client()) is not None:
            kind, body = message
            if kind == b"Q":
                self._exchanges.append(self._says_write(body))
            elif kind == b"P":
                name, text = body.split(b"\0", 2)[:2]
                self._statements[name] = self._says_write(text)
            elif kind == b"B":
                self._bound |= self._statements.get(body.split(b"\0", 2)[1], False)
            elif kind == b"S":
                self._exchanges.append(self._bound)
                self._bound = False

    def _says_write(self, text: bytes) -> bool:
        return self._writes.search(text.decode("utf-8", "replace")) is not None

    def _next_from_client(self) -> tuple[bytes, bytes] | None:
        while not self._greeted:
            # The messages before the session begins have no kind: a length, then a code.
            whole = _taken(self._from_client, kind=False)
            if whole is None:
                return None
            if int.from_bytes(whole[4:8], "big") in (_SSL, _GSS):
                self._single_bytes += 1
            else:
                self._greeted = True
        whole = _taken(self._from_client)
        return None if whole is None else (whole[:1], whole[5:])

    def answered(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        while self._single_bytes and data:
            # The server answers the question for encryption with one byte that is no message.
            self._single_bytes -= 1
            yield data[:1], False
            data = data[1:]
        self._from_server += data
        while (whole := _taken(self._from_server)) is not None:
            self._held += whole
            kind, body = whole[:1], whole[5:]
            if kind == b"E" or (kind == b"C" and body.startswith(b"ROLLBACK")):
                self._failed = True
            committed = kind == b"Z" and self._is_ready(body)
            if committed or kind == b"Z" or kind[0] in _RELEASED or not self._may_commit():
                yield bytes(self._held), committed
                self._held.clear()

    def _may_commit(self) -> bool:
        return self._transaction_wrote or bool(self._exchanges and self._exchanges[0])

    def _is_ready(self, body: bytes) -> bool:
        """The server is ready for the next query; whether what it has just ended was a commit that wrote."""
        if not self._begun:
            # The first time it answers no question: the session begins.
            self._begun = True
            return False
        wrote = self._exchanges.popleft() if self._exchanges else False
        self._transaction_wrote |= wrote and not self._failed
        committed = body == b"I" and self._transaction_wrote and not self._failed
        if body == b"I":
            self._transaction_wrote = False
        self._failed = False
        return committed


def _taken(buffer: bytearray, *, kind: bool = True) -> bytes | None:
    """The next whole message, taken out of the buffer; None if it has not come yet."""
    start = 1 if kind else 0
    if len(buffer) < start + 4:
        return None
    size = start + int.from_bytes(buffer[start : start + 4], "big")
    if len(buffer) < size:
        return None
    whole = bytes(buffer[:size])
    del buffer[:size]
    return whole


class GrpcAnswers:
    """Finds the answers of a gRPC server: the first HEADERS frame of a stream.

    Temporal sends it when it has done what was asked, or when a long poll has found a task.
    HTTP/2 frames: RFC 9113, section 4.1.
    """

    HEADERS = 1
    END_STREAM = 1

    def __init__(self) -> None:
        self._from_server = bytearray()
        self._begun: set[int] = set()

    def asked(self, data: bytes) -> None:
        """An answer is found without its question."""

    def answered(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        self._from_server += data
        while len(self._from_server) >= 9:
            size = 9 + int.from_bytes(self._from_server[:3], "big")
            if len(self._from_server) < size:
                return
            frame = bytes(self._from_server[:size])
            del self._from_server[:size]
            stream = int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF
            first = frame[3] == self.HEADERS and stream not in self._begun
            if first:
                self._begun.add(stream)
            if frame[4] & self.END_STREAM:
                self._begun.discard(stream)  # A stream's number never returns.
            yield frame, first

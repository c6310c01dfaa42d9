"""Keeps warnings and errors of the background for a panel, because the engine has no cell that could show them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

KEPT = 100
LONGEST = 400


class LogKeeper(logging.Handler):
    """The last warnings and errors, newest first, as {id, at [ms], level, text, times}. A new one calls the listeners.

    A repeated line is counted and moves to the front. So a server that is away for an hour does not push out the other
    lines. Any thread may log, and any thread may read.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._number = 0
        self._keeping = threading.Lock()
        self.listeners: set[Callable[[], None]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        # The kernel's own libraries log, too. Their warnings do not concern the lab.
        return record.name.split(".")[0] in ("trellis", "temporalio", "psycopg", "asyncio")

    def emit(self, record: logging.LogRecord) -> None:
        self.add(record.levelname, _sentence(record), int(record.created * 1000))

    def add(self, level: str, text: str, at: int) -> None:
        with self._keeping:
            known = next((line for line in self._kept if line["text"] == text), None)
            if known is None:
                self._number += 1
                known = {"id": self._number, "level": level.lower(), "text": text, "times": 0}
            else:
                self._kept.remove(known)
            self._kept.appendleft({**known, "at": at, "times": known["times"] + 1})
        for listener in list(self.listeners):
            listener()

    def clear(self) -> None:
        with self._keeping:
            self._kept.clear()

    def __repr__(self) -> str:
        return "\n".join(f"{line['level']}: {line['text']}" for line in self) or "Nothing went wrong in the background."

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self._keeping:
            return iter(list(self._kept))


def _sentence(record: logging.LogRecord) -> str:
    if isinstance(record.msg, dict):
        # An event of structlog that is not rendered yet.
        event = record.msg
        rest = ", ".join(str(event[key]) for key in ("order_id", "error") if event.get(key))
        text = f"{event.get('event', '')}" + (f" ({rest})" if rest else "")
    else:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]}"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"

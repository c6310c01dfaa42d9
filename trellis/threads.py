"""Blocking work in a thread of its own: a notebook's kernel already runs an event loop in the thread of its cells."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_a_thread(work: Callable[[], T], name: str) -> Future[T]:
    """Start `work` in a new thread, which does not keep the process alive. The future has its result or its error."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future

"""Log lines of the plugin, each kind once: the user's log must not fill with our troubles."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger("trellis.plugin")


class Saying:
    def __init__(self) -> None:
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def once(self, kind: str, text: str, level: int = logging.WARNING) -> None:
        """Say it, unless something of this kind was said since it was last `over`."""
        with self._lock:
            if kind in self._said:
                return
            self._said.add(kind)
        log.log(level, "%s", text)

    def over(self, kind: str) -> bool:
        """Whether something of this kind was said. If it comes again, it is said again."""
        with self._lock:
            known = kind in self._said
            self._said.discard(kind)
        return known

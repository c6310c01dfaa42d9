"""Where the retries of a worker wait for their turn: a governor with the event loop's clock and timers."""

from __future__ import annotations

import asyncio
from functools import lru_cache

from trellis.governor import Governor
from trellis.retry import Retry


class Gate:
    """The governor of one step in this worker. All orders of the worker with the same limits share it."""

    def __init__(self, governor: Governor) -> None:
        self.governor = governor
        self._timer: asyncio.TimerHandle | None = None

    def first(self) -> None:
        """A first call begins. It never waits."""
        self.governor.first(_now())

    async def turn(self) -> None:
        """Return when a retry may begin."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go() -> None:
            if not ready.done():
                ready.set_result(None)

        turn = self.governor.ask(_now(), go)
        if turn is None:
            return
        self._arm()
        try:
            await ready
        except asyncio.CancelledError:
            # Otherwise the place in line, or a turn that came at this moment, would be lost to the others.
            self.governor.leave(turn, _now())
            raise

    def pause(self, rule: Retry, failures: int, draw: float) -> float:
        return self.governor.pause(rule, failures, draw)

    def failed(self) -> None:
        self.governor.failed(_now())

    def succeeded(self, *, retried: bool = True) -> None:
        self.governor.succeeded(_now(), retried=retried)

    def _arm(self) -> None:
        # One timer for the whole line: a timer for each retry would wake them all each second, for nothing.
        at = self.governor.probe_at
        if self._timer is None and at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._probe)

    def _probe(self) -> None:
        self._timer = None
        self.governor.probe(_now())
        self._arm()


def _now() -> float:
    return asyncio.get_running_loop().time()


class Gates:
    """The gates of one worker process, by step and by what the rule limits."""

    def __init__(self) -> None:
        # Bounded, because anybody may send a policy of their own.
        self._gate = lru_cache(maxsize=256)(_gate)

    def of(self, step: str, rule: Retry) -> Gate | None:
        """None if the rule limits nothing."""
        if not rule.governed:
            return None
        return self._gate(step, rule.retry_share, rule.slow_after, rule.slow_backoff)


def _gate(step: str, retry_share: float | None, slow_after: int, slow_backoff: float) -> Gate:
    return Gate(Governor(Retry(retry_share=retry_share, slow_after=slow_after, slow_backoff=slow_backoff)))

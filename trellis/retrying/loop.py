"""A loop of tries for any activity: a retry rule, hedged lanes, a heartbeat. It knows no ledger, no book and no faults.

Give it one call of an outside system, and it calls until a call succeeds:

    async with heartbeats():
        answer = await Retrying("greet", rule).run(lambda attempt: greet(name))

`on_missed` is called for each call without success. The same rule works with both placements. With ACTIVITY the loop
runs here. With SERVER each execution makes one call, and Temporal's retry policy does the rest. A rule with a retry
budget or a longer pause needs the worker's gate, which all activities of the step share (`trellis.retrying.gate`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from trellis.errors import ConfigError
from trellis.flights import ABANDONED, FAILED, TIMED_OUT
from trellis.retry import Placement, Retry
from trellis.retrying.gate import Gate

T = TypeVar("T")

BEAT_SECONDS = 0.5


class Stop(Exception):
    """Raised by a call that must not be tried again: the order is being undone, or the provider refused for good."""


@dataclass(frozen=True)
class Attempt:
    """One call of a lane: its number, from 1 in each activity execution, and when it began."""

    number: int
    lane: int = 0
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.monotonic)

    @property
    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.clock) * 1000


@dataclass(frozen=True)
class Miss:
    """How a call without success ended: `failed`, `timed out` or `abandoned`, and why. `type`: the error's, where the
    call raised one."""

    outcome: str
    error: str
    type: str | None = None


Missed = Callable[[Attempt, Miss], None]
"""Called once for each call without success."""


class TriesUsedUp(ApplicationError):
    """The last try of a lane failed. Temporal does not run the activity again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="TriesUsedUp", non_retryable=True, category=ApplicationErrorCategory.BENIGN)


def benign(message: str, type_: str, *, retry: bool = True) -> ApplicationError:
    """An expected failure: logged without a traceback."""
    return ApplicationError(message, type=type_, non_retryable=not retry, category=ApplicationErrorCategory.BENIGN)


@asynccontextmanager
async def heartbeats() -> AsyncIterator[None]:
    """Send heartbeats during the block."""
    beat = asyncio.create_task(beats())
    try:
        yield
    finally:
        beat.cancel()


async def beats() -> None:
    """Send heartbeats for ever."""
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        activity.heartbeat()


def _raised(failure: Exception) -> Miss:
    """The error of a call, with its type as Temporal names it."""
    named = failure.type if isinstance(failure, ApplicationError) else None
    return Miss(FAILED, str(failure) or type(failure).__name__, named or type(failure).__name__)


def _for_good(failure: BaseException) -> bool:
    """Whether a call must not be tried again, in any lane."""
    if isinstance(failure, ApplicationError):
        return failure.non_retryable and not isinstance(failure, TriesUsedUp)
    return isinstance(failure, Stop)


def _ignore(attempt: Attempt, miss: Miss) -> None:
    """The default of `on_missed`: do nothing."""


class Retrying(Generic[T]):
    """The calls of one activity execution. `what` names the work in messages; `draw` gives the jitter in [0, 1).

    `gate`: the worker's gate for this rule (`Gates.of`). Raises ConfigError if the rule needs one and there is none.
    """

    def __init__(
        self,
        what: str,
        retry: Retry,
        *,
        on_missed: Missed = _ignore,
        draw: Callable[[Attempt], float] = lambda attempt: random.random(),
        gate: Gate | None = None,
    ) -> None:
        if retry.governed and gate is None:
            # An activity's own gate would limit nothing: a retry budget is for all activities of the worker.
            raise ConfigError(f"The retry rule of {what} limits the worker's retries, and needs the worker's gate.")
        self._what = what
        self._retry = retry
        self._on_missed = on_missed
        self._draw = draw
        self._gate = gate
        self._reported: set[Attempt] = set()

    async def run(self, call: Callable[[Attempt], Awaitable[T]]) -> T:
        """The value of the first call that succeeds.

        Raises ApplicationError (BENIGN: failing is expected here) when tries are used up, and Stop as the call did.
        """
        if self._retry.placement is Placement.SERVER:
            return await self._one_execution(call)
        if self._retry.hedge == 1:
            return await self._lane(call, 0)
        return await self._first_of_lanes(call)

    async def _one_execution(self, call: Callable[[Attempt], Awaitable[T]]) -> T:
        """Placement server: one call. Temporal's own timeout ends it; here it is only reported."""
        attempt = Attempt(1)
        running = asyncio.ensure_future(call(attempt))
        try:
            done, _ = await asyncio.wait({running}, timeout=self._retry.try_timeout)
            if not done:
                # From now on the server counts this try as timed out and ignores its result.
                self._missed(attempt, Miss(TIMED_OUT, f"no answer in {self._retry.try_timeout:g} s"))
                # Wait until a heartbeat brings the server's cancellation. Ending earlier would turn the timeout into a
                # failure, which Temporal retries at another time.
                await asyncio.sleep(self._retry.try_timeout + 10)
                raise benign("timed out", "TimedOut")
            return await running
        except asyncio.CancelledError:
            if not running.done() or running.cancelled():
                self._missed(attempt, Miss(ABANDONED, "cancelled"))
            raise
        except (Stop, ApplicationError):
            raise
        except Exception as failure:
            miss = _raised(failure)
            self._missed(attempt, miss)
            raise benign(miss.error, type(failure).__name__) from None
        finally:
            running.cancel()

    async def _first_of_lanes(self, call: Callable[[Attempt], Awaitable[T]]) -> T:
        """Placement activity with a hedge: lanes side by side under one idempotency key; the first success wins."""
        lanes = {asyncio.create_task(self._lane(call, lane)) for lane in range(self._retry.hedge)}
        try:
            last: BaseException | None = None
            while lanes:
                done, lanes = await asyncio.wait(lanes, return_when=asyncio.FIRST_COMPLETED)
                for lane in done:
                    last = lane.exception()
                    if last is None:
                        return lane.result()
                    if _for_good(last):
                        raise last
            raise last or RuntimeError("a hedge without lanes")
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _lane(self, call: Callable[[Attempt], Awaitable[T]], lane: int) -> T:
        number = 0
        while True:
            number += 1
            await self._may_begin(number, lane)
            attempt = Attempt(number, lane)
            try:
                async with asyncio.timeout(self._retry.try_timeout) as limit:
                    value = await call(attempt)
                if self._gate is not None:
                    self._gate.succeeded(retried=number > 1 or lane > 0)
                return value
            except TimeoutError as failure:
                # The call may have a shorter time limit of its own.
                miss = _raised(failure)
                if limit.expired():
                    miss = Miss(TIMED_OUT, f"no answer in {self._retry.try_timeout:g} s")
                self._missed(attempt, miss)
            except asyncio.CancelledError:
                why = "another lane was first" if self._retry.hedge > 1 else "cancelled"
                self._missed(attempt, Miss(ABANDONED, why))
                raise
            except Stop:
                raise
            except Exception as failure:
                # Any exception of an outside call is a failed try, as it is for Temporal's own retries.
                miss = _raised(failure)
                self._missed(attempt, miss)
                if _for_good(failure):
                    raise
            if self._gate is not None:
                self._gate.failed()
            if self._retry.max_tries and number >= self._retry.max_tries:
                raise TriesUsedUp(f"{self._what} failed {number} times, last: {miss.error}")
            await asyncio.sleep(self._pause(number, self._draw(attempt)))

    async def _may_begin(self, number: int, lane: int) -> None:
        """Under a retry budget only the first call of the first lane is free. A further lane is more load too."""
        if self._gate is None:
            return
        if number == 1 and lane == 0:
            self._gate.first()
        else:
            await self._gate.turn()

    def _pause(self, failures: int, draw: float) -> float:
        if self._gate is not None:
            return self._gate.pause(self._retry, failures, draw)
        return self._retry.backoff(failures, draw)

    def _missed(self, attempt: Attempt, miss: Miss) -> None:
        # A call that timed out may be cancelled afterwards. Only the first is reported.
        if attempt not in self._reported:
            self._reported.add(attempt)
            self._on_missed(attempt, miss)

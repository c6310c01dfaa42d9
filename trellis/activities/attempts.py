"""How one step is tried: where its retries live, what each try leaves behind, and who wins a hedge.

A step hands in `call`, one try of its outside work. Around it stand the clock, the loop or Temporal's retry,
the heartbeat and the log of tries. `call` never sees any of them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from trellis.db.ledger import Ledger
from trellis.db.provider import ProviderRefused
from trellis.db.tries import FailedTry, Tried
from trellis.faults import FlakyCall, InjectedError
from trellis.model import EventType, TryId
from trellis.policies import Placement, Retry

BEAT_SECONDS = 0.5


class Stop(Exception):
    """This step must not be tried again: the order is being undone, or the provider refused for good."""


class Tries:
    """The tries of one activity execution, and their log."""

    def __init__(self, ledger: Ledger, flaky: FlakyCall, order_id: str, step: str, round_: int, retry: Retry) -> None:
        info = activity.info()
        self._ledger = ledger
        self._flaky = flaky
        self._order_id = order_id
        self._step = step
        self._round = round_
        self._retry = retry
        self._execution = info.attempt
        self._worker = worker_name()
        self._unsaved: list[FailedTry] = []
        self._saver: asyncio.Task[None] | None = None
        self._noted: set[TryId] = set()

    async def succeed(self, call: Callable[[], Awaitable[object]]) -> tuple[object, Tried]:
        """Try until a try succeeds, as the retry rule says; return its value and the try.

        Raises ApplicationError (BENIGN: failing is expected here) when tries are used up, non-retryable after Stop.
        """
        beat = asyncio.create_task(_heartbeat())
        try:
            try:
                if self._retry.placement is Placement.SERVER:
                    return await self._one_execution(call)
                return await self._race(call)
            finally:
                # The log of tries comes before the step's own event, or attempt numbers would be out of order.
                await self._flush()
        except Stop as stop:
            raise benign(str(stop), "Stopped", retry=False) from None
        except asyncio.CancelledError:
            # Given up by the order, timed out on the server, or the worker is leaving: expected here, and only
            # the last of the three is tried again.
            raise benign("abandoned", "Abandoned") from None
        finally:
            beat.cancel()

    async def _one_execution(self, call: Callable[[], Awaitable[object]]) -> tuple[object, Tried]:
        """Placement server: one try. Temporal's own timeout ends it; here it is only written down."""
        running = asyncio.ensure_future(self._one_try(call, self._id(1, 0)))
        id_, started, clock = self._id(1, 0), datetime.now(UTC), time.monotonic()
        try:
            done, _ = await asyncio.wait({running}, timeout=self._retry.try_timeout)
            if not done:
                # From here on the server has this try timed out; its result would be thrown away.
                error = f"no answer in {self._retry.try_timeout:g} s"
                self._note(id_, started, clock, EventType.ATTEMPT_TIMED_OUT, error)
                # Hold on until the server says so by way of the heartbeat: ending earlier would turn a timeout
                # into a failure, which Temporal retries at another time.
                await asyncio.sleep(self._retry.try_timeout + 10)
                raise benign("timed out", "TimedOut")
            return await running
        except asyncio.CancelledError:
            if not running.done() or running.cancelled():
                self._note(id_, started, clock, EventType.ATTEMPT_ABANDONED, "cancelled")
            raise
        except (Stop, ApplicationError):
            raise
        except Exception as failure:
            error = str(failure) or type(failure).__name__
            self._note(id_, started, clock, EventType.ATTEMPT_FAILED, error)
            raise benign(error, type(failure).__name__) from None
        finally:
            running.cancel()

    async def _race(self, call: Callable[[], Awaitable[object]]) -> tuple[object, Tried]:
        """Placement activity: one lane, or several that race under one idempotency key."""
        if self._retry.hedge == 1:
            return await self._lane(call, 0)
        lanes = {asyncio.create_task(self._lane(call, lane)) for lane in range(self._retry.hedge)}
        try:
            last: BaseException | None = None
            while lanes:
                done, lanes = await asyncio.wait(lanes, return_when=asyncio.FIRST_COMPLETED)
                for lane in done:
                    last = lane.exception()
                    if last is None:
                        return lane.result()
                    if isinstance(last, Stop):
                        raise last
            raise last or RuntimeError("a race without lanes")
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _lane(self, call: Callable[[], Awaitable[object]], lane: int) -> tuple[object, Tried]:
        number = 0
        while True:
            number += 1
            id_, started, clock = self._id(number, lane), datetime.now(UTC), time.monotonic()
            try:
                async with asyncio.timeout(self._retry.try_timeout):
                    return await self._one_try(call, id_)
            except TimeoutError:
                error = f"no answer in {self._retry.try_timeout:g} s"
                self._note(id_, started, clock, EventType.ATTEMPT_TIMED_OUT, error)
            except asyncio.CancelledError:
                why = "another lane was first" if self._retry.hedge > 1 else "cancelled"
                self._note(id_, started, clock, EventType.ATTEMPT_ABANDONED, why)
                raise
            except Stop:
                raise
            except Exception as failure:
                # Whatever an outside call raises is a failed try: the loop stands where Temporal's retry would.
                error = str(failure) or type(failure).__name__
                self._note(id_, started, clock, EventType.ATTEMPT_FAILED, error)
            if self._retry.max_tries and number >= self._retry.max_tries:
                raise benign(f"{self._step} failed {number} times, last: {error}", "TriesUsedUp", retry=False)
            await asyncio.sleep(self._retry.backoff(number, self._flaky.current.plan.draw(id_, "jitter")))

    async def _one_try(self, call: Callable[[], Awaitable[object]], id_: TryId) -> tuple[object, Tried]:
        force = self._flaky.current
        started, clock = datetime.now(UTC), time.monotonic()
        lose_reply = await self._flaky(force.plan, id_)
        try:
            value = await call()
        except ProviderRefused as refused:
            raise Stop(str(refused)) from None
        if lose_reply:
            raise InjectedError(f"the reply of {self._step} was lost on purpose")
        return value, Tried(id_, started, (time.monotonic() - clock) * 1000, self._worker, force.version)

    def _id(self, number: int, lane: int) -> TryId:
        return TryId(self._order_id, self._step, self._round, self._execution, number, lane)

    def _note(self, id_: TryId, started: datetime, clock: float, type_: EventType, error: str) -> None:
        """Write a try down, once, without holding up the next one."""
        if id_ in self._noted:
            return
        self._noted.add(id_)
        tried = Tried(id_, started, (time.monotonic() - clock) * 1000, self._worker, self._flaky.current.version)
        self._unsaved.append(FailedTry(tried, type_, error))
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save())
            # The flush below meets the same trouble and reports it; here it must only not go unretrieved.
            self._saver.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _save(self) -> None:
        # One at a time and in order, so that the attempt numbers people see follow the tries.
        while self._unsaved:
            await self._ledger.add_failed_try(self._unsaved[0])
            self._unsaved.pop(0)

    async def _flush(self) -> None:
        if self._saver is not None:
            await asyncio.wait({self._saver})
        # An execution whose tries cannot be written fails, and Temporal runs it again.
        await self._save()


def benign(message: str, type_: str, *, retry: bool = True) -> ApplicationError:
    """An expected failure: logged without a traceback."""
    return ApplicationError(message, type=type_, non_retryable=not retry, category=ApplicationErrorCategory.BENIGN)


async def _heartbeat() -> None:
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        activity.heartbeat()


def worker_name() -> str:
    """Who runs this: the identity that Temporal's UI shows, kept short."""
    return f"worker-{os.getpid()}"

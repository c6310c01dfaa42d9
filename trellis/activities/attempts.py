"""The tries of one step. Each try makes the flaky call first; tries without success are written to the ledger.

A step passes in `call`, one try of its outside work. It never sees the flaky call, the loop or the ledger's log.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from temporalio import activity

from trellis.db.ledger import Ledger
from trellis.db.provider import ProviderRefused
from trellis.db.tries import FailedTry, Tried
from trellis.faults import InjectedError
from trellis.flaky import FlakyCall, Marks
from trellis.flights import ABANDONED, FAILED, TIMED_OUT
from trellis.model import EventType, TryId
from trellis.policies import Retry
from trellis.retrying.gate import Gate
from trellis.retrying.loop import Attempt, Miss, Retrying, Stop, benign, heartbeats

_EVENTS = {
    FAILED: EventType.ATTEMPT_FAILED, TIMED_OUT: EventType.ATTEMPT_TIMED_OUT, ABANDONED: EventType.ATTEMPT_ABANDONED,
}  # fmt: skip


class Tries:
    """The tries of one activity execution, and their log."""

    def __init__(
        self, ledger: Ledger, flaky: FlakyCall, order_id: str, step: str, round_: int, retry: Retry, gate: Gate | None
    ) -> None:
        self._ledger = ledger
        self._flaky = flaky
        self._order_id = order_id
        self._step = step
        self._round = round_
        self._retry = retry
        self._gate = gate
        self._marks: dict[Attempt, Marks] = {}
        self._execution = activity.info().attempt
        self._worker = worker_name()
        self._unsaved: list[FailedTry] = []
        self._saver: asyncio.Task[None] | None = None

    async def succeed(self, call: Callable[[], Awaitable[object]]) -> tuple[object, Tried]:
        """Repeat `call` as the retry rule says until it succeeds. Returns its value and the try.

        Raises ApplicationError (BENIGN: failing is expected here) when tries are used up, non-retryable after Stop.
        """
        loop: Retrying[tuple[object, Tried]] = Retrying(
            self._step, self._retry, on_missed=self._note, draw=self._jitter, gate=self._gate
        )
        async with expected_ends():
            try:
                return await loop.run(lambda attempt: self._one_try(call, attempt))
            finally:
                # Failed tries are written before the step's own event, or attempt numbers would be out of order.
                await self._flush()

    async def _one_try(self, call: Callable[[], Awaitable[object]], attempt: Attempt) -> tuple[object, Tried]:
        force = self._flaky.current
        id_ = self._id(attempt)
        # Kept here and not returned: a call that is cut off returns nothing, and its marks are wanted all the same.
        marks = self._marks[attempt] = Marks()
        lose_reply = await self._flaky(force, id_, marks)
        try:
            value = await call()
        except ProviderRefused as refused:
            raise Stop(str(refused)) from None
        if lose_reply:
            raise InjectedError(f"the reply of {self._step} was lost on purpose")
        return value, self._tried(attempt, force.version, marks)

    def _tried(self, attempt: Attempt, version: int, marks: Marks) -> Tried:
        return Tried(self._id(attempt), attempt.started_at, attempt.elapsed_ms, self._worker, version, marks.payload())

    def _id(self, attempt: Attempt) -> TryId:
        return TryId(self._order_id, self._step, self._round, self._execution, attempt.number, attempt.lane)

    def _jitter(self, attempt: Attempt) -> float:
        return self._flaky.current.plan.draw(self._id(attempt), "jitter")

    def _note(self, attempt: Attempt, miss: Miss) -> None:
        """Write a try down without holding up the next one."""
        tried = self._tried(attempt, self._flaky.current.version, self._marks.pop(attempt, Marks()))
        self._unsaved.append(FailedTry(tried, _EVENTS[miss.outcome], miss.error))
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save())
            # `_flush` meets the same error and raises it. Here it is only retrieved, or asyncio would warn of it.
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


@asynccontextmanager
async def expected_ends() -> AsyncIterator[None]:
    """Send heartbeats during the block. Stop and cancellation become failures that are expected (BENIGN)."""
    try:
        async with heartbeats():
            yield
    except Stop as stop:
        raise benign(str(stop), "Stopped", retry=False) from None
    except asyncio.CancelledError:
        # The order gave it up, the server timed it out, or the worker is shutting down. All three are expected, and
        # only the last is tried again.
        raise benign("abandoned", "Abandoned") from None


def worker_name() -> str:
    """The worker's identity as Temporal's UI shows it, kept short."""
    return f"worker-{os.getpid()}"

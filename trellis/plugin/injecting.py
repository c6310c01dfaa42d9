"""Injects faults: the innermost of the worker's interceptors, so that all others see a fault as the activity's own.

It runs on the worker's event loop for threaded and process activities too, before their function is handed to a thread
or a process. So a call that hangs holds its slot and no thread.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Any

from temporalio import activity
from temporalio.activity import Info
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.exceptions import CancelledError as TemporalCancelled
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from trellis.faults import InjectedError
from trellis.flaky import Marks, Pause
from trellis.model import TryId
from trellis.plugin.app import App
from trellis.plugin.current import CURRENT, FAULTS, LOOPS
from trellis.plugin.endings import hangs_at_most

LOOKED = 0.1
"""How often a call that waits looks whether it was cancelled [s]. Async activities are woken by the SDK, others not."""

LOCAL_TIMERS = 0.5
"""How long after its deadline a local attempt that hangs is given up, if nothing cancelled it [s]."""


class Injecting(Interceptor):
    def __init__(self, app: App) -> None:
        self.app = app

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _Inbound(next, self.app)


class _Inbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, app: App) -> None:
        super().__init__(next)
        self.app = app

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        if getattr(input.fn, LOOPS, False):
            FAULTS.set(partial(self._of_try, info))
            return await self.next.execute_activity(input)
        marks = Marks()
        if (attempt := CURRENT.get()) is not None:
            attempt.marks = marks
        lost = await self._injected(info, try_of(info), marks, _Pause(info, woken=input.executor is None))
        result = await self.next.execute_activity(input)
        if lost is not None:
            raise lost
        return result

    async def _of_try(self, info: Info, number: int, lane: int, marks: Marks) -> ApplicationError | None:
        # The loop itself ends a try that hangs.
        return await self._injected(info, try_of(info, number, lane), marks, asyncio.sleep)

    async def _injected(self, info: Info, call: TryId, marks: Marks, pause: Pause) -> ApplicationError | None:
        """Fail, hang or pass, as the plan says. An error that is returned must be raised after the call was made."""
        try:
            plan = self.app.call(info.workflow_type or "")
            if plan is None:
                return None
            force, flaky = plan
            if await flaky(force, call, marks, pause):
                return _failure(f"the reply of {info.activity_type} was lost on purpose")
            return None
        except InjectedError as error:
            raise _failure(str(error)) from None
        except (asyncio.CancelledError, TemporalCancelled, ApplicationError):
            raise
        except Exception as error:
            self.app.trouble(error)
            return None


def try_of(info: Info, number: int = 1, lane: int = 0) -> TryId:
    """What the luck of a call depends on, besides the plan: workflow id, activity id, type and attempt, and lane and
    number of a try that a loop makes inside the attempt.

    Never on the run or the time: another run with the same ids has the same luck.
    """
    return TryId(f"{info.workflow_id or ''}\x1f{info.activity_id}", info.activity_type, 1, info.attempt, number, lane)


class _Pause:
    """Waits in an attempt's place, until it is cancelled at the latest, or until the server gives the attempt up."""

    def __init__(self, info: Info, *, woken: bool) -> None:
        self._info = info
        self._woken = woken
        self._began = time.monotonic()

    async def __call__(self, seconds: float) -> None:
        most = hangs_at_most(self._info)
        if most is not None and self._info.is_local:
            # The worker's own timer ends a local attempt. An answer at the same moment could be quicker.
            most += LOCAL_TIMERS
        left = float("inf") if most is None else most - (time.monotonic() - self._began)
        await self._sleep(min(seconds, max(0.0, left)))
        if seconds >= left:
            self._give_up()

    async def _sleep(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            await asyncio.sleep(left if self._woken else min(left, LOOKED))
            if not self._woken and activity.cancellation_details() is not None:
                raise TemporalCancelled("Cancelled")

    def _give_up(self) -> None:
        """The attempt's time is over. The server says so by its own clock, as it does with every call that hangs."""
        if (attempt := CURRENT.get()) is not None:
            attempt.hung = True
        if self._info.is_local:
            raise _failure(f"{self._info.activity_type} hung on purpose")
        # Leaves the attempt without an answer, and frees the slot.
        activity.raise_complete_async()


def _failure(text: str) -> ApplicationError:
    # BENIGN: the SDK would log a traceback for each fault that was asked for.
    return ApplicationError(text, type=InjectedError.__name__, category=ApplicationErrorCategory.BENIGN)

"""`replayed.Calls` as somebody changed it: most of these no longer fit its history."""

from __future__ import annotations

import time
from datetime import timedelta

from temporalio import workflow

_SOON = timedelta(seconds=10)


@workflow.defn(name="Calls")
class CallsInAnotherOrder:
    """Asks for the second activity first."""

    @workflow.run
    async def run(self, name: str) -> str:
        await workflow.execute_activity("bless", name, start_to_close_timeout=_SOON)
        return name


@workflow.defn(name="Calls")
class CallsAfterATimer:
    """Waits before the first activity."""

    @workflow.run
    async def run(self, name: str) -> str:
        await workflow.sleep(5)
        return str(await workflow.execute_activity("greet", name, start_to_close_timeout=_SOON, result_type=str))


@workflow.defn(name="Calls")
class CallsNothing:
    """Ends at once."""

    @workflow.run
    async def run(self, name: str) -> str:
        return name


@workflow.defn(name="Calls")
class CallsAndRaises:
    """Fails with an error that no workflow is meant to raise."""

    @workflow.run
    async def run(self, name: str) -> str:
        answer = await workflow.execute_activity("greet", name, start_to_close_timeout=_SOON, result_type=str)
        return str(int(answer))


@workflow.defn(name="Calls")
class CallsAnd:
    """Does nothing that the SDK sees for longer than its limit of 2 s."""

    @workflow.run
    async def run(self, name: str) -> str:
        answer: str = await workflow.execute_activity("greet", name, start_to_close_timeout=_SOON, result_type=str)
        # A replay without the sandbox: nothing stops this call.
        time.sleep(2.3)  # noqa: ASYNC251
        return answer


@workflow.defn(name="Calls")
class CallsForEver:
    """Never gives the thread back."""

    @workflow.run
    async def run(self, name: str) -> str:
        while True:
            pass

"""A bare workflow to compare with: seven activities that do nothing and one child; no updates, no upserts."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow


@activity.defn(name="nothing")
async def nothing(number: int) -> int:
    return number


async def _step(number: int) -> None:
    await workflow.execute_activity("nothing", number, start_to_close_timeout=timedelta(seconds=10))


@workflow.defn
class BareChild:
    @workflow.run
    async def run(self) -> None:
        for number in (4, 5):
            await _step(number)


@workflow.defn
class BareOrder:
    @workflow.run
    async def run(self, child_queue: str) -> None:
        for number in (1, 2, 3):
            await _step(number)
        await workflow.execute_child_workflow(
            "BareChild", id=f"{workflow.info().workflow_id}-child", task_queue=child_queue
        )
        for number in (6, 7):
            await _step(number)

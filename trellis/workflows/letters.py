"""A letter, in three builds of its worker. The second has a new step; the third has it under `workflow.patched`."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow


class _Letter:
    """Folded, sealed, held until it is posted (a signal), and carried."""

    def __init__(self) -> None:
        self._posted = False

    @workflow.signal
    def post(self) -> None:
        self._posted = True

    async def _until_posted(self) -> None:
        await workflow.wait_condition(lambda: self._posted)


async def _step(activity: str, text: str) -> str:
    done: str = await workflow.execute_activity(
        activity, text, result_type=str, start_to_close_timeout=timedelta(seconds=10)
    )
    return done


@workflow.defn(name="Letter")
class LetterOne(_Letter):
    @workflow.run
    async def run(self, text: str) -> str:
        text = await _step("fold", text)
        text = await _step("seal", text)
        await self._until_posted()
        return await _step("carry", text)


@workflow.defn(name="Letter")
class LetterTwo(_Letter):
    @workflow.run
    async def run(self, text: str) -> str:
        text = await _step("fold", text)
        text = await _step("weigh", text)
        text = await _step("seal", text)
        await self._until_posted()
        return await _step("carry", text)


@workflow.defn(name="Letter")
class LetterThree(_Letter):
    @workflow.run
    async def run(self, text: str) -> str:
        text = await _step("fold", text)
        if workflow.patched("letters are weighed"):
            text = await _step("weigh", text)
        text = await _step("seal", text)
        await self._until_posted()
        return await _step("carry", text)

"""A workflow that calls one activity after the other. Its history can have any length."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow


@workflow.defn
class Loop:
    """Its variables are small, and some change with every call: a sum, the last answers, and counts by kind."""

    def __init__(self) -> None:
        self.calls = 0
        self.sum = 0
        self.last: list[int] = []
        self.kinds = {"even": 0, "odd": 0}

    @workflow.run
    async def run(self, calls: int) -> int:
        for number in range(calls):
            self._note(await self._call(number))
        return self.sum

    async def _call(self, number: int) -> int:
        answer: int = await workflow.execute_activity(
            "call",
            {"number": number, "customer": "a customer", "items": ["book", "pen"]},
            start_to_close_timeout=timedelta(seconds=10),
            result_type=int,
        )
        return answer

    def _note(self, answer: int) -> None:
        self.calls += 1
        self.sum += answer
        self.last = [*self.last[-9:], answer]
        self.kinds["odd" if answer % 2 else "even"] += 1

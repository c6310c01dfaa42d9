"""Workflows that tell what they got: the type and the value of each argument, after the worker's converter read it."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from decimal import Decimal
    from uuid import UUID

    from tests.apps.words import Colour, Guest, Level, Visit


@workflow.defn
class TellPlain:
    @workflow.run
    async def run(
        self, visit: Visit, level: Level, key: UUID, words: dict[str, int], raw: bytes, maybe: int | None = None
    ) -> list[str]:  # fmt: skip
        return [f"{type(one).__name__} {one!r}" for one in (visit, level, key, words, raw, maybe)]


@workflow.defn
class TellModel:
    @workflow.run
    async def run(self, guest: Guest, colours: list[Colour], shares: set[Decimal]) -> list[str]:
        return [f"{type(one).__name__} {one!r}" for one in (guest, colours, shares)]

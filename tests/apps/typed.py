"""Workflows that tell what they got: the type and the value of each argument, after the worker's converter read it."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from uuid import UUID

from pydantic import BaseModel, Field
from temporalio import workflow

from tests.apps.trips import Leg


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Guest(BaseModel):
    name: str = Field(alias="fullName")
    until: datetime
    share: Decimal = Decimal("1.50")
    stay: timedelta = timedelta(days=2)
    colour: Colour = Colour.BLUE


@workflow.defn
class TellPlain:
    @workflow.run
    async def run(
        self, leg: Leg, level: Level, key: UUID, words: dict[str, int], raw: bytes, when: datetime,
        maybe: int | None = None,
    ) -> list[str]:  # fmt: skip
        return [f"{type(one).__name__} {one!r}" for one in (leg, level, key, words, raw, when, maybe)]


@workflow.defn
class TellModel:
    @workflow.run
    async def run(self, guest: Guest, colours: list[Colour], shares: set[Decimal]) -> list[str]:
        return [f"{type(one).__name__} {one!r}" for one in (guest, colours, shares)]

"""The types of `typed`. They are passed through the sandbox, as the SDK's documents advise for such types."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum

from pydantic import BaseModel, Field


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


@dataclass
class Visit:
    where: str
    at: datetime | None = None

"""Which workflows a query finds: the newest, or a sample of all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from temporalio.client import Client, WorkflowExecution

from trellis.errors import BadInput
from trellis.messages import as_queried

SAMPLE = 2000
"""Of more workflows than this, a random sample is read."""


@dataclass(frozen=True)
class Listed:
    """The workflows to read, newest first, and how many the query found."""

    chosen: list[WorkflowExecution]
    found: int

    @property
    def note(self) -> str | None:
        """What to say where not all of them are read."""
        if self.found <= len(self.chosen):
            return None
        return (
            f"The query found {self.found:,} workflows; a random sample of {len(self.chosen):,} of them was read. "
            f"Narrow the query, or raise sample=, to read more."
        )


def within(query: str, since: datetime | None, until: datetime | None) -> str:
    """The query, for workflows that started in [since, until). Raises BadInput for a time without a time zone."""
    for name, at in (("since", since), ("until", until)):
        if at is not None and at.tzinfo is None:
            raise BadInput(f"{name}= has no time zone: write it with one, for instance 2026-01-31T12:00:00Z.")
    bounds = [f"StartTime {sign} '{as_queried(at)}'" for sign, at in ((">=", since), ("<", until)) if at is not None]
    return " AND ".join([f"({query})", *bounds]) if bounds else query


async def listed(
    client: Client, query: str, *, limit: int | None, sample: int | None, seed: int, tick: Callable[[], None]
) -> Listed:
    """List what the query finds. Above `sample`, keep a random sample (reservoir, seeded) of all that is listed."""
    for name, number in (("limit", limit), ("sample", sample)):
        if number is not None and number < 1:
            raise BadInput(f"{name}= is a number of workflows: at least 1.")
    most = None if limit is not None else sample
    draw = random.Random(seed)
    kept: list[tuple[int, WorkflowExecution]] = []
    number = 0
    async for one in client.list_workflows(query, limit=limit):
        if most is None or number < most:
            kept.append((number, one))
        elif (place := draw.randrange(number + 1)) < most:
            kept[place] = (number, one)
        number += 1
        tick()
    kept.sort(key=lambda pair: pair[0])
    return Listed([one for _, one in kept], number)

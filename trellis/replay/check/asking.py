"""Which histories of a server a check reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import BadInput, TemporalUnavailable
from trellis.replay.errors import ReplayError
from trellis.replay.sources import fetched

AT_A_TIME = 16


@dataclass
class Read:
    """Histories, and what the reader of a report must know about how they were chosen."""

    histories: list[WorkflowHistory]
    notes: list[str] = field(default_factory=list)


def query_of(types: Sequence[str]) -> str:
    """The query that finds the workflows of these types."""
    if odd := [name for name in types if "'" in name or "\\" in name]:
        raise BadInput(f"The workflow type {odd[0]!r} cannot be asked for in a query: give --query or --histories.")
    return f"WorkflowType IN ({', '.join(repr(name) for name in types)})"


async def read(client: Client, query: str, *, most_open: int, most_closed: int, seed: int = 0) -> Read:
    """The histories of what a query finds: the open ones and the closed ones, of each a random sample beyond the bound.

    Raises BadInput for a query that the server does not understand, TemporalUnavailable.
    """
    draw = random.Random(seed)
    open_, closed = _Sample(most_open, draw), _Sample(most_closed, draw)
    try:
        async for one in client.list_workflows(query):
            (open_ if one.status is WorkflowExecutionStatus.RUNNING else closed).add(one)
    except RPCError as error:
        why = " ".join(error.message.split())[:200]
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            raise BadInput(f"The server does not understand the query {query!r} ({why}).") from None
        raise TemporalUnavailable(f"Temporal does not list the workflows ({why}).") from None
    gate = asyncio.Semaphore(AT_A_TIME)

    async def history(one: WorkflowExecution) -> WorkflowHistory | None:
        async with gate:
            try:
                return (await fetched(client, one.id, one.run_id)).history
            except ReplayError:
                # Listed, but gone before it was read.
                return None

    found = [one for one in await asyncio.gather(*map(history, open_.kept + closed.kept)) if one is not None]
    notes = [
        f"The query found {sample.seen:,} {what} workflows; a random sample of {len(sample.kept):,} was replayed."
        for what, sample in (("open", open_), ("closed", closed))
        if sample.seen > len(sample.kept)
    ]
    return Read(found, notes)


class _Sample:
    """At most `most` of those added, each with the same chance."""

    def __init__(self, most: int, draw: random.Random) -> None:
        self._most = most
        self._draw = draw
        self.kept: list[WorkflowExecution] = []
        self.seen = 0

    def add(self, one: WorkflowExecution) -> None:
        self.seen += 1
        if len(self.kept) < self._most:
            self.kept.append(one)
        elif (place := self._draw.randrange(self.seen)) < self._most:
            self.kept[place] = one

"""The two wires of a workspace: between its workers and Postgres, and between its workers and Temporal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from trellis.chaos.answers import GrpcAnswers, PostgresCommits
from trellis.chaos.wire import Wire
from trellis.db.roles import ROLE
from trellis.db.writing import writing_functions
from trellis.runtime import Runtime
from trellis.stack.postgres import DATABASE


@asynccontextmanager
async def open_wires(runtime: Runtime) -> AsyncIterator[dict[str, Wire]]:
    """Wires "postgres" and "temporal" to the servers of a workspace that Trellis started. They end with the block."""
    socket = Path(parse_qs(urlsplit(runtime.stack.database_url).query)["host"][0]) / ".s.PGSQL.5432"
    writers = await writing_functions(runtime.pool)
    async with (
        Wire(socket, answers=lambda: PostgresCommits(writers)) as postgres,
        Wire(runtime.stack.temporal.address, answers=GrpcAnswers) as temporal,
    ):
        yield {"postgres": postgres, "temporal": temporal}


def through(runtime: Runtime, wires: Mapping[str, Wire]) -> dict[str, str]:
    """The environment with which a worker or an API reaches the servers of a workspace through these wires."""
    found: dict[str, str] = {}
    if "postgres" in wires:
        # The role is named here, because a worker takes a named server for somebody else's, and keeps its user.
        found["DATABASE_URL"] = f"postgresql://{ROLE}@/{DATABASE}?host={quote(wires['postgres'].address)}"
    if "temporal" in wires:
        found["TEMPORAL_ADDRESS"] = wires["temporal"].address
        found["TEMPORAL_NAMESPACE"] = runtime.stack.temporal.namespace
    return found

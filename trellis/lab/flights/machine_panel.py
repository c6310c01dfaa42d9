"""The panel that opens a workflow in the time machine: any workflow whose class is known in this kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from trellis.errors import BadInput
from trellis.lab.control_room.board import Room
from trellis.lab.control_room.machine_panel import TimeMachines
from trellis.lab.engine import Engine
from trellis.lab.flights.feed import FlightFeed
from trellis.lab.flights.rows import run_of
from trellis.lab.flights.visibility import PATIENCE
from trellis.lab.time_machines import Follower, ShowsPage
from trellis.replay import replay_async
from trellis.replay.modules import classes_of
from trellis.replay.recording import Recording
from trellis.replay.sdk import workflow_name
from trellis.temporal_calls import unavailable


class FlightMachines(TimeMachines):
    """One workflow at a time, with the classes of the flights that run here, and with Trellis's own."""

    def follower(self, id_: str, show: ShowsPage) -> Follower:
        feed = self.room.feed
        assert isinstance(feed, FlightFeed)
        workflow_id, run_id = run_of(id_)
        client, classes = feed.client, known_classes(self.room)
        type_ = feed.type_of(id_)
        if type_ not in classes:
            raise BadInput(
                f"The time machine needs the code of {type_ or workflow_id}, and no flight of this lab has it. Run "
                f"session.fly(workflows=[its class]), or, without a worker, "
                f"lab.time_machine(replay({workflow_id!r}, its class, client=...))."
            )

        async def described(one: str, run: str | None) -> Any:
            try:
                return await client.get_workflow_handle(one, run_id=run).describe(rpc_timeout=PATIENCE)
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    raise BadInput(f"Temporal no longer has workflow {one}.") from None
                raise unavailable(error) from None

        async def replayed(listener: Callable[[Recording], None] | None) -> Recording:
            return await replay_async(
                workflow_id, list(classes.values()), client=data_client(self.room, type_, client), run_id=run_id,
                listener=listener,
            )  # fmt: skip

        async def held() -> Mapping[str, list[dict[str, Any]]]:
            return {
                "Attempts": [
                    {
                        "at": row.started_at or row.scheduled_at, "activity": row.activity_type, "attempt": row.attempt,
                        "outcome": row.outcome, "error": row.error,
                    }
                    for row in await feed.attempts_of(id_)
                ]
            }  # fmt: skip

        return Follower(self.room.engine, show, "workflow", (workflow_id, run_id), described, replayed, held)


def known_classes(room: Room) -> dict[str, type]:
    """The workflow classes that can be replayed here, by their types: Trellis's own, and those of the flights."""
    found = {workflow_name(one) or one.__name__: one for one in classes_of(None)}
    for flight in flights_of(room.engine):
        found |= dict(zip(flight.workflow_types, flight.workflows, strict=True))
    return found


def data_client(room: Room, type_: str, client: Client) -> Client:
    """The client whose data converter reads the payloads of this type: its flight's, where there is one."""
    here = flights_in(room.engine, client.namespace)
    found: Client = next((one.client for one in here if type_ in one.workflow_types), client)
    return found


def flights_of(engine: Engine) -> Sequence[Any]:
    """The flights of a session; an engine without a session has none."""
    found: Sequence[Any] = getattr(engine, "flights", ())
    return found


def flights_in(engine: Engine, namespace: str) -> list[Any]:
    """Those of this namespace."""
    return [one for one in flights_of(engine) if one.namespace == namespace]

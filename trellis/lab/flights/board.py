"""The board of flights: anybody's workflows, with the requests to a workflow, and its panels."""

from __future__ import annotations

from textwrap import shorten
from typing import Any

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from trellis.db.board import View
from trellis.db.flight_board import App, FlightBoardReader
from trellis.db.flights import FlightBook
from trellis.desk import Receipt
from trellis.errors import RequestRefused, TemporalUnavailable
from trellis.insight.colours import OUTCOMES, STATUSES, text_on
from trellis.lab.control_room.board import Board, Column, Request, Room, Words
from trellis.lab.control_room.feed import Show
from trellis.lab.control_room.panels import Attempts, BackgroundLog, Lines
from trellis.lab.engine import Engine
from trellis.lab.flights.fault_panel import FlightFaults, no_faults_in
from trellis.lab.flights.feed import FlightFeed
from trellis.lab.flights.machine_panel import FlightMachines, flights_in
from trellis.lab.flights.rows import run_of
from trellis.lab.flights.talk import Talk
from trellis.lab.flights.visibility import ALL_STATUSES, PATIENCE, Visibility, of_types
from trellis.temporal_calls import unavailable

BY = "from Trellis' board"

COLUMNS = (
    Column("name", "Workflow", "named", "minmax(132px, 1.3fr)"),
    Column("type", "Type", "text", "minmax(84px, 0.8fr)", fold=1),
    Column("state", "Status", "state", "minmax(92px, 0.5fr)"),
    Column("step", "Pending activity", "step", "minmax(104px, 1fr)", fold=2),
    Column("created", "Age", "age", "52px", fold=2),
    Column("error", "Last failure", "text", "minmax(84px, 1.2fr)", fold=1),
)


class FlightAttempts(Attempts):
    """Every attempt of the workflow in focus, on a time axis and as a table."""

    def options(self) -> dict[str, Any]:
        return {
            "step": "activity",
            "outcomes": ["succeeded", "failed", "timed out", "abandoned"],
            "hint": "Select a workflow, and every attempt of its activities is drawn here as it happens.",
            "none": "No attempt of an activity is known yet.",
        }


async def _told(room: Room, id_: str, *, reason: str | None = None) -> Receipt:
    """Cancel a run, or terminate it with a reason. Raises RequestRefused, TemporalUnavailable."""
    workflow_id, run_id = run_of(id_)
    handle = client_of(room).get_workflow_handle(workflow_id, run_id=run_id)
    try:
        if reason is None:
            await handle.cancel(reason=BY, rpc_timeout=PATIENCE)
        else:
            await handle.terminate(reason=reason, rpc_timeout=PATIENCE)
    except RPCError as error:
        why = " ".join(error.message.split())[:200]
        if error.status is RPCStatusCode.NOT_FOUND:
            raise RequestRefused(f"Workflow {workflow_id} has ended, or Temporal no longer has it.") from None
        if error.status in (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED):
            raise RequestRefused(f"This client may not steer workflow {workflow_id} ({why}).") from None
        raise unavailable(error) from None
    return Receipt("accepted")


def client_of(room: Room) -> Client:
    feed = room.feed
    assert isinstance(feed, FlightFeed)
    return feed.client


REQUESTS = (
    Request("cancel", "Cancel", "can_cancel", "cancelled", lambda room, id_, _: _told(room, id_), style="stop"),
    Request(
        "terminate", "Terminate", "can_terminate", "terminated",
        lambda room, id_, reason: _told(room, id_, reason=reason),
        style="stop", field="reason", label="Reason for terminating", read=lambda text: text.strip()[:1000] or BY,
    ),
)  # fmt: skip


def flight_board(engine: Engine, query: str | None, namespace: str | None) -> Board:
    """The board for a visibility query in a namespace; without a query, for the types of the flights that run there.

    Raises TrellisError: a query that Temporal refuses, no such namespace, or no permission. A Temporal that is away is
    no error: the board waits for it.
    """
    client = _connected(engine, namespace)

    def asked() -> str:
        return _of_flights(engine, client.namespace) if query is None else query

    _check(engine, client, asked())

    def feed(_: Engine, show: Show, size: int) -> FlightFeed:
        stack = engine.runtime.stack
        return FlightFeed(
            client, FlightBoardReader(engine.pool, client.namespace), FlightBook(engine.pool), stack.database_url,
            stack.temporal.ui, show, size, asked, lambda: _apps(engine, client.namespace), no_faults_in(client),
        )  # fmt: skip

    return Board(
        title=_title(query),
        words=Words(
            "workflow", "workflows", "a workflow", "Asking Temporal …",
            "No workflow matches yet. Start one, here or anywhere else: it appears here by itself.",
        ),
        feed=feed,
        columns=COLUMNS,
        requests=REQUESTS,
        side=(Talk, FlightFaults),
        main=(Lines, FlightAttempts, FlightMachines, BackgroundLog),
        states=ALL_STATUSES,
        ended=ALL_STATUSES[1:],
        path=(),
        colours={name: (colour, text_on(colour)) for name, colour in {**STATUSES, **OUTCOMES}.items()},
    )  # fmt: skip


def _title(query: str | None) -> str:
    if query is None:
        return "Flights"
    return f"Workflows: {shorten(query, 90, placeholder=' …')}" if query else "Workflows"


def _connected(engine: Engine, namespace: str | None) -> Client:
    """A client of this namespace, on the session's own connection."""
    own = engine.desk.client
    if namespace is None or namespace == own.namespace:
        return own
    return Client(own.service_client, namespace=namespace, data_converter=own.data_converter)


def _check(engine: Engine, client: Client, query: str) -> None:
    try:
        engine.do(Visibility(client, query).page(View(size=1), None))
    except TemporalUnavailable:
        return


def _of_flights(engine: Engine, namespace: str) -> str:
    here = flights_in(engine, namespace)
    return of_types(tuple(sorted({name for flight in here for name in flight.workflow_types})))


def _apps(engine: Engine, namespace: str) -> tuple[App, ...]:
    return tuple(App(one.task_queue, tuple(one.activity_types)) for one in flights_in(engine, namespace))

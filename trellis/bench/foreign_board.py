"""How late the board of flights shows what happens to workflows of somebody else, whose workers are another process.

Delay: from a start or end of an attempt, by the clock of the worker that noted it, until the widget's trait holds a
line with this change or a later one. All workflows are on the page, and a worker of another process runs them. What
only Temporal tells (a workflow began or ended, an attempt without the plugin) is measured apart, on a page of 25.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from trellis.config import Settings
from trellis.db import reading
from trellis.db.flight_table import FLIGHTS
from trellis.driving import many
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.flights.board import flight_board
from trellis.lab.session import Session
from trellis.runtime import workspace

NOTED, PLAIN = "noted-meters", "plain-meters"
PAUSE, TAKES = 15.0, 0.2
"""Seconds between two activities of one workflow, and seconds that a call takes."""
TOLD = 10
"""So many workflows are started, watched and ended to measure what only Temporal tells."""


def run(settings: Settings, workflows: int, seconds: float, tick: Callable[[], None]) -> dict[str, Any]:
    """{workflows, changes, p50_ms, p95_ms, appeared_p95_ms, ended_p95_ms, described_p95_ms}, on a stack of its own."""
    with workspace(settings.model_copy(update={"faults": "calm"}), own_servers=True) as own:
        session = Session(own)
        try:
            with _workers(session):
                delays, changes = _noted(session, workflows, seconds, tick)
                tick()
                told = _told(session)
                tick()
        finally:
            session.stop()
    p50, p95 = np.percentile(delays, [50, 95])
    return {
        "workflows": workflows, "changes": changes, "p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1),
        **{f"{name}_p95_ms": round(float(np.percentile(found, 95)), 1) for name, found in told.items()},
    }  # fmt: skip


@contextmanager
def _workers(session: Session) -> Iterator[None]:
    """The worker of the app, in a process of its own. It finds the book of the workspace by itself."""
    client = session.desk.client
    address = str(client.service_client.config.target_host)
    process = subprocess.Popen(
        [sys.executable, "-m", "trellis.bench.foreign_app", address, client.namespace, NOTED, PLAIN],
        stdin=subprocess.PIPE,
        # The SDK's core says that a terminated workflow wants no more answers.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TRELLIS_HOME": str(session.settings.home)},
    )
    try:
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _noted(session: Session, workflows: int, seconds: float, tick: Callable[[], None]) -> tuple[list[float], int]:
    """Milliseconds for each change that the plugin noted while all workflows were on the page."""
    room = ControlRoom(session, board=flight_board(session, f"TaskQueue = '{NOTED}'", None), size=workflows)
    shown: dict[str, list[tuple[float, int]]] = {}

    def framed(change: Any) -> None:
        at = time.time() * 1000
        for line in change.new["rows"]:
            shown.setdefault(line["id"], []).append((at, line["event"]))

    room.observe(framed, ["changes", "page"])

    async def start() -> None:
        await _start(session, NOTED, PAUSE, TAKES)

    session.submit(many(workflows, 20, start)).result()
    deadline = time.monotonic() + 300
    while len(shown) < workflows:
        if time.monotonic() > deadline:
            raise RuntimeError(f"after 300 s the board shows {len(shown)} of {workflows} workflows")
        time.sleep(0.2)
    tick()
    since = datetime.now(UTC)
    time.sleep(seconds)
    until = datetime.now(UTC)
    # What was noted just now must be in the book, and its change on the page.
    time.sleep(5)
    room.close()
    assert session.desk.stack is not None
    changes = _changes(session.desk.stack.database_url, since, until)
    delays = []
    for id_, moment in changes:
        # Float seconds hold a time of today to a microsecond.
        seen = [at for at, event in shown.get(id_, ()) if event >= moment - 1]
        if not seen:
            raise RuntimeError(f"the board never showed a change of {id_}")
        delays.append(min(seen) - moment / 1000)
    return delays, len(changes)


def _changes(url: str, since: datetime, until: datetime) -> list[tuple[str, int]]:
    """(id of the line, microseconds since 1970) of each start and end in this time that the book holds."""
    low, high = (int(at.timestamp() * 1e6) for at in (since, until))
    found = []
    for batch in reading.stream(url, FLIGHTS, reading.query(FLIGHTS, queue=NOTED, tries=False)):
        columns = [batch.column(name) for name in ("workflow_id", "run_id")]
        for moment in ("started_at", "ended_at"):
            times = batch.column(moment).cast("int64").to_pylist()
            for workflow_id, run_id, at in zip(*(column.to_pylist() for column in columns), times, strict=True):
                if at is not None and low <= at < high:
                    found.append((f"{workflow_id} {run_id}", at))
    return found


def _told(session: Session) -> dict[str, list[float]]:
    """Milliseconds until the board shows that a workflow began, its attempt, and that it ended, by Temporal alone."""
    room = ControlRoom(session, board=flight_board(session, f"TaskQueue = '{PLAIN}'", None))
    lines: dict[str, dict[str, Any]] = {}
    room.observe(lambda change: lines.update({line["name"]: line for line in change.new["rows"]}), ["changes", "page"])
    found: dict[str, list[float]] = {"appeared": [], "described": [], "ended": []}

    def until(name: str, since: float, true: Callable[[], object]) -> None:
        while not true():
            if time.monotonic() - since > 60:
                raise RuntimeError(f"after 60 s the board does not show that a workflow {name}")
            time.sleep(0.005)
        found[name].append((time.monotonic() - since) * 1000)

    def one() -> None:
        began = time.monotonic()
        id_ = session.submit(_start(session, PLAIN, 0.0, 60.0)).result()
        until("appeared", began, lambda: id_ in lines)
        until("described", began, lambda: lines[id_]["step"])
        began = time.monotonic()
        session.submit(session.desk.client.get_workflow_handle(id_).terminate()).result()
        until("ended", began, lambda: lines[id_]["state"] == "TERMINATED")

    for _ in range(TOLD):
        one()
    room.close()
    return found


async def _start(session: Session, queue: str, pause: float, takes: float) -> str:
    id_ = f"meter-{uuid.uuid4().hex[:12]}"
    await session.desk.client.start_workflow("Meter", args=[pause, takes], id=id_, task_queue=queue)
    return id_

"""Is the book complete? Workflows of an app run under faults while its workers are killed, and the book is compared
with what the server counted. Then all run again with the same seed and ids, and the same must have been injected."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle

from trellis import event_fields, runtime, stack
from trellis.bench.flown import worker
from trellis.bench.flown.trip import Trip
from trellis.bench.flown.worker import QUEUE
from trellis.config import Settings
from trellis.db.migrate import migrate
from trellis.errors import StackError
from trellis.insight.flights import flights
from trellis.plugin.batches import deliver_leftovers

WORKERS = 2

AT_ONCE = 16
"""How many workflows are started, and how many histories are read, at a time."""

PAUSE = 5.0
"""The usual time between two kills [s]. A worker takes two seconds to start, more on a busy machine."""

SOON = 1.5
"""The same, where only so many workers are killed: that must be while workflows run."""

PATIENCE = 600.0
"""How long workflows may take altogether [s]. They take a tenth of that."""

Key = tuple[str, str, int]
"""Workflow id, activity id, and attempt."""


@dataclass
class Flight:
    """What one flight gave. `server`: the attempts that the server counted. `lives`: when it heard that each local
    activity had begun. `book`: the attempts in the book. `injected`: what was injected into each attempt, and into each
    try of a loop, whose end a worker wrote. `again`: attempts of local activities that had to begin anew, because their
    worker was killed; the server never heard of them. `lost`: attempts that no worker ended."""

    server: set[Key] = field(default_factory=set)
    book: set[Key] = field(default_factory=set)
    lives: dict[tuple[str, str], datetime] = field(default_factory=dict)
    injected: dict[tuple[str, str, int, int, int], str] = field(default_factory=dict)
    again: int = 0
    lost: int = 0
    kills: int = 0
    tries: int = 0


async def run(
    settings: Settings, workflows: int, kills: int | None, seed: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """{workflows, attempts, server, missing, extra, same_outcomes, compared, kills, lost, begun_again, tries}.

    attempts: in the book; server: counted by the server; missing, extra: in one of them only. same_outcomes: of
    `compared` attempts that both flights noted, those in which the same was injected. kills: of both flights.
    `kills` None: one each five seconds or so, for as long as workflows run.
    """
    with runtime.workspace(settings, own_servers=True) as own:
        found = await stack.up(own)
        await migrate(found.database_url)
        client = await stack.connect(found.temporal)
        names = [f"trip-{number}" for number in range(workflows)]
        both = [await fly(own, client, names, kills, seed, tick) for _ in range(2)]
    return judged(workflows, both)


def judged(workflows: int, both: Sequence[Flight]) -> dict[str, Any]:
    """The answer of `run` for two flights."""
    first, second = both
    common = set(first.injected) & set(second.injected)
    return {
        "workflows": workflows * len(both),
        "attempts": sum(len(one.book) for one in both),
        "server": sum(len(one.server) for one in both),
        "missing": sum(len(one.server - one.book) for one in both),
        "extra": sum(len(one.book - one.server) for one in both),
        "same_outcomes": sum(first.injected[key] == second.injected[key] for key in common),
        "compared": len(common),
        "kills": sum(one.kills for one in both),
        "lost": sum(one.lost for one in both),
        "begun_again": sum(one.again for one in both),
        "tries": sum(one.tries for one in both),
    }


async def fly(
    settings: Settings,
    client: Client,
    names: Sequence[str],
    kills: int | None,
    seed: int,
    tick: Callable[[], None],
    workers: int = WORKERS,
) -> Flight:
    """Run these workflows to their end while workers are killed, and compare the book with the server."""
    flight = Flight()
    async with _crew(settings, client.service_client.config.target_host, seed, workers) as crew:
        handles: list[WorkflowHandle[Any, str]] = []
        starting = asyncio.Semaphore(AT_ONCE)

        async def one(name: str) -> None:
            async with starting:
                # A workflow task whose worker was killed is given out again after its timeout.
                handle = await client.start_workflow(
                    Trip.run, name, id=name, task_queue=QUEUE, task_timeout=timedelta(seconds=3)
                )
            handles.append(handle)
            await handle.result()
            tick()

        killing = asyncio.create_task(crew.kill(random.Random(seed), kills))
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*(one(name) for name in names))
                if kills is not None:
                    await killing
        except TimeoutError:
            raise StackError(
                f"The workflows did not end within {PATIENCE:g} s: this machine is too busy for workers that are "
                f"killed all the time. Give a smaller number of --kills or --workflows."
            ) from None
        finally:
            killing.cancel()
            with suppress(asyncio.CancelledError):
                await killing
        flight.kills = crew.kills
    runs = {str(handle.first_execution_run_id) for handle in handles}
    url = stack.require(settings).database_url
    await deliver_leftovers(settings)
    # In a thread, because it waits for the server with an event loop of its own.
    book = await asyncio.to_thread(
        flights, url, workflow=list(names), tries=True, client=client.service_client.config.target_host
    )
    gate = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(_counted(handle, gate, flight) for handle in handles))
    _noted(book[book["run_id"].isin(runs)], flight)
    return flight


async def _counted(handle: WorkflowHandle[Any, str], gate: asyncio.Semaphore, flight: Flight) -> None:
    """What the server counted, straight from the history: not by the code that completed the book."""
    async with gate:
        events = (await handle.fetch_history()).events
    ids: dict[int, str] = {}
    for event in events:
        scheduled = event.activity_task_scheduled_event_attributes
        began = event.activity_task_started_event_attributes
        marker = event.marker_recorded_event_attributes
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            ids[event.event_id] = scheduled.activity_id
        elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            activity_id = ids[began.scheduled_event_id]
            flight.server |= {(handle.id, activity_id, number) for number in range(1, began.attempt + 1)}
        elif marker.marker_name == "core_local_activity":
            said = json.loads(marker.details["data"].payloads[0].data)
            flight.server |= {(handle.id, said["activity_id"], number) for number in range(1, said["attempt"] + 1)}
            at = event_fields.time_in_json(said["original_schedule_time"])
            if at is not None:
                flight.lives[handle.id, said["activity_id"]] = at


def _noted(book: pd.DataFrame, flight: Flight) -> None:
    """What the book holds."""
    columns = ["workflow_id", "activity_id", "attempt", "try", "lane", "local", "scheduled_at", "outcome", "injected"]
    for id_, activity_id, attempt, try_, lane, local, began, outcome, injected in zip(
        *(book[name] for name in columns), strict=True
    ):
        key = (str(id_), str(activity_id), int(attempt))
        if outcome not in ("lost", "abandoned", "open"):
            flight.injected[*key, int(try_), int(lane)] = str(injected)
        if try_:
            flight.tries += 1
            continue
        flight.lost += outcome == "lost"
        # The two times were written by different programs.
        if local and abs(flight.lives[key[:2]] - began) > timedelta(milliseconds=1):
            flight.again += 1
            continue
        flight.book.add(key)


class _Crew:
    """Worker processes of the app. Each that is killed is replaced."""

    def __init__(self, settings: Settings, address: str, seed: int) -> None:
        self._settings, self._address, self._seed = settings, address, seed
        self._members: list[subprocess.Popen[str]] = []
        self._lock, self._over = threading.Lock(), False
        self.kills = 0

    async def hire(self) -> None:
        """Start one, and wait until it works. Raises StackError."""
        member = await asyncio.to_thread(self._started)
        assert member.stdout is not None
        if not await asyncio.to_thread(member.stdout.readline):
            raise StackError(f"A worker of the benchmark did not start: {self._log.read_text('utf-8')[-300:]}")

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", worker.__name__, self._address, str(self._seed)]
        environment = {**os.environ, **self._settings.environment()}
        # Whoever waits for this may be cancelled meanwhile. The process must be ended all the same.
        with self._lock, self._log.open("a") as log:
            if self._over:
                raise StackError("The flight is over.")
            member = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
            self._members.append(member)
            return member

    @property
    def _log(self) -> Path:
        return self._settings.home / "flown.log"

    async def kill(self, luck: random.Random, most: int | None) -> None:
        """Kill one after the other, at random times: `most`, or for ever."""
        while most is None or self.kills < most:
            await asyncio.sleep(luck.uniform(0.5, 1.5) * (PAUSE if most is None else SOON))
            member = self._members.pop(luck.randrange(len(self._members)))
            await asyncio.to_thread(_ended, member)
            self.kills += 1
            await self.hire()

    def end(self) -> None:
        with self._lock:
            self._over = True
            while self._members:
                _ended(self._members.pop())


def _ended(member: subprocess.Popen[str]) -> None:
    member.kill()
    member.wait()
    if member.stdout is not None:
        member.stdout.close()


@asynccontextmanager
async def _crew(settings: Settings, address: str, seed: int, size: int) -> AsyncIterator[_Crew]:
    crew = _Crew(settings, address, seed)
    try:
        await asyncio.gather(*(crew.hire() for _ in range(size)))
        yield crew
    finally:
        await asyncio.to_thread(crew.end)

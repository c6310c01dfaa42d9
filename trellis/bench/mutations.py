"""What `trellis check` says of edited workflow code, against what a deployment of that code does.

For each edit a workflow is started with the old code on a real server, and left open in the middle. Its history goes to
`check`. Then the old worker is ended and one with the new code takes over. If it fails a workflow task, the deployment
rejects the history; if the workflow goes on, it accepts it.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError
from temporalio.common import RawValue
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError
from temporalio.worker import Worker

from trellis import runtime
from trellis.bench.mutants import Mutant, mutants
from trellis.config import Settings
from trellis.errors import StackError
from trellis.replay.check import Report, check
from trellis.replay.check.paths import ENDS, failed_task
from trellis.replay.check.proposing import throwaway
from trellis.replay.check.report import BREAKS
from trellis.replay.events import type_of
from trellis.replay.modules import classes_of
from trellis.sandbox import RUNNER
from trellis.stack import connect, temporal

AT_A_TIME = 4
"""Edits at once. Most of the time is the server's: its timers take a second each."""

_INPUTS = {"checkout": (10, 30, 60), "subscription": (2, 3), "parcel": (5, 20, 40)}
_PATIENCE = 90.0
_GOES = 6
_STILL = 0.7
"""A workflow without news for this long [s] waits for the next `go`, or for a timer."""


@dataclass(frozen=True)
class Case:
    """One edit. `verdict`: what the check said. `rejected`: what the deployment did. `patched`: whether a patch was
    proposed that keeps the old history and whose new code ran; None where nothing breaks."""

    mutant: Mutant
    verdict: str
    rejected: bool
    patched: bool | None
    why: str = ""

    @property
    def agrees(self) -> bool:
        return (self.verdict == BREAKS) == self.rejected

    def to_json(self) -> dict[str, Any]:
        return {
            "module": self.mutant.name, "kind": self.mutant.kind, "verdict": self.verdict,
            "live": "rejected" if self.rejected else "accepted", "agrees": self.agrees, "patched": self.patched,
            "why": self.why,
        }  # fmt: skip


@activity.defn(dynamic=True)
async def _done(args: Sequence[RawValue]) -> str:
    return "done"


@workflow.defn(dynamic=True, sandboxed=False)
class _Child:
    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> str:
        return "done"


async def run(
    settings: Settings, number: int, seed: int, tick: Callable[[], None] = lambda: None, *, propose: bool = True
) -> dict[str, Any]:
    """Edit, check and deploy so many times. Returns what `trellis bench mutations --json` prints."""
    began = time.monotonic()
    with runtime.workspace(settings) as own, throwaway(settings) as server:
        own.home.mkdir(parents=True, exist_ok=True)
        # The SDK's core prints a warning for each history that does not fit.
        quiet = Runtime(telemetry=TelemetryConfig(logging=None))
        client = await connect(await temporal.up(own), runtime=quiet)
        # In a thread, as the check asks for it there.
        address = await asyncio.to_thread(server) if propose else ""
        bench = _Bench(client, own, lambda: address, propose, seed)
        sys.path.insert(0, str(bench.new))
        gate = asyncio.Semaphore(AT_A_TIME)

        async def one(mutant: Mutant) -> Case:
            async with gate:
                found = await bench.case(mutant)
            tick()
            return found

        try:
            cases = await asyncio.gather(*map(one, mutants(number, seed)))
        finally:
            sys.path.remove(str(bench.new))
    breaking = [case for case in cases if case.verdict == BREAKS]
    kept = sum(bool(case.patched) for case in breaking)
    return {
        "mutations": number,
        "agree": sum(case.agrees for case in cases),
        "breaks": len(breaking),
        "other_input": sum(case.verdict == "other input" for case in cases),
        "fits": sum(case.verdict == "fits" for case in cases),
        "patched": kept,
        "patched_share": round(kept / len(breaking), 3) if breaking else None,
        "seconds": round(time.monotonic() - began, 1),
        "cases": [case.to_json() for case in cases],
    }


class _Bench:
    """A server for deployments, another one for trials, and a folder for sources and histories."""

    def __init__(self, client: Client, settings: Settings, trials: Callable[[], str], propose: bool, seed: int) -> None:
        self._client = client
        self._settings = settings
        self._trials = trials
        self._propose = propose
        self._seed = seed
        self.old, self.new, self._histories = (settings.home / name for name in ("old", "new", "histories"))
        for folder in (self.old, self.new, self._histories):
            folder.mkdir(parents=True, exist_ok=True)

    async def case(self, mutant: Mutant) -> Case:
        for folder, text in ((self.old, mutant.old), (self.new, mutant.new)):
            (folder / f"{mutant.name}.py").write_text(text, "utf-8")
        draw = random.Random(f"{self._seed} {mutant.number}")
        rounds, given = draw.randrange(3), draw.choice(_INPUTS[mutant.sample])
        handle = await self._open(mutant, given, rounds)
        history = self._histories / f"{mutant.name}.json"
        history.write_text((await handle.fetch_history()).to_json(), "utf-8")
        report = await asyncio.to_thread(self._checked, mutant, history)
        rejected, words = await self._deployed(mutant, handle)
        [path] = report.paths
        why = "; ".join(report.notes) if report.proposal is None else report.proposal.new
        patched = None if path.finding.verdict != BREAKS else report.proposal is not None
        return Case(mutant, path.finding.verdict, rejected, patched, "; ".join(filter(None, (why, words))))

    def _checked(self, mutant: Mutant, history: Path) -> Report:
        return check(
            str(self.new / f"{mutant.name}.py"), histories=history, before=self.old, propose=self._propose,
            settings=self._settings, server=self._trials,
        )  # fmt: skip

    async def _open(self, mutant: Mutant, given: int, rounds: int) -> WorkflowHandle[Any, Any]:
        """A workflow of the old code that waits for its next `go`, after so many."""
        async with self._worker(f"trellis.bench.mutated.{mutant.sample}", mutant.name):
            name = mutant.sample.capitalize()
            handle = await self._client.start_workflow(name, given, id=mutant.name, task_queue=mutant.name)
            for number in range(rounds + 1):
                if number:
                    await handle.signal("go")
                if not await self._waits(handle, number + 1):
                    # It is over sooner: then it is checked as a closed one.
                    break
        return handle

    async def _waits(self, handle: WorkflowHandle[Any, Any], times: int) -> bool:
        """Wait until the workflow waits for the so-manieth time. False: it is closed."""
        async with _patience(f"Workflow {handle.id} did not come to its wait"):
            while True:
                with suppress(RPCError):
                    # A busy worker may answer too late.
                    if await handle.query("waited", result_type=int) >= times:
                        return True
                if type_of((await _events(handle))[-1]) in ENDS:
                    return False
                await asyncio.sleep(0.05)

    async def _deployed(self, mutant: Mutant, handle: WorkflowHandle[Any, Any]) -> tuple[bool, str]:
        """(whether the new code failed a workflow task, the failure)."""
        before = await _events(handle)
        async with self._worker(mutant.name, mutant.name):
            if type_of(before[-1]) in ENDS:
                return await self._queried(handle)
            for _ in range(_GOES):
                try:
                    await handle.signal("go")
                except RPCError:
                    # It has ended.
                    break
                failure = await self._gone_on(handle, len(before))
                if failure is not None:
                    return True, failure
            return False, ""

    async def _gone_on(self, handle: WorkflowHandle[Any, Any], since: int) -> str | None:
        """Wait until the new code has completed a workflow task and then stands still. Returns its failure, if any."""
        length, grew = 0, time.monotonic()
        async with _patience(f"The new code did nothing for workflow {handle.id}"):
            while True:
                events = await _events(handle)
                if (failed := failed_task(events[since:])) is not None:
                    return " ".join(failed.workflow_task_failed_event_attributes.failure.message.split())[:200]
                if type_of(events[-1]) in ENDS:
                    return None
                if len(events) > length:
                    length, grew = len(events), time.monotonic()
                tasks = [name for event in events[since:] if (name := type_of(event)).startswith("WORKFLOW_TASK_")]
                if tasks[-1:] == ["WORKFLOW_TASK_COMPLETED"] and time.monotonic() - grew > _STILL:
                    return None
                await asyncio.sleep(0.1)

    async def _queried(self, handle: WorkflowHandle[Any, Any]) -> tuple[bool, str]:
        """A closed workflow is replayed by its new code when it is queried."""
        async with _patience(f"Workflow {handle.id} did not answer a query"):
            while True:
                try:
                    await handle.query("waited")
                    return False, ""
                except WorkflowQueryFailedError as error:
                    return True, " ".join(str(error).split())[:200]
                except RPCError as error:
                    if "TMPRL1100" in error.message:
                        return True, " ".join(error.message.split())[:200]
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def _worker(self, module: str, queue: str) -> AsyncIterator[None]:
        importlib.invalidate_caches()
        worker = Worker(
            self._client,
            task_queue=queue,
            workflows=[*classes_of(module), _Child],
            activities=[_done],
            workflow_runner=RUNNER,
        )
        async with worker:
            yield


async def _events(handle: WorkflowHandle[Any, Any]) -> Sequence[HistoryEvent]:
    return (await handle.fetch_history()).events


@asynccontextmanager
async def _patience(what: str) -> AsyncIterator[None]:
    """Raises StackError if the block takes too long."""
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise StackError(f"{what} within {_PATIENCE:.0f} s.") from None

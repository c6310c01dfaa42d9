"""Run a module's new code once with what a history recorded: `python -m trellis.replay.check.trial JOB`.

The workflow starts on a throw-away server with the recorded input. Activities and children are stubs that give the
recorded answers; signals, updates and cancellations are sent again in their order. A timer that fired in the history,
or that the history does not have, is made short. No activity of the module is run. At the end the run's own history is
replayed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity, workflow
from temporalio.api.history.v1 import HistoryEvent
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import Client, WorkflowHistory, WorkflowUpdateStage
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError
from temporalio.worker import Worker

from trellis.errors import TrellisError
from trellis.replay.breaking import history_key
from trellis.replay.check.inside import answers, classes_by_type, converter_of, replayed, say
from trellis.replay.check.paths import ENDS, failed_task, is_open, workflow_type
from trellis.replay.check.report import BREAKS
from trellis.replay.check.script import ACTIVITY, CANCEL, CHILD, NEVER, SIGNAL, Script, Told
from trellis.replay.commands import seconds
from trellis.replay.errors import in_one_line
from trellis.replay.events import attributes, type_of
from trellis.replay.payloads import Payloads, failure_words
from trellis.replay.sdk import WatchedRunner
from trellis.replay.sources import load_file
from trellis.replay.values import Limits
from trellis.sandbox import RUNNER

QUIET, BUSY = 1.5, 8.0
"""A run whose history does not grow for this long [s] waits for something: while nothing of it runs, and else."""

LIMIT = 50.0
"""How long a run may take [s]."""

_SHORT = 0.001
_OF_A_CHILD = "trellis-recorded-child"
_SINK = "trellis-receives-signals"


@dataclass(frozen=True)
class Job:
    """`history`: a JSON file. `patch`: the id of the patch that the run must come to."""

    module: str
    history: str
    address: str
    patch: str
    converter: str | None = None


@workflow.defn(dynamic=True, sandboxed=False)
class RecordedChild:
    """Ends as the recorded child of this type did. It takes any signal."""

    @workflow.run
    async def run(self, args: Sequence[RawValue]) -> Any:
        if workflow.info().workflow_type == _SINK:
            await workflow.wait_condition(lambda: False)
        return await workflow.execute_activity(
            _OF_A_CHILD,
            workflow.info().workflow_type,
            result_type=RawValue,
            start_to_close_timeout=timedelta(seconds=2 * LIMIT),
        )

    @workflow.signal(dynamic=True)
    async def any_signal(self, name: str, args: Sequence[RawValue]) -> None:
        """What it says has no effect here."""


@dataclass
class Stubs:
    """Answers every activity as the history did. `unknown`: the names of those that the history does not have. `held`:
    how many calls wait for their turn, or for ever as in the history."""

    script: Script
    payloads: Payloads
    unknown: set[str] = field(default_factory=set)
    held: int = 0

    @activity.defn(dynamic=True)
    async def answer(self, args: Sequence[RawValue]) -> Any:
        info = activity.info()
        kind, name = ACTIVITY, info.activity_type
        if name == _OF_A_CHILD:
            kind, name = CHILD, activity.payload_converter().from_payload(args[0].payload, str)
        self.held += 1
        try:
            told = await self.script.answer(kind, name, f"{info.workflow_id} {info.workflow_run_id} {info.activity_id}")
            if told is None:
                self.unknown.add(name)
                return None
            told.over = True
            while told.ended == NEVER or (told.ended.endswith("_CANCELED") and kind == ACTIVITY):
                # A heartbeat tells that it is cancelled, and then this sleep ends with the cancellation.
                activity.heartbeat()
                await asyncio.sleep(0.2)
        finally:
            self.held -= 1
        if told.failure is not None or not told.ended.endswith(("_COMPLETED", "RECORDED")):
            words = failure_words(told.failure) if told.failure is not None else told.ended
            raise ApplicationError(words, type=_type_of(told), non_retryable=True)
        decoded = await self.payloads.through_codec(told.payloads)
        return RawValue(decoded[0]) if decoded else None


def _type_of(told: Told) -> str | None:
    failure = told.failure
    while failure is not None and failure.HasField("cause"):
        failure = failure.cause
    has = failure is not None and failure.HasField("application_failure_info")
    return failure.application_failure_info.type if failure is not None and has else None


class _Hurry:
    """Makes timers short, except those like one that the history has and that never fired."""

    def __init__(self, events: Sequence[HistoryEvent]) -> None:
        lasts = {
            event.event_id: seconds(event.timer_started_event_attributes.start_to_fire_timeout)
            for event in events
            if event.HasField("timer_started_event_attributes")
        }
        fired = {
            event.timer_fired_event_attributes.started_event_id
            for event in events
            if event.HasField("timer_fired_event_attributes")
        }
        self._timers = [(length, id_ in fired) for id_, length in lasts.items()]

    def short(self, length: float) -> bool:
        alike = [one for one in self._timers if abs(one[0] - length) <= 0.2 * max(one[0], length)]
        return not alike or min(alike, key=lambda one: abs(one[0] - length))[1]

    def created(self, inner: Any) -> None: ...

    def activate(
        self, act: WorkflowActivation, inner: Any, run: Callable[[], WorkflowActivationCompletion]
    ) -> WorkflowActivationCompletion:
        completion = run()
        for command in completion.successful.commands:
            if command.HasField("start_timer") and self.short(seconds(command.start_timer.start_to_fire_timeout)):
                command.start_timer.start_to_fire_timeout.FromMilliseconds(1)
        return completion


class Trial:
    """One run."""

    def __init__(self, client: Client, workflow: type, history: WorkflowHistory, payloads: Payloads) -> None:
        self._client = client
        self._workflow = workflow
        self._history = history
        self._payloads = payloads
        self._stubs = Stubs(Script(history.events), payloads)
        self._runner = WatchedRunner(RUNNER, _Hurry(history.events))
        self._workers: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> tuple[bool, str, WorkflowHistory]:
        """(whether it went as well as the history, in words, its own history)."""
        started = self._history.events[0].workflow_execution_started_event_attributes
        queue = started.task_queue.name or "trial"
        self._work_on(queue, [self._workflow, RecordedChild])
        await self._start_receivers(queue)
        handle = await self._client.start_workflow(
            started.workflow_type.name,
            args=[RawValue(each) for each in await self._payloads.through_codec(list(started.input.payloads))],
            id=self._history.workflow_id,
            task_queue=queue,
        )
        try:
            ok, words = await self._drive(handle)
            return ok, words, await handle.fetch_history()
        finally:
            for task in self._workers.values():
                task.cancel()

    def _work_on(self, queue: str, workflows: Sequence[type]) -> None:
        worker = Worker(
            self._client,
            task_queue=queue,
            workflows=workflows,
            activities=[self._stubs.answer],
            workflow_runner=self._runner,
            # By default it may take a minute until a heartbeat tells that the activity is cancelled.
            max_heartbeat_throttle_interval=timedelta(seconds=0.3),
            default_heartbeat_throttle_interval=timedelta(seconds=0.3),
        )
        self._workers[queue] = asyncio.create_task(worker.run())

    async def _start_receivers(self, queue: str) -> None:
        """A signal to a workflow that does not exist fails. So the workflows that got signals exist here, too."""
        children = {
            event.start_child_workflow_execution_initiated_event_attributes.workflow_id
            for event in self._history.events
            if event.HasField("start_child_workflow_execution_initiated_event_attributes")
        }
        targets = {
            attributes(event).workflow_execution.workflow_id
            for event in self._history.events
            if type_of(event) == "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED"
        }
        for target in targets - children - {self._history.workflow_id}:
            await self._client.start_workflow(_SINK, id=target, task_queue=queue)

    async def _drive(self, handle: Any) -> tuple[bool, str]:
        script, began, length, grew = self._stubs.script, time.monotonic(), 0, time.monotonic()
        while time.monotonic() - began < LIMIT:
            events = (await handle.fetch_history()).events
            if len(events) > length:
                length, grew = len(events), time.monotonic()
            if (failed := failed_task(events)) is not None:
                return False, f"it failed: {failure_words(attributes(failed).failure)}"
            if type_of(events[-1]) in ENDS:
                return self._ended(events[-1])
            for queue in _queues(events) - self._workers.keys():
                self._work_on(queue, [RecordedChild])
            busy = _running(events) and not self._stubs.held
            quiet = time.monotonic() - grew > (BUSY if busy else QUIET)
            # A message must not overtake what was told before it.
            if (message := script.message) is not None and (quiet or not busy):
                await self._send(handle, message)
                grew = time.monotonic()
            elif quiet:
                waiting = script.next
                if waiting is None:
                    return self._waits(events)
                # The new code does not ask for it, or only after what follows.
                waiting.over = True
                grew = time.monotonic()
            await asyncio.sleep(0.1)
        return False, f"it did not come to an end within {LIMIT:.0f} s"

    def _ended(self, event: HistoryEvent) -> tuple[bool, str]:
        how, before = type_of(event), type_of(self._history.events[-1])
        words = how.removeprefix("WORKFLOW_EXECUTION_").replace("_", " ").lower()
        good = how in ("WORKFLOW_EXECUTION_COMPLETED", "WORKFLOW_EXECUTION_CONTINUED_AS_NEW") or how == before
        a = attributes(event)
        why = f" ({failure_words(a.failure)})" if how == "WORKFLOW_EXECUTION_FAILED" else ""
        return good, f"a new run {words}{why}{self._besides()}"

    def _waits(self, events: Sequence[HistoryEvent]) -> tuple[bool, str]:
        if is_open(self._history):
            return True, f"a new run did as much as the history, and waits{self._besides()}"
        done, before = _commands(events), _commands(self._history.events)
        return False, f"a new run waits after {done} commands, where the history has {before}{self._besides()}"

    def _besides(self) -> str:
        if not self._stubs.unknown:
            return ""
        names = ", ".join(f"`{name}`" for name in sorted(self._stubs.unknown))
        return f" ({names} has no recorded answer: None was given)"

    async def _send(self, handle: Any, message: Told) -> None:
        message.over = True
        arguments = [RawValue(each) for each in await self._payloads.through_codec(message.payloads)]
        try:
            async with asyncio.timeout(5):
                if message.kind == CANCEL:
                    await handle.cancel()
                elif message.kind == SIGNAL:
                    await handle.signal(message.name, args=arguments)
                else:
                    accepted = WorkflowUpdateStage.ACCEPTED
                    await handle.start_update(message.name, args=arguments, wait_for_stage=accepted)
        except (RPCError, TimeoutError):
            # Refused by the new code, or too late: the run shows what comes of it.
            pass


def _queues(events: Sequence[HistoryEvent]) -> set[str]:
    asked = ("activity", "child workflow")
    return {attributes(event).task_queue.name for event in events if history_key(event)[0] in asked} - {""}


def _running(events: Sequence[HistoryEvent]) -> bool:
    """Whether a worker or the server still has something to do: a workflow task, an activity, a child, or a timer that
    was made short and has not fired, for which the server may take a second."""
    ends = [event for event in events if not type_of(event).endswith("_STARTED")]
    over = {getattr(attributes(event), of, 0) for event in ends for of in _BEGAN}
    open_ = [event for event in events if type_of(event) in _BEGINS and event.event_id not in over]
    long = [event for event in open_ if type_of(event) == "TIMER_STARTED" and not _short(event)]
    tasks = [type_of(event) for event in events if type_of(event).startswith("WORKFLOW_TASK_")]
    return len(open_) > len(long) or tasks[-1:] != ["WORKFLOW_TASK_COMPLETED"]


def _short(event: HistoryEvent) -> bool:
    return seconds(event.timer_started_event_attributes.start_to_fire_timeout) <= _SHORT


_BEGINS = ("ACTIVITY_TASK_SCHEDULED", "START_CHILD_WORKFLOW_EXECUTION_INITIATED", "TIMER_STARTED")
_BEGAN = ("scheduled_event_id", "initiated_event_id", "started_event_id")


def _commands(events: Sequence[HistoryEvent]) -> int:
    return sum(history_key(event)[0] not in (type_of(event), "patch") for event in events)


async def _tried(job: Job) -> dict[str, Any]:
    history = load_file(job.history).history
    converter = converter_of(job.converter)
    found = classes_by_type(job.module)[workflow_type(history)]
    client = await Client.connect(job.address, data_converter=converter)
    trial = Trial(client, found, history, Payloads(converter, Limits()))
    ok, words, run = await trial.run()
    if ok and not any(_patch_of(event) == job.patch for event in run.events):
        ok, words = False, f"{words}, but did not come to the change"
    if ok:
        again = await asyncio.to_thread(replayed, run, found, converter)
        if again["finding"]["verdict"] == BREAKS:
            ok, words = False, f"{words}, but its own history does not replay"
    return {"ok": ok, "words": words}


def _patch_of(event: HistoryEvent) -> str | None:
    kind, name = history_key(event)
    return name if kind == "patch" else None


def main() -> None:
    out = answers()
    logging.disable(logging.ERROR)
    try:
        say(out, **asyncio.run(_tried(Job(**json.loads(Path(sys.argv[1]).read_text("utf-8"))))))
    except TrellisError as error:
        say(out, error=str(error))
    except Exception as error:
        say(out, ok=False, words=f"the run could not be made ({in_one_line(error)})")
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

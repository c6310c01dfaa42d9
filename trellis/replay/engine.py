"""Replays one history and records what its workflow did, step by step.

The SDK's own Replayer runs the workflow, so that what is recorded is what a worker would do. The workflow's code runs
in this process under the sandbox's rules. They guard against accidents, such as a call of the clock, and not against
malice: replay only code that you would import.

A step is one activation: a workflow task, or a local activity's marker within one. The workflow does not run at the
events between. Nothing of the workflow stays alive after its step: variables, inputs and lines are converted at once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from types import FrameType
from typing import Any

from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.client import WorkflowHistory
from temporalio.converter import DataConverter, WorkflowSerializationContext
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.workflow import NondeterminismError

from trellis.replay import sdk
from trellis.replay.breaking import broken_in, failure_line, raised
from trellis.replay.commands import Seqs, command_of
from trellis.replay.errors import ReplayError, in_one_line
from trellis.replay.events import Index, read_events
from trellis.replay.lines import Ran, UserCode, Watcher, watcher
from trellis.replay.modules import files_of
from trellis.replay.payloads import Payloads, failure_words
from trellis.replay.recording import Recorder, Recording
from trellis.replay.sdk import PatientExecutor, WatchedRunner
from trellis.replay.sources import Loaded
from trellis.replay.steps import Broken, Line, Step, Wait
from trellis.replay.values import Limits, Reader
from trellis.replay.waking import woken_by
from trellis.threads import in_a_thread

Listener = Callable[[Recording], None]
"""Called in the replay's thread with what is recorded so far: after FIRST_PAGE steps, and whenever they doubled."""

FIRST_PAGE = 50

SILENCE = 30.0
"""How long the SDK may be silent between two steps [s]. It is longer than a step may take."""

_LOOPS = "trellis-replay-loop"
_SOURCE = 2_000_000
"""The largest source file that is kept [characters]."""

_INNER = re.compile(r'message: "((?:[^"\\]|\\.){1,400})"')
_NUMBERED = re.compile(r"Task-\d+")
_ENDS = {"complete", "fail", "cancelled", "continue as new"}


@dataclass(frozen=True)
class Options:
    """How histories are replayed. `further`: more arguments of Temporal's Replayer, such as interceptors."""

    classes: Sequence[type]
    runner: WorkflowRunner
    converter: DataConverter = DataConverter.default
    lines: bool = True
    limits: Limits = field(default_factory=Limits)
    further: Mapping[str, Any] = field(default_factory=dict)


def _of_a_worker(record: logging.LogRecord) -> bool:
    # The SDK logs what fails in a replay as if a worker had failed; a recording says it in a sentence. And at the end
    # of a history the workflow's own log lines, which are silent in a replay, would be written once more.
    return not (record.threadName or "").startswith("trellis-replay")


for _logger in (
    "temporalio.worker._workflow",
    "temporalio.worker._workflow_instance",
    "temporalio.worker._replayer",
    "temporalio.workflow",
):
    logging.getLogger(_logger).addFilter(_of_a_worker)


@functools.cache
def _runtime() -> Runtime:
    """One for all replays, silent: the SDK's core prints a warning for each history that does not fit."""
    return Runtime(telemetry=TelemetryConfig(logging=None))


async def recorded(loaded: Loaded, options: Options, listener: Listener | None = None) -> Recording:
    """Replay one history in a thread with an event loop of its own. Raises ReplayError."""
    started: list[_Seen] = []
    work = asyncio.wrap_future(
        in_a_thread(lambda: asyncio.run(_record(loaded, options, listener, started.append)), _LOOPS)
    )
    steps = -1
    while True:
        done, _ = await asyncio.wait([work], timeout=SILENCE)
        if done:
            return work.result()
        if started and steps == started[0].steps:
            # The SDK can wait for ever on a history that was cut. Its thread cannot be ended, and is left behind.
            return started[0].given_up()
        steps = started[0].steps if started else -1


async def _record(
    loaded: Loaded, options: Options, listener: Listener | None, starts: Callable[[_Seen], None]
) -> Recording:
    history = loaded.history
    started = history.events[0].workflow_execution_started_event_attributes
    type_, run_id = started.workflow_type.name, started.original_execution_run_id
    namespace = str(options.further.get("namespace", "ReplayNamespace"))
    context = WorkflowSerializationContext(namespace=namespace, workflow_id=history.workflow_id)
    payloads = Payloads(options.converter.with_context(context), options.limits)
    index = Index(history.events)
    events = await read_events(history.events, index, payloads)
    recorder = Recorder(history.workflow_id, run_id, type_, events)
    if why := _unfit(type_, options.classes):
        raise ReplayError(why, recorder.finish({}, why))
    if not any(event.HasField("workflow_task_scheduled_event_attributes") for event in history.events):
        return recorder.finish({}, f"{history.workflow_id} has not run yet: its history has no workflow task.")
    lines = watcher() if options.lines else None
    seen = _Seen(recorder, payloads, index, UserCode(files_of(options.classes)), lines, options.limits, listener)
    starts(seen)
    try:
        failure = await _replayed(history, options, seen)
    except ReplayError as error:
        raise ReplayError(str(error), recorder.finish({}, str(error))) from None
    finally:
        if lines is not None:
            lines.close()
    broken = seen.broken(failure, history) if failure is not None else None
    notes = [loaded.note, _other_sdk(history), seen.trouble(failure, broken)]
    if payloads.codec_failure:
        notes.append(f"The codec cannot decode all payloads ({payloads.codec_failure}).")
    return recorder.finish({}, " ".join(note for note in notes if note), broken)


def _unfit(type_: str, classes: Sequence[type]) -> str:
    """Why none of the classes can run this type of workflow; "" if one can."""
    names = [sdk.workflow_name(each) for each in classes]
    if names.count(type_) > 1:
        same = " and ".join(each.__name__ for each in classes if sdk.workflow_name(each) == type_)
        return f"Two classes are named {type_}: {same}. Give one of them."
    # "" is the name of a dynamic workflow, which runs any type.
    if type_ in names or "" in names:
        return ""
    known = ", ".join(sorted(name for name in names if name)) or "none"
    return f"There is no class for the workflow type {type_}; there are classes for {known}. Name its module."


async def _replayed(history: WorkflowHistory, options: Options, watch: _Seen) -> Exception | None:
    """Replay with a watch. Gives what the SDK says against the code, or None if it fits. Raises ReplayError."""

    async def only() -> AsyncIterator[WorkflowHistory]:
        yield history

    # Only this type: another class that cannot be imported in the sandbox would stop the replay.
    type_ = history.events[0].workflow_execution_started_event_attributes.workflow_type.name
    classes = [each for each in options.classes if sdk.workflow_name(each) in (type_, "")]
    with PatientExecutor() as executor:
        replayer = Replayer(
            **{
                "workflows": classes,
                "workflow_runner": WatchedRunner(options.runner, watch),
                "unsandboxed_workflow_runner": WatchedRunner(UnsandboxedWorkflowRunner(), watch),
                "workflow_task_executor": executor,
                "data_converter": options.converter,
                "runtime": _runtime(),
                **options.further,
            }
        )
        try:
            async with replayer.workflow_replay_iterator(only()) as results:
                return (await anext(results)).replay_failure
        except ReplayError:
            raise
        except Exception as error:
            why = in_one_line(error.__cause__ or error)
            raise ReplayError(f"The history of {history.workflow_id} cannot be replayed ({why}).") from None


class _Seen:
    """What is seen of one workflow while it is replayed."""

    def __init__(
        self,
        recorder: Recorder,
        payloads: Payloads,
        index: Index,
        user: UserCode,
        lines: Watcher | None,
        limits: Limits,
        listener: Listener | None,
    ) -> None:
        self._recorder = recorder
        self._payloads = payloads
        self._index = index
        self._user = user
        self._lines = lines
        self._reader = Reader(limits)
        self._listener = listener
        self._seqs = Seqs()
        self._steps: list[Step] = []
        self._failed = ""
        self._failed_at: Line | None = None
        self._ran = Ran(user)
        self._asked: dict[int, tuple[Line | None, Line | None]] = {}
        self._next_page = FIRST_PAGE
        self._length = -1
        self._task: int | None = None

    @property
    def steps(self) -> int:
        return len(self._steps)

    def given_up(self) -> Recording:
        return self._recorder.finish({}, f"The SDK asked for nothing more for {SILENCE:g} s, so the replay ends here.")

    # --- called by the SDK's side

    def created(self, inner: Any) -> None:
        sdk.note_commands(inner, self._note)

    def _note(self, index: int, frame: FrameType) -> None:
        self._asked[index] = self._user.innermost(frame), self._ran.last()

    def activate(
        self, act: WorkflowActivation, inner: Any, run: Callable[[], WorkflowActivationCompletion]
    ) -> WorkflowActivationCompletion:
        self._asked.clear()
        ran = self._ran = Ran(self._user)
        if self._lines is not None:
            self._lines.begin(ran)
        try:
            completion = run()
        finally:
            if self._lines is not None:
                self._lines.end()
        try:
            self._step(act, completion, inner, ran)
        except Exception as error:
            # What cannot be read must not change what the workflow does.
            self._unreadable(act, error)
        return completion

    # --- what a step holds

    def _step(self, act: WorkflowActivation, completion: WorkflowActivationCompletion, inner: Any, ran: Ran) -> None:
        woken = woken_by(act, self._seqs, self._index)
        commands = []
        for number, command in enumerate(completion.successful.commands):
            line, before = self._asked.get(number, (None, None))
            read = command_of(command, self._payloads, self._seqs, line)
            if line is None and read.kind in _ENDS:
                # The SDK asks for it after the run method returned. The line before is where it did.
                read = command_of(command, self._payloads, self._seqs, before)
            commands.append(read)
        trouble = ""
        if completion.HasField("failed"):
            failure = completion.failed.failure
            self._failed = trouble = failure_words(failure)
            found = failure_line(failure.stack_trace, self._user)
            self._failed_at = Line(*found) if found else None
            trouble = f"The code raised {trouble}" + (f" at {_place(self._failed_at)}." if self._failed_at else ".")
        event = self._task_of(act)
        if event is None and not trouble:
            # The history ends before this task began: a replay runs ahead of what a worker has done.
            return
        step = self._recorder.step(
            event=event or act.history_length,
            at=act.timestamp.ToDatetime(UTC),
            woken_by=woken,
            lines=ran.lines() if self._lines is not None else None,
            lines_cut=ran.cut,
            waits=self._waits(inner),
            commands=commands,
            variables=self._reader.variables(sdk.workflow_object(inner)),
            trouble=trouble,
        )
        self._steps.append(step)
        self._read_sources()
        if self._listener is not None and len(self._steps) >= self._next_page:
            self._next_page *= 2
            self._listener(self._recorder.recording)

    def _unreadable(self, act: WorkflowActivation, error: Exception) -> None:
        at = act.timestamp.ToDatetime(UTC)
        why = f"This step cannot be read ({in_one_line(error)})."
        step = self._recorder.step(
            event=act.history_length, at=at, woken_by=(), lines=None, waits=(), commands=(), variables={}, trouble=why
        )
        self._steps.append(step)

    def _task_of(self, act: WorkflowActivation) -> int | None:
        """The WORKFLOW_TASK_STARTED event that the activation belongs to; None if no worker has begun it yet."""
        if act.history_length != self._length:
            started = self._index.task_started(act.history_length)
            self._task = started if started != self._task else None
            self._length = act.history_length
        # Otherwise it is the answer of a local activity, within the same task.
        return self._task

    def _waits(self, inner: Any) -> list[Wait]:
        found: list[Wait] = []
        names: Counter[str] = Counter()
        for name, task in sdk.tasks(inner):
            frames = tuple(
                self._user.line(code, number) for code, number in sdk.positions(task) if code.co_filename in self._user
            )
            if not frames:
                # A task of the SDK, such as the one that waits for an activity's answer.
                continue
            if _NUMBERED.fullmatch(name):
                # Python numbers the tasks of a whole process: the name would be another in each replay.
                name = frames[0].function
            names[name] += 1
            found.append(Wait(name if names[name] == 1 else f"{name} ({names[name]})", frames))
        return found

    # --- after the replay

    def broken(self, failure: Exception, history: WorkflowHistory) -> Broken | None:
        """Where the code stopped to fit, as far as the SDK's failure tells."""
        if self._steps and self._failed:
            return raised(self._steps[-1], self._failed, self._failed_at, self._index, history.events)
        if isinstance(failure, NondeterminismError):
            return broken_in(str(failure), history.events, self._index, self._steps)
        return None

    def trouble(self, failure: Exception | None, broken: Broken | None) -> str:
        if failure is None:
            return ""
        if broken is None:
            # The SDK prints its whole structure around the one message that says what is wrong.
            inner = _INNER.search(str(failure))
            return f"The replay ended early ({inner[1] if inner else in_one_line(failure)})."
        where = f" ({_place(broken.line)})" if broken.line else ""
        at = "at its end" if broken.event is None else f"at event {broken.event}"
        return f"The code does not fit this history {at}. History: {broken.history}; code: {broken.code}{where}."

    def _read_sources(self) -> None:
        """The text of each user file with a line that ran or waits, as it is now."""
        for file in self._user.new_files():
            with suppress(OSError):
                self._recorder.sources[file] = Path(file).read_text("utf-8", "replace")[:_SOURCE]


def _place(line: Line) -> str:
    return f"{Path(line.file).name}:{line.line}"


def _other_sdk(history: WorkflowHistory) -> str:
    """A sentence if another language's SDK wrote the history."""
    for event in history.events:
        if event.HasField("workflow_task_completed_event_attributes"):
            written = event.workflow_task_completed_event_attributes.sdk_metadata
            if written.sdk_name and written.sdk_name != "temporal-python":
                version = f" {written.sdk_version}" if written.sdk_version else ""
                return (
                    f"This history was written with another SDK, {written.sdk_name}{version}: Python code fits it only "
                    f"if it asks for the same commands."
                )
    return ""

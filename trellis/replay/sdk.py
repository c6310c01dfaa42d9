"""The SDK's private parts that a replay looks at. No other module of Trellis touches them.

A replay watches how the SDK runs a workflow: it wraps the workflow runner, so that it sees each activation (the SDK's
word for what a worker hands to the workflow at once: the events of a workflow task) and the commands that come back.
After each activation it reads the workflow object, its tasks and the lines where they wait. The SDK has no public way
to do that. `missing()` says in words what an SDK version lacks; a test calls it.

Tried with temporalio 1.35.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Protocol

import temporalio.worker._workflow_instance as _instances
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, _runner
from temporalio.workflow import _Definition

from trellis.replay.errors import ReplayError

PATIENCE = 20.0
"""How long one activation may take [s] before the SDK's own limit of 2 s begins. Traced code is slower than the limit
assumes, and a machine may be busy; code that never returns must still end."""

_DEPTH = 200
"""The most frames that are followed in one task."""

_IN_SANDBOX = "__temporal_in_sandbox"
_WRAPPERS = {"coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable"}
"""What Python puts between a frame and the coroutine or generator that it awaits. They have no public reference."""


class Watch(Protocol):
    """Sees a workflow run."""

    def created(self, inner: Any) -> None:
        """A workflow is about to be run for the first time."""

    def activate(
        self, act: WorkflowActivation, inner: Any, run: Callable[[], WorkflowActivationCompletion]
    ) -> WorkflowActivationCompletion:
        """Call `run`, which hands the activation to the workflow, and return what it returned."""


class WatchedRunner(WorkflowRunner):
    """Another runner, seen by a `Watch`."""

    def __init__(self, runner: WorkflowRunner, watch: Watch) -> None:
        self._runner = runner
        self._watch = watch

    def prepare_workflow(self, defn: Any) -> None:
        self._runner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return _WatchedInstance(self._runner.create_instance(det), self._watch)

    def set_worker_level_failure_exception_types(self, types: Any) -> None:
        self._runner.set_worker_level_failure_exception_types(types)


class _WatchedInstance(WorkflowInstance):
    def __init__(self, instance: WorkflowInstance, watch: Watch) -> None:
        self._instance = instance
        self._watch = watch
        self._inner = _inner(instance)
        watch.created(self._inner)

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        if any(job.HasField("remove_from_cache") for job in act.jobs):
            # The end of a replay. The workflow's code sees its tasks cancelled, and nothing of it is history.
            return self._instance.activate(act)
        return self._watch.activate(act, self._inner, lambda: self._instance.activate(act))

    def get_info(self) -> Any:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()

    def get_serialization_context(self, command_info: Any) -> Any:
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        return self._instance.get_external_store_context(command_info)


def _inner(instance: WorkflowInstance) -> Any:
    """The instance that runs the workflow, under the sandbox's own one."""
    names = getattr(instance, "globals_and_locals", None)
    inner = names[_IN_SANDBOX].instance if isinstance(names, dict) and _IN_SANDBOX in names else instance
    if lacking := [name for name in ("_object", "_tasks", "_add_command") if not hasattr(inner, name)]:
        raise ReplayError(
            f"This workflow runner or version of temporalio cannot be looked into: its instances have no "
            f"{', '.join(lacking)}. Use the SDK's own runners, and a version that Trellis was tested with."
        )
    return inner


def workflow_name(class_: type) -> str | None:
    """The type of the workflow that a class defines, "" for a dynamic one; None if it is no workflow class."""
    found = _Definition.from_class(class_)
    return None if found is None else found.name or ""


def workflow_object(inner: Any) -> Any:
    """The instance of the workflow class; None before its `__init__` ran."""
    return inner._object


def tasks(inner: Any) -> list[tuple[str, asyncio.Task[Any]]]:
    """The workflow's open tasks by their names, the one of `run` first, the others in the order of their names."""
    found = [(_task_name(task), task) for task in list(inner._tasks) if not task.done()]
    primary = inner._primary_task
    return sorted(found, key=lambda each: (each[1] is not primary, _natural(each[0])))


def _task_name(task: asyncio.Task[Any]) -> str:
    # The SDK puts the workflow's type, id and run behind each name.
    return task.get_name().split(" (workflow: ", 1)[0]


def _natural(name: str) -> tuple[str, int]:
    """So that Task-10 comes after Task-9."""
    stem, _, number = name.rpartition("-")
    return (stem, int(number)) if number.isascii() and number.isdigit() else (name, 0)


def positions(task: asyncio.Task[Any]) -> Iterator[tuple[CodeType, int]]:
    """The code and line of each frame that the task waits in, outermost first, the SDK's and the library's included.

    A task that awaits another task or a future ends there: the other task has positions of its own.
    """
    waiting: Any = task.get_coro()
    for _ in range(_DEPTH):
        frame: FrameType | None
        if isinstance(waiting, CoroutineType):
            frame, then = waiting.cr_frame, waiting.cr_await
        elif isinstance(waiting, GeneratorType):
            frame, then = waiting.gi_frame, waiting.gi_yieldfrom
        elif isinstance(waiting, AsyncGeneratorType):
            frame, then = waiting.ag_frame, waiting.ag_await
        elif type(waiting).__name__ in _WRAPPERS:
            waiting = _wrapped(waiting)
            continue
        else:
            return
        if frame is None:
            return
        yield frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno
        waiting = then


def _wrapped(wrapper: Any) -> Any:
    kinds = (CoroutineType, GeneratorType, AsyncGeneratorType)
    inside = [each for each in gc.get_referents(wrapper) if isinstance(each, kinds)]
    return inside[0] if len(inside) == 1 else None


def note_commands(inner: Any, note: Callable[[int, FrameType], None]) -> None:
    """From now on call `note` when the workflow asks for a command, with the command's index and the asking frame.

    Every command goes through `_add_command`: timers, patches, cancellations and the workflow's end too, which no
    interceptor sees.
    """
    add = inner._add_command

    def noted() -> Any:
        index = len(inner._current_completion.successful.commands)
        command = add()
        note(index, sys._getframe(1))
        return command

    inner._add_command = noted


class PatientExecutor(ThreadPoolExecutor):
    """Runs activations one at a time, and waits up to PATIENCE for each before the SDK's limit of 2 s begins.

    `submit` blocks its caller, which is the event loop that a replay has for itself. Debug mode, the SDK's own way to
    lift the limit, would lift sandbox restrictions too and replace `breakpoint` for the whole process.
    """

    def __init__(self) -> None:
        super().__init__(max_workers=2, thread_name_prefix="trellis-replay")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        wait([future], timeout=PATIENCE)
        return future


def missing() -> list[str]:
    """What this version of the SDK lacks of the parts used here, each in words. Empty: a replay can look inside."""
    found = []
    source = inspect.getsource(_instances)
    for name in ("_object", "_tasks", "_primary_task", "_current_completion"):
        if f"self.{name}" not in source:
            found.append(f"workflow instances have no attribute {name}")
    if not callable(getattr(getattr(_instances, "_WorkflowInstanceImpl", None), "_add_command", None)):
        found.append("workflow instances have no method _add_command, which every command went through")
    if _IN_SANDBOX not in inspect.getsource(_runner) or "globals_and_locals" not in inspect.getsource(_runner):
        found.append(f"the sandboxed runner keeps no {_IN_SANDBOX} in globals_and_locals")
    for name in ("history_length", "jobs", "timestamp", "is_replaying"):
        if name not in WorkflowActivation.DESCRIPTOR.fields_by_name:
            found.append(f"an activation has no {name}")
    if "workflow_runner" not in inspect.signature(SandboxedWorkflowRunner.__init__).parameters and not issubclass(
        SandboxedWorkflowRunner, WorkflowRunner
    ):
        found.append("the sandboxed runner is no workflow runner")
    return found

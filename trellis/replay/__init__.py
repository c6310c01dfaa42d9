"""Replay a workflow's history and see what it did at each step: lines, variables, waits, commands.

    from trellis.replay import replay
    recording = replay("order-1.json")                      # a file, with Trellis's own workflow classes
    recording = replay("history.json", "my.workflows")      # with those of a module
    recording = await replay_async("order-1", client=client)
    print(recording.explain())

Stops are workflow tasks (and local activity markers), not events: the workflow does not run at the others.

A replay runs the workflow's code in this process, under the rules of the SDK's sandbox. They guard against accidents
and not against malice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace as changed
from inspect import isawaitable
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowHistory
from temporalio.converter import DataConverter
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowRunner

from trellis.errors import BadInput
from trellis.replay.engine import Listener, Options, recorded
from trellis.replay.errors import ReplayError
from trellis.replay.family import Family, Finder, InFolder, OnServer
from trellis.replay.modules import Workflows, classes_of
from trellis.replay.recording import Recording
from trellis.replay.sources import Folder, Loaded, checked, fetched, listed, load_file
from trellis.replay.values import LIMITS, Limits
from trellis.sandbox import RUNNER
from trellis.threads import in_a_thread

Connects = Client | Callable[[], Client | Awaitable[Client]] | None
"""A client, or a function that returns one (called on the event loop that uses it), or none."""

__all__ = ["Limits", "Options", "Recording", "ReplayError", "replay", "replay_all", "replay_all_async", "replay_async"]


async def replay_async(
    history: WorkflowHistory | Loaded | str | Path,
    workflows: Workflows = None,
    *,
    client: Connects = None,
    run_id: str | None = None,
    data_converter: DataConverter | None = None,
    lines: bool = True,
    family: bool = True,
    sandbox: bool | WorkflowRunner = True,
    limits: Limits = LIMITS,
    listener: Listener | None = None,
    replayer: Mapping[str, Any] | None = None,
) -> Recording:
    """Replay one history and record each step.

    history: a WorkflowHistory; the path of a JSON file as Temporal's CLI and UI write it; or, with a client, a workflow
        id (of its latest run, unless `run_id` names another). A running workflow gives its history so far.
    workflows: workflow classes, modules, names of modules, or several of these. Default: Trellis's own.
    client: where histories of an id, and those of children and of continued runs, are fetched; it is used on this event
        loop. Its data converter is used unless `data_converter` gives one. A codec is called on another event loop.
    lines: note which lines of user code ran in each step.
    family: replay the workflow's children too, and the runs before and after it in a chain of continue-as-new: from
        the server, or from the other files of the folder. At most 50 in all. One whose class is missing has events and
        no steps.
    sandbox: True for Trellis's sandbox, False for none, or another WorkflowRunner of the SDK.
    limits: how much of each value is kept.
    listener: called in another thread with the recording so far, before the replay ends.
    replayer: further arguments of Temporal's Replayer, such as interceptors.

    Code that does not fit the history gives a recording that ends there, with `broken` and `trouble`. Raises
    ReplayError where nothing could be replayed: no history, no such class or module. Raises TemporalUnavailable.
    """
    options = _options(workflows, data_converter, lines, sandbox, limits, replayer)
    connected = await _connected(client)
    if connected is not None:
        further = {"namespace": connected.namespace, **options.further}
        options = changed(options, converter=data_converter or connected.data_converter, further=further)
    loaded = await _loaded(history, connected, run_id)
    recording = await recorded(loaded, options, listener)
    if family and (finder := _finder(loaded, connected)):
        await Family(finder, lambda other: recorded(other, options)).gather(recording, loaded.history)
    return recording


def replay(
    history: WorkflowHistory | Loaded | str | Path,
    workflows: Workflows = None,
    *,
    client: Connects = None,
    run_id: str | None = None,
    data_converter: DataConverter | None = None,
    lines: bool = True,
    family: bool = True,
    sandbox: bool | WorkflowRunner = True,
    limits: Limits = LIMITS,
    listener: Listener | None = None,
    replayer: Mapping[str, Any] | None = None,
) -> Recording:
    """As `replay_async`, for code outside a coroutine. It blocks; it may be called where an event loop runs.

    A client that is given must not be one that another event loop is using: give a function that connects one.
    """
    work = replay_async(
        history,
        workflows,
        client=client,
        run_id=run_id,
        data_converter=data_converter,
        lines=lines,
        family=family,
        sandbox=sandbox,
        limits=limits,
        listener=listener,
        replayer=replayer,
    )
    return in_a_thread(lambda: asyncio.run(work), "trellis-replay").result()


async def replay_all_async(
    query: str, workflows: Workflows = None, *, client: Connects, limit: int | None = None, **options: Any
) -> AsyncGenerator[Recording, None]:
    """Replay each workflow that a visibility query finds, the newest first, at most `limit`.

    `options`: as for `replay_async`; `family` is False unless given. One that cannot be replayed gives its events with
    `trouble`. Raises ReplayError for a query that Temporal does not understand, TemporalUnavailable.
    """
    connected = await _connected(client)
    if connected is None:
        raise BadInput("A query needs a client: it is Temporal's server that answers it.")
    classes = classes_of(workflows)
    async for workflow_id, run_id in listed(connected, query, limit):
        try:
            yield await replay_async(
                workflow_id, classes, client=connected, run_id=run_id, **{"family": False, **options}
            )
        except ReplayError as error:
            if error.recording is not None:
                yield error.recording


def replay_all(
    query: str, workflows: Workflows = None, *, client: Connects, limit: int | None = None, **options: Any
) -> Iterator[Recording]:
    """As `replay_all_async`, for code outside a coroutine. Each is replayed when it is asked for."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="trellis-replay", daemon=True)
    thread.start()
    found = replay_all_async(query, workflows, client=client, limit=limit, **options)

    async def next_one() -> Recording | None:
        return await anext(found, None)

    try:
        while (each := asyncio.run_coroutine_threadsafe(next_one(), loop).result()) is not None:
            yield each
    finally:
        asyncio.run_coroutine_threadsafe(found.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _options(
    workflows: Workflows,
    converter: DataConverter | None,
    lines: bool,
    sandbox: bool | WorkflowRunner,
    limits: Limits,
    further: Mapping[str, Any] | None,
) -> Options:
    runner = sandbox if isinstance(sandbox, WorkflowRunner) else RUNNER if sandbox else UnsandboxedWorkflowRunner()
    given = converter or DataConverter.default
    return Options(classes_of(workflows), runner, given, lines, limits, dict(further or {}))


async def _connected(client: Connects) -> Client | None:
    if callable(client) and not isinstance(client, Client):
        made = client()
        return await made if isawaitable(made) else made
    return client


async def _loaded(history: WorkflowHistory | Loaded | str | Path, client: Client | None, run_id: str | None) -> Loaded:
    if isinstance(history, Loaded):
        return history
    if isinstance(history, WorkflowHistory):
        return checked(history, f"The history of {history.workflow_id}")
    if client is not None and isinstance(history, str):
        return await fetched(client, history, run_id)
    file = Path(history)
    if file.is_dir():
        raise BadInput(f"{file} is a folder: name one of its files. `trellis.replay.sources.load` reads them all.")
    return load_file(file)


def _finder(loaded: Loaded, client: Client | None) -> Finder | None:
    if client is not None:
        return OnServer(client)
    return InFolder(Folder(loaded.file.parent)) if loaded.file is not None else None

"""`trellis fly`: run somebody's workflows and activities from a file, with every attempt noted."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trellis.cli.common import Json, out, read_settings, run, say, show
from trellis.errors import BadInput

if TYPE_CHECKING:
    from temporalio.client import Client

    from trellis.flying.finding import Found


def fly(
    app: Annotated[str, typer.Argument(help="A Python file, a folder that is a package, or a module's dotted name.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="With --start: the workflow's arguments, each as JSON.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="Start one workflow of this type, print its result, and end. Else run until Ctrl-C."),
    ] = None,
    id_: Annotated[str | None, typer.Option("--id", help="With --start: the workflow's id.")] = None,
    queue: Annotated[str | None, typer.Option(help="The task queue. Default: the module's name.")] = None,
    namespace: Annotated[
        str | None, typer.Option(help="The namespace; the workspace's own server makes one that it does not have.")
    ] = None,
    faults: Annotated[
        str | None, typer.Option(help="canonical, calm, a script, or JSON; else the plan of the board's sliders.")
    ] = None,
    converter: Annotated[str | None, typer.Option(help="The data converter of the app, as module:name.")] = None,
    as_json: Json = False,
) -> None:
    """Run an app's workflows and activities until Ctrl-C, with every attempt noted. Starts the servers it needs."""
    from trellis.flying.finding import found_in
    from trellis.replay.check.inside import converter_of

    settings = read_settings()
    if start is None and (inputs or id_):
        raise typer.BadParameter("arguments and --id need --start")
    args = [_json(text) for text in inputs or ()]
    found = found_in(app)
    data_converter = converter_of(converter)
    if start is not None:
        args = found.app.completed(start, args)

    async def work() -> Any:
        from trellis.flying.places import connected
        from trellis.flying.running import AppWorker
        from trellis.plugin import TrellisPlugin
        from trellis.runtime import opened

        async with opened(settings, start=True, end=True, pool_wait=30) as runtime:
            at = runtime.stack
            client = await connected(replace(at.temporal, namespace=namespace or at.temporal.namespace), data_converter)

            def plugin() -> TrellisPlugin:
                return TrellisPlugin(faults=faults, namespace=namespace, settings=settings)

            worker = AppWorker(client, found.app, queue or found.name, plugin)
            stop = asyncio.Event()
            for name in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(name, stop.set)
            await worker.start()
            try:
                for note in found.notes:
                    say(note)
                where = f"Flying on queue {worker.task_queue} of namespace {client.namespace}"
                if start is not None:
                    say(f"{where}.")
                    return await _one(client, found, start, args, id_, worker.task_queue, stop)
                say(f"{where}: {found.app.in_words()}.{_how(app, found)} Ctrl-C ends.")
                await stop.wait()
            finally:
                await worker.stop()

    done = run(work())
    if start is not None:
        if done is None:
            raise typer.Exit(130)
        show(done, as_json, lambda: out.print_json(json.dumps(done["result"], default=str)))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BadInput(
            f"{text[:80]!r} is not JSON. Give each argument as JSON, such as '{{\"id\": 1}}', 7 or '\"text\"'."
        ) from None


def _how(app: str, found: Found) -> str:
    """How a workflow of this app is started."""
    if not found.app.workflow_types:
        return ""
    return f" Start one: trellis fly {app} --start {found.app.workflow_types[0]} 'JSON of its argument'."


async def _one(
    client: Client, found: Found, type_: str, args: list[Any], id_: str | None, queue: str, stop: asyncio.Event
) -> dict[str, Any] | None:
    """Start a workflow and wait for its result. None if the process is told to end before."""
    from trellis.flying import calls

    await calls.encodable(client, args, found.app.hints(type_))
    workflow_id = id_ or calls.new_id(type_)
    run_id = await calls.start(client, type_, args, workflow_id, queue)
    say(f"Started {workflow_id}.")
    ended = asyncio.create_task(calls.result(calls.Target(client, workflow_id)))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            return None
        return {"workflow_id": workflow_id, "run_id": run_id, "result": ended.result()}
    finally:
        ended.cancel()
        stopped.cancel()

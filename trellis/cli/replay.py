"""`trellis replay`: step through a workflow's past."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trellis.cli.common import Json, out, read_settings, run, say, show
from trellis.errors import BadInput

if TYPE_CHECKING:
    from trellis.replay import Recording


def replay(
    order_id: Annotated[str | None, typer.Argument(help="The order's id.")] = None,
    workflow_id: Annotated[str | None, typer.Option(help="Any workflow's id, in place of an order's.")] = None,
    run_id: Annotated[str | None, typer.Option(help="One run of it. Default: the latest.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A history as JSON: `temporal workflow show -o json`, or the UI's download.")
    ] = None,
    module: Annotated[
        str | None, typer.Option(help="The module with the workflow's class: my.workflows. Default: Trellis's own.")
    ] = None,
    at: Annotated[int | None, typer.Option(help="Only the step that had taken in this event.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one page that opens without a server.")] = None,
    redact: Annotated[
        list[str] | None, typer.Option(help="A field whose values are left out of the page: line1, address.*, ...")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay a workflow's history: what woke it, which lines ran, what changed, what it asked for, where it waits.

    It stops at workflow tasks (and local activity markers), not at events. The workflow's code runs in this process
    under the rules of the SDK's sandbox, which guard against accidents and not against malice.
    """
    if sum(each is not None for each in (order_id, workflow_id, file)) != 1:
        raise typer.BadParameter("say which history: an order's id, --workflow-id or --file")
    if as_json and html is not None:
        raise typer.BadParameter("give --json or --html, not both")
    if redact and html is None:
        raise typer.BadParameter("--redact leaves fields out of the page: give --html too")
    if run_id is not None and file is not None:
        raise typer.BadParameter("--run-id names a run on a server; a file holds one run")
    read_settings()
    recording = _recorded(order_id, workflow_id, run_id, file, module)
    if html is not None:
        say(f"Written: {recording.save(html, redact=redact or ())}.")
    elif as_json:
        print_json(recording, at)
    else:
        out.print(recording.explain() if at is None else recording.explain(recording.at(at)), soft_wrap=True)
    if recording.broken is not None:
        # A script sees from the exit code that the code no longer fits.
        raise typer.Exit(1)


def print_json(recording: Recording, at: int | None) -> None:
    """The recording, or one of its steps."""
    found = recording.to_json()
    if at is not None:
        number = recording.at(at).number
        found["steps"] = [found["steps"][number - 1]]
    show(found, True)


def _recorded(
    order_id: str | None, workflow_id: str | None, run_id: str | None, file: Path | None, module: str | None
) -> Recording:
    from trellis.model import workflow_id as of_order
    from trellis.parsing import ID_PATTERN
    from trellis.replay import replay as record
    from trellis.replay import replay_async

    if module is not None:
        module = _importable(module)
    if file is not None:
        return record(file, module)
    if order_id is not None and not ID_PATTERN.fullmatch(order_id):
        raise BadInput(f"{order_id[:70]!r} is no order id. --workflow-id takes any workflow's.")
    which = of_order(order_id) if order_id is not None else str(workflow_id)

    async def work() -> Any:
        from trellis.insight.history.connecting import connected

        return await replay_async(which, module, client=await connected(), run_id=run_id)

    found: Recording = run(work())
    return found


def _importable(module: str) -> str:
    """The module's dotted name, after its folder was put on Python's path: the current one, or that of a file."""
    folder, name = Path.cwd(), module
    if module.endswith(".py"):
        path = Path(module).resolve()
        if not path.is_file():
            raise BadInput(f"There is no file {module}.")
        folder, name = path.parent, path.stem
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return name

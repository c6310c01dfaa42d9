"""What every command uses: settings, output as text or JSON, a progress bar, a desk."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from trellis.environment import asks_for_json_logs

if TYPE_CHECKING:
    from trellis.config import Settings
    from trellis.desk import Desk

# Without markup: what people sent may hold brackets, which rich would read as its own tags and fail over.
out = Console(markup=False)
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def read_settings(*, serves: bool = False) -> Settings:
    """Read the settings of this process and configure its logging.

    A command that `serves` until it is ended logs its work. Other commands show a result and log only what went wrong,
    unless LOG_LEVEL asks for more.
    """
    from trellis import config, logs

    settings = config.load()
    logs.configure_process(settings, quiet=not serves)
    return settings


def say(sentence: str, *, error: bool = False) -> None:
    """A sentence on stderr. It is a log record where LOG_FORMAT=json says that all of stderr is JSON."""
    if asks_for_json_logs():
        from trellis import logs

        logs.say(sentence, logging.ERROR if error else logging.INFO)
    elif error:
        err.print(f"trellis: {sentence}", style="red", highlight=False, markup=False, soft_wrap=True)
    else:
        err.print(sentence, highlight=False, markup=False, soft_wrap=True)


def show(value: dict[str, Any] | list[Any], as_json: bool, human: Callable[[], None] | None = None) -> None:
    """Print a result: as JSON when asked, else by `human`, else as a table of keys and values."""
    if as_json:
        print(json.dumps(value, default=str))
    elif human is not None:
        human()
    elif isinstance(value, dict):
        from rich.table import Table

        table = Table(show_header=False, box=None)
        table.add_column(no_wrap=True)
        # An address that is cut off could not be copied.
        table.add_column(overflow="fold")
        for key, entry in value.items():
            table.add_row(key, json.dumps(entry, default=str) if isinstance(entry, dict | list) else str(entry))
        out.print(table)


@contextmanager
def progress(what: str, total: int | None, as_json: bool) -> Iterator[Callable[..., None]]:
    """Show a progress bar on stderr; yields a function that advances it by one, or by the number given."""
    from rich.progress import Progress

    with Progress(console=err, disable=as_json, transient=total is None) as bar:
        task = bar.add_task(what, total=total)

        def tick(number: int = 1) -> None:
            bar.advance(task, number)

        yield tick


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[Desk]:
    """A desk on this workspace's servers. Raises StackError when they do not run."""
    from trellis.runtime import opened

    async with opened(settings) as runtime:
        yield runtime.desk

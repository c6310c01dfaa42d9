"""`trellis check`: will the workflows that are there survive a change of their code?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trellis.cli.common import Json, out, progress, read_settings, say, show
from trellis.errors import TrellisError


def check(
    module: Annotated[str, typer.Argument(help="The module of the workflows: a dotted name, or a Python file.")],
    query: Annotated[
        str | None, typer.Option(help="A visibility query. Default: all workflows of the module's types.")
    ] = None,
    histories: Annotated[Path | None, typer.Option(help="A folder of histories as JSON, in place of a server.")] = None,
    before: Annotated[str | None, typer.Option(help="The old source: a revision of git, or a folder.")] = None,
    converter: Annotated[str | None, typer.Option(help="The data converter of the histories, as module:name.")] = None,
    propose: Annotated[bool, typer.Option("--propose/--no-propose", help="Look for a patch where one breaks.")] = True,
    as_json: Json = False,
) -> None:
    """Replay the workflows that are there under the code as it is on disk: what fits, and what breaks where.

    Exit code 0: none breaks; 1: one does; 2: it could not be checked.
    """
    from trellis.replay.check import check as checked

    try:
        settings = read_settings()
        with progress("replays", None, as_json) as tick:
            report = checked(
                module, query=query, histories=histories, before=before, converter=converter, propose=propose,
                settings=settings, tick=tick,
            )  # fmt: skip
    except TrellisError as error:
        # 1 means that a workflow breaks. A pipeline must not take a misspelt module for that.
        say(str(error), error=True)
        raise typer.Exit(2) from None
    show(report.to_json(), as_json, lambda: out.print(str(report), highlight=False, soft_wrap=True))
    if report.breaks:
        raise typer.Exit(1)

"""`trellis doctor`: what is wrong with an app's timeouts, retry policies and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from trellis.cli.common import Json, out, read_settings, run, show

if TYPE_CHECKING:
    from trellis.insight.doctor import Report


def doctor(
    query: Annotated[str | None, typer.Option(help="A visibility query. Default: all workflows.")] = None,
    namespace: Annotated[str | None, typer.Option(help="The namespace of these workflows.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many workflows are read, the newest ones.")] = 1000,
    as_json: Json = False,
) -> None:
    """What the evidence says about timeouts, retry policies and workers of any workflows: what to set, and what that
    would change. It only reads."""
    from trellis.doctor import examine
    from trellis.insight.history import connected

    read_settings()

    async def work() -> Report:
        return await examine(await connected(namespace=namespace), query, limit=limit)

    report = run(work())
    show(report.to_json(), as_json, lambda: out.print(report.words(), highlight=False, soft_wrap=True))

"""Commands for this workspace's servers: up, down, reset, status, migrate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from trellis.cli.common import Json, open_desk, out, read_settings, run, show
from trellis.database_url import masked

if TYPE_CHECKING:
    from trellis.stack import Stack


def up(as_json: Json = False) -> None:
    """Start both servers, or find them; returns when both answer."""
    from trellis import stack
    from trellis.db.migrate import migrate as apply

    settings = read_settings()

    async def work() -> Stack:
        running = await stack.up(settings)
        await apply(running.database_url)
        return running

    running = run(work())
    show(
        {"temporal": {"address": running.temporal.address, "ui": running.temporal.ui,
                      "namespace": running.temporal.namespace},
         "database": {"url": masked(running.database_url)}}, as_json,
        lambda: out.print(
            f"Temporal  {running.temporal.address}   UI {running.temporal.ui or '(external)'}\n"
            f"Postgres  {masked(running.database_url)}", highlight=False, soft_wrap=True),
    )  # fmt: skip


def down(as_json: Json = False) -> None:
    """End this workspace's servers; their data stays."""
    from trellis import stack

    ended = stack.down(read_settings())
    show(
        {"ended": ended},
        as_json,
        lambda: out.print(f"Ended {' and '.join(ended)}." if ended else "Nothing was running."),
    )


def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: Json = False) -> None:
    """End this workspace's servers and delete all their data."""
    from trellis import stack

    settings = read_settings()
    if not yes and not typer.confirm(f"Delete all orders and histories under {settings.home}?"):
        raise typer.Exit(1)
    stack.reset(settings)
    show({"reset": True}, as_json, lambda: out.print("The workspace is empty."))


def status(as_json: Json = False) -> None:
    """What runs here: servers, workers, and how many orders are in each state."""
    from trellis import stack

    settings = read_settings()

    async def work() -> dict[str, Any]:
        running = stack.require(settings)
        async with open_desk(settings) as desk:
            return {
                "temporal": {"address": running.temporal.address, "ui": running.temporal.ui,
                             "namespace": running.temporal.namespace},
                "database": {"url": masked(running.database_url)},
                "workers": await desk.workers(),
                "orders": await desk.ledger.counts(),
            }  # fmt: skip

    show(run(work()), as_json)


def migrate(
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Also print the whole schema as SQL.")] = False,
) -> None:
    """Bring the ledger's schema up to date."""
    from trellis import stack
    from trellis.db.migrate import migrate as apply

    settings = read_settings()
    url = stack.require(settings).database_url
    applied = run(apply(url))
    if schema:
        text = stack.postgres.dump_schema(url)
        show({"applied": applied, "schema": text}, as_json, lambda: print(text, end=""))
        return
    show({"applied": applied}, as_json, lambda: out.print("\n".join(applied) if applied else "Up to date."))

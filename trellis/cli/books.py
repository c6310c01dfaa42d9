"""Commands that compare the books: audit, reconcile."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from trellis.cli.common import Json, out, progress, read_settings, show
from trellis.cli.printing import print_report, report_json

if TYPE_CHECKING:
    from trellis.audit import Report
    from trellis.reconcile import Repair


def audit(
    histories: Annotated[bool, typer.Option(help="Look at Temporal's histories as well as at the books.")] = True,
    query: Annotated[str, typer.Option(help="Only histories that this visibility query finds.")] = "",
    as_json: Json = False,
) -> None:
    """Check the books: ten invariants, from the ledger, the provider and Temporal's histories."""
    from trellis import stack
    from trellis.audit import audit as check
    from trellis.db.migrate import check_schema
    from trellis.db.pool import open_pool

    settings = read_settings()

    async def work() -> Report:
        found = stack.require(settings)
        await check_schema(found.database_url)
        client = await stack.connect(found.temporal)
        pool = await open_pool(found.database_url)
        try:
            with progress("orders and histories", None, as_json) as tick:
                return await check(client, pool, histories=histories, query=query, tick=tick)
        finally:
            await pool.close()

    report = asyncio.run(work())
    show(report_json(report), as_json, lambda: print_report(report))
    if not report.clean:
        raise typer.Exit(1)


def reconcile(
    apply: Annotated[bool, typer.Option("--apply", help="End them; without it they are only shown.")] = False,
    as_json: Json = False,
) -> None:
    """Find orders whose workflow Temporal closed behind our back, and end them by the fence."""
    from trellis import stack
    from trellis.db.pool import open_pool
    from trellis.desk import opened
    from trellis.reconcile import reconcile as repairs

    settings = read_settings()

    done: list[Repair] = []

    async def work() -> None:
        found = stack.require(settings)
        pool = await open_pool(found.database_url)
        try:
            async with opened(found, settings, pool=pool) as desk:
                try:
                    async for repair in repairs(desk, pool, apply=apply):
                        done.append(repair)
                        if not as_json:
                            _print_repair(repair)
                finally:
                    # What was done is told even when a server goes away in the middle.
                    if as_json:
                        print(json.dumps([asdict(repair) for repair in done]), flush=True)
        finally:
            await pool.close()

    asyncio.run(work())
    planned = sum(repair.outcome == "planned" for repair in done)
    if not as_json and not done:
        out.print("No order is stranded.")
    elif not as_json and planned:
        out.print(f"Nothing was changed. `trellis reconcile --apply` ends {planned} of them.")
    if any(repair.outcome == "failed" for repair in done):
        raise typer.Exit(1)


def _print_repair(repair: Repair) -> None:
    ended = f"; {repair.ended}" if repair.ended else ""
    out.print(
        f"{repair.order_id}  {repair.state}: its workflow {repair.workflow}; {repair.action}{ended}.",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip

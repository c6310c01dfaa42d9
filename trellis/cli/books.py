"""Commands that compare ledger, provider and Temporal: audit, reconcile."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from trellis.cli.common import Json, out, progress, read_settings, run, show
from trellis.cli.printing import print_report, report_json

if TYPE_CHECKING:
    from trellis.audit import Report
    from trellis.reconcile import Repair


def audit(
    histories: Annotated[bool, typer.Option(help="Also check Temporal's histories.")] = True,
    query: Annotated[str, typer.Option(help="Only histories that this visibility query finds.")] = "",
    module: Annotated[
        str | None, typer.Option(help="Also check the invariants of this module: a Python file, or a dotted name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the books: eleven invariants, from the ledger, the provider and Temporal's histories, and your own.

    Exit code 0: clean; 1: something is wrong, or there was nothing to check; 2: an invariant of your own is broken.
    """
    from trellis.audit import audit as check
    from trellis.audit import invariants_of
    from trellis.runtime import opened

    settings = read_settings()
    own = () if module is None else invariants_of(module)

    async def work() -> Report:
        async with opened(settings, pool_wait=30) as runtime:
            with progress("orders and histories", None, as_json) as tick:
                return await check(
                    runtime.desk.client, runtime.pool, histories=histories, query=query, tick=tick, own=own
                )

    report = run(work())
    show(report_json(report), as_json, lambda: print_report(report))
    if not report.clean:
        raise typer.Exit(2 if report.broken and not report.found else 1)


def reconcile(
    apply: Annotated[bool, typer.Option("--apply", help="End these orders; without it they are only shown.")] = False,
    as_json: Json = False,
) -> None:
    """Find orders whose workflow ended before the order did, and end them."""
    from trellis.reconcile import reconcile as repairs
    from trellis.runtime import opened

    settings = read_settings()

    done: list[Repair] = []

    async def work() -> None:
        async with opened(settings, pool_wait=30) as runtime:
            try:
                async for repair in repairs(runtime.desk, runtime.pool, apply=apply):
                    done.append(repair)
                    if not as_json:
                        _print_repair(repair)
            finally:
                # Print what was done, even when a server goes away in the middle.
                if as_json:
                    print(json.dumps([asdict(repair) for repair in done]), flush=True)

    run(work())
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

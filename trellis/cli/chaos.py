"""`trellis chaos`: break things on purpose, and see whether and how soon orders recover."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trellis.cli.common import Json, out, progress, read_settings, run, say, show
from trellis.errors import BadInput, StackError, TrellisError
from trellis.faults import FaultPlan
from trellis.policies import preset

if TYPE_CHECKING:
    from trellis.chaos.scenario import Options, Result

RATE = 3.0
"""Orders a second, unless the machine is too slow for it: then `trellis.chaos` lowers it."""


def chaos(
    scenario: Annotated[str, typer.Option(help="One scenario, several with commas, or all.")] = "worker-killed",
    list_: Annotated[bool, typer.Option("--list", help="Only list the scenarios.")] = False,
    orders: Annotated[int, typer.Option(min=1, help="How many orders in each scenario.")] = 60,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, max=1000, help="How many orders arrive a second; else 3, or fewer on a slow machine."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of arrivals, faults and breaks.")] = 0,
    outage: Annotated[
        float | None, typer.Option(min=0, help="Seconds that each fault lasts; else as its scenario says.")
    ] = None,
    every: Annotated[
        float | None, typer.Option("--every", "--kill-every", min=1, help="Break again every so many seconds.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="How long orders arrive, instead of --orders.")] = None,
    policy: Annotated[str, typer.Option(help="One of the presets.")] = "swift",
    faults: Annotated[
        str | None, typer.Option(help="Faults of all calls: canonical, calm, a script or JSON; else some of each kind.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder of a scenario with violations.")] = False,
    page: Annotated[Path | None, typer.Option(help="Where to write the page; else chaos.html in TRELLIS_HOME.")] = None,
    as_json: Json = False,
) -> None:
    """Break workers, servers, wires and providers on purpose while orders arrive, heal them, and audit the books.

    Each scenario has servers of its own and ends them.
    """
    from trellis.chaos.registry import NEMESES, find
    from trellis.chaos.run import chaos as run_chaos
    from trellis.chaos.scenario import Options, mild

    if list_:
        _list(as_json)
        return
    settings = read_settings()
    # The servers are broken on purpose. Hundreds of warnings that they do not answer would bury the verdicts.
    for name in ("temporalio", "psycopg"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chosen = find(scenario)
    if minutes is not None:
        orders = max(1, round(minutes * 60 * (rate or RATE)))
    options = Options(
        orders=orders, rate=rate or RATE, slows=rate is None and minutes is None, seed=seed, seconds=outage,
        every=every, policy=preset(policy), workers=workers,
        faults=mild() if faults is None else FaultPlan.parse(faults), keep=keep,
    ).check()  # fmt: skip
    where = page or settings.home / "chaos.html"
    if page is not None:
        _check_writable(page)
    with progress("orders", orders * len(chosen), as_json) as tick:
        result = run(run_chaos(settings, chosen, options, tell=(lambda _: None) if as_json else say, tick=tick))
    _write(where, result, options, {name: one.says for name, one in NEMESES.items()})
    show(result.to_json(), as_json, lambda: _print(result, where))
    _judge(result)


def _list(as_json: bool) -> None:
    from rich.table import Table

    from trellis.chaos.registry import NEMESES

    found = [
        {"name": one.name, "says": one.says, "seconds": one.seconds, "experiment": one.experiment}
        for one in NEMESES.values()
    ]

    def human() -> None:
        table = Table("scenario", "what breaks", "for", "experiment of Temporal's guide", box=None)
        for one in found:
            table.add_row(str(one["name"]), str(one["says"]), f"{one['seconds']:g} s", str(one["experiment"]))
        out.print(table)

    show(found, as_json, human)


def _check_writable(where: Path) -> None:
    """Raise BadInput now, and not after twenty minutes."""
    if where.is_dir() or not os.access(where if where.exists() else where.parent, os.W_OK):
        raise BadInput(f"The page cannot be written to {where}. Name a file in a folder that you may write to.")


def _write(where: Path, result: Result, options: Options, says: dict[str, str]) -> None:
    from trellis.chaos.page import page

    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(page(result, options, says), "utf-8")


def _print(result: Result, where: Path) -> None:
    from rich.table import Table

    from trellis.chaos.page import seconds

    table = Table("scenario", "verdict", box=None)
    for head in ("orders", "acknowledged", "landed", "violations", "backlog", "drained [s]", "predicted [s]"):
        table.add_column(head, justify="right")
    for one in result.scenarios:
        numbers = (one.orders, one.acknowledged, one.verdict.landed, one.verdict.violations, one.backlog)
        times = (seconds(one.drained_s), seconds(one.predicted_s))
        table.add_row(one.name, one.verdict.word, *map(str, numbers), *times)
    out.print(table)
    for one in result.scenarios:
        if one.moves.orders:
            out.print(
                f"{one.name}: orders with nothing in flight moved again at most {seconds(one.moves.others_s)} s after "
                f"a new worker worked, those with a step at most {seconds(one.moves.in_flight_s)} s after the end of "
                f"its heartbeat, those with a workflow task at most {seconds(one.moves.task_s)} s after its timeout.",
                soft_wrap=True,
            )
        if one.folder is not None:
            out.print(f"{one.name}: kept. Look at it with TRELLIS_HOME={one.folder} trellis up", soft_wrap=True)
    for skipped in result.skipped:
        out.print(f"{skipped.name}: skipped. {skipped.why}", soft_wrap=True)
    out.print(f"The page to keep: {where}", soft_wrap=True)


def _judge(result: Result) -> None:
    """End with 1 unless every scenario is clean. A skipped one is neither."""
    if any(one.verdict.violations for one in result.scenarios):
        raise typer.Exit(1)
    void = [one.name for one in result.scenarios if one.verdict.void]
    if void:
        why = "; ".join(one.trouble for one in result.scenarios if one.trouble)
        raise TrellisError(
            f"VOID: {', '.join(void)} proved nothing. "
            + (why or "No fault landed. Give more --orders, or another --seed.")
        )
    if not result.scenarios:
        raise StackError("No scenario could be staged here, so nothing was proved.")

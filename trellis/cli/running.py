"""Commands that run whole orders: demo, load."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trellis.cli.arguments import Preset
from trellis.cli.common import Json, open_desk, out, progress, read_settings, run, show
from trellis.cli.printing import print_event, spread
from trellis.errors import TemporalUnavailable
from trellis.faults import FaultPlan
from trellis.model import FORWARD_OUTSIDE_STEPS
from trellis.policies import preset

if TYPE_CHECKING:
    from trellis.desk import Desk


def demo(
    policy: Preset = None,
    faults: Annotated[str, typer.Option(help="canonical, calm, a script, or JSON.")] = "canonical",
    as_json: Json = False,
) -> None:
    """One order from start to end, live in the terminal. Starts the servers it needs."""
    from trellis.driving import sample_order
    from trellis.runtime import opened

    settings = read_settings().model_copy(update={"faults": faults})
    plan = FaultPlan.parse(faults)
    chosen = preset(policy or settings.policy)

    async def work() -> dict[str, Any]:
        async with (
            opened(settings, start=True, end=True, pool_wait=30) as runtime,
            runtime.workers() as watch,
        ):
            await runtime.desk.set_faults(plan, followed=True)
            await watch.refresh()
            return await _watch_one(runtime.desk, sample_order("demo"), chosen, quiet=as_json)

    result = run(work())
    show(result, as_json, lambda: None)
    if result["state"] != "COMPLETED":
        raise typer.Exit(1)


async def _watch_one(desk: Desk, order: Any, policy: Any, *, quiet: bool) -> dict[str, Any]:

    began, since = time.perf_counter(), datetime.now(UTC)
    await desk.start(order, policy)
    if not quiet:
        out.print(f"[bold]order {order.order_id}[/]  2 x book, 25.00, policy {policy.name}", markup=True)
    receipt = asyncio.create_task(desk.approve(order.order_id))
    shown = 0
    while True:
        events = await desk.ledger.events(order.order_id)
        for event in events[shown:]:
            if not quiet:
                print_event(event.to_json(), since)
        shown = len(events)
        row = await desk.ledger.order(order.order_id)
        if row is not None and row.state.terminal:
            break
        await asyncio.sleep(0.05)
    await asyncio.gather(receipt, return_exceptions=True)
    status = await desk.wait(order.order_id)
    seconds = time.perf_counter() - began
    attempts = sum(1 for event in await desk.ledger.events(order.order_id) if event.attempt is not None)
    if not quiet:
        charges = await desk.ledger.charges(order.order_id)
        out.print(
            f"[bold]{status.state}[/] after {seconds:.2f} s and {attempts} attempts "
            f"at {len(FORWARD_OUTSIDE_STEPS)} steps; "
            f"the payment provider's own book shows {charges} charge{'' if charges == 1 else 's'}.",
            markup=True,
            soft_wrap=True,
        )
    return {"order_id": order.order_id, "state": status.state, "seconds": round(seconds, 3), "attempts": attempts}


def load(
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 100,
    at_once: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 10,
    policy: Preset = None,
    faults: Annotated[
        str | None, typer.Option(help="canonical, calm, a script or JSON; else the plan in force.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run many orders through the workers of this workspace, each approved at once."""
    from trellis.driving import drive

    settings = read_settings()
    plan = None if faults is None else FaultPlan.parse(faults)
    chosen = preset(policy or settings.policy)

    async def work() -> dict[str, Any]:
        async with open_desk(settings) as desk:
            if not await desk.workers():
                raise TemporalUnavailable("No worker is running. Start one with `trellis worker`.")
            if plan is not None:
                await desk.set_faults(plan, followed=True)
            with progress("orders", orders, as_json) as tick:
                driven = await drive(desk, orders, at_once, chosen, tick)
        return {"orders": orders, "states": dict(driven.states), **spread(driven.seconds)}

    show(run(work()), as_json)

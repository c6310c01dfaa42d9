"""`trellis faults`: choose which calls fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from trellis.cli.common import Json, open_desk, read_settings, show
from trellis.faults import FaultPlan

commands = typer.Typer(no_args_is_help=True, help="Choose which calls fail; running orders follow within a second.")


def _plan(change: Callable[[FaultPlan], FaultPlan] | None, as_json: bool) -> None:
    settings = read_settings()

    async def work() -> dict[str, Any]:
        async with open_desk(settings) as desk:
            in_force = await desk.faults()
            if change is not None:
                in_force = await desk.set_faults(change(in_force.plan))
            return {"version": in_force.version, "plan": in_force.plan.to_json()}

    show(asyncio.run(work()), as_json)


@commands.command("show")
def faultsshow(as_json: Json = False) -> None:
    """The plan in force."""
    _plan(None, as_json)


@commands.command("canonical")
def faults_canonical(
    seed: Annotated[int, typer.Option(help="Another seed, other luck.")] = 0, as_json: Json = False
) -> None:
    """A third of the calls raise, a third hang, a third return."""
    _plan(lambda _: FaultPlan.canonical(seed), as_json)


@commands.command("calm")
def faults_calm(as_json: Json = False) -> None:
    """Nothing fails."""
    _plan(lambda _: FaultPlan.calm(), as_json)


@commands.command("set")
def faults_set(
    error: Annotated[float | None, typer.Option(help="Probability that a call raises at once.")] = None,
    hang: Annotated[float | None, typer.Option(help="Probability that a call hangs.")] = None,
    reply_lost: Annotated[float | None, typer.Option(help="Probability that a done call looks failed.")] = None,
    latency: Annotated[float | None, typer.Option(help="Seconds that a good call takes.")] = None,
    step: Annotated[str | None, typer.Option(help="Only this step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all outcomes.")] = None,
    script: Annotated[str | None, typer.Option(help='Fixed outcomes: "dispatch: error, hang, ok".')] = None,
    as_json: Json = False,
) -> None:
    """Change the plan in force."""
    given = {"error": error, "hang": hang, "reply_lost": reply_lost, "latency": latency}
    mix = {name: value for name, value in given.items() if value is not None}
    if not mix and seed is None and script is None:
        raise typer.BadParameter("say what to change: --error, --hang, --reply-lost, --latency, --seed or --script")

    def change(plan: FaultPlan) -> FaultPlan:
        if seed is not None:
            plan = replace(plan, seed=seed)
        if script is not None:
            plan = replace(plan, script=script)
        return plan.with_step(step, **mix) if mix else plan.check()

    _plan(change, as_json)

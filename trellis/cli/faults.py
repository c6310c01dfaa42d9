"""`trellis faults`: choose which calls fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from trellis.cli.common import Json, open_desk, read_settings, run, show
from trellis.faults import KINDS, FaultPlan, PlanInForce
from trellis.model import OUTSIDE_STEPS
from trellis.outages import (
    Outages,
    capacity_in_words,
    in_words,
    parse_capacity,
    parse_outage,
    parse_random_outages,
)

commands = typer.Typer(no_args_is_help=True, help="Choose which calls fail; running orders follow within a second.")


def _plan(change: Callable[[FaultPlan], FaultPlan] | None, as_json: bool, *, keep_outages: bool = True) -> None:
    settings = read_settings()

    async def work() -> PlanInForce:
        async with open_desk(settings) as desk:
            in_force = await desk.faults()
            if change is None:
                return in_force
            return await desk.set_faults(change(in_force.plan), keep_outages=keep_outages)

    force = run(work())
    plan = force.plan
    found: dict[str, Any] = {"version": force.version, "plan": plan.to_json()}
    if plan.outages:
        found["outages_since"] = force.since
    words = {
        **found,
        **({"outages": "; ".join(map(in_words, plan.outages))} if plan.outages else {}),
        **{f"provider of {step}": capacity_in_words(one) for step, one in plan.capacity.items()},
    }
    show(found, as_json, None if as_json else lambda: show(words, False))


@commands.command("show")
def faults_show(as_json: Json = False) -> None:
    """The plan in force."""
    _plan(None, as_json)


@commands.command("canonical")
def faults_canonical(
    seed: Annotated[int, typer.Option(help="Another seed gives other outcomes.")] = 0, as_json: Json = False
) -> None:
    """A third of the calls raise, a third hang, a third return."""
    _plan(lambda _: FaultPlan.canonical(seed), as_json)


@commands.command("calm")
def faults_calm(as_json: Json = False) -> None:
    """Nothing fails."""
    _plan(lambda _: FaultPlan.calm(), as_json)


def _with_an_option_per_fault(command: Callable[..., None]) -> Callable[..., None]:
    """Replace `**values` of a command by one option for each kind of fault."""
    signature = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[float | None, typer.Option(help=f"{kind.says}.")],
        )
        for name, kind in KINDS.items()
    ]
    others = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    # Typer reads both: the signature for the defaults, the annotations for the types.
    command.__signature__ = signature.replace(parameters=[*options, *others])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*options, *others)}
    return command


@commands.command("set")
@_with_an_option_per_fault
def faults_set(
    *,
    step: Annotated[str | None, typer.Option(help=f"Only this step: {', '.join(OUTSIDE_STEPS)}.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all outcomes.")] = None,
    script: Annotated[str | None, typer.Option(help='Fixed outcomes: "dispatch: error, hang, ok".')] = None,
    outage: Annotated[
        list[str] | None,
        typer.Option(
            help='A window: "charge:5:10:hang" (step or all, begins [s], lasts [s], error or hang). Repeatable.'
        ),
    ] = None,
    random_outages: Annotated[
        list[str] | None,
        typer.Option(
            help='Windows without end: "charge:2:20" (step or all, mean length [s], mean gap [s], error or hang).'
        ),
    ] = None,
    no_outages: Annotated[bool, typer.Option("--no-outages", help="End all outages.")] = False,
    capacity: Annotated[
        list[str] | None,
        typer.Option(
            help='A finite provider: "charge:3:0.2" (step, calls at once, seconds each); "charge:none" ends it.'
        ),
    ] = None,
    as_json: Json = False,
    **values: float | None,
) -> None:
    """Change the plan in force: the faults of all steps or of one, the seed, the script, outages, capacity.

    New outages replace those of the plan, and begin now. All other changes leave them, and their clock, as they are.
    """
    mix = {name: value for name, value in values.items() if value is not None}
    windows: Outages = (*map(parse_outage, outage or []), *map(parse_random_outages, random_outages or []))
    capacities = [parse_capacity(one) for one in capacity or []]
    if not (mix or windows or no_outages or capacities) and seed is None and script is None:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in (*KINDS, "seed", "script", "outage"))
        raise typer.BadParameter(f"Say what to change: {options}, --random-outages, --no-outages or --capacity.")
    if windows and no_outages:
        raise typer.BadParameter("Give --no-outages or the outages, not both.")

    def change(plan: FaultPlan) -> FaultPlan:
        if seed is not None:
            plan = replace(plan, seed=seed)
        if script is not None:
            plan = replace(plan, script=script)
        if windows or no_outages:
            plan = plan.with_outages(*windows)
        for name, one in capacities:
            plan = plan.with_capacity(name, one)
        return plan.with_step(step, **mix) if mix else plan.check()

    _plan(change, as_json, keep_outages=not windows)

"""`trellis faults`: choose which calls fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import typer

from trellis.cli.common import Json, open_desk, read_settings, run, show
from trellis.faults import KINDS, FaultPlan
from trellis.model import OUTSIDE_STEPS

commands = typer.Typer(no_args_is_help=True, help="Choose which calls fail; running orders follow within a second.")


def _plan(change: Callable[[FaultPlan], FaultPlan] | None, as_json: bool) -> None:
    settings = read_settings()

    async def work() -> dict[str, Any]:
        async with open_desk(settings) as desk:
            in_force = await desk.faults()
            if change is not None:
                in_force = await desk.set_faults(change(in_force.plan))
            return {"version": in_force.version, "plan": in_force.plan.to_json()}

    show(run(work()), as_json)


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
    as_json: Json = False,
    **values: float | None,
) -> None:
    """Change the plan in force: the faults of all steps or of one, the seed, the script."""
    mix = {name: value for name, value in values.items() if value is not None}
    if not mix and seed is None and script is None:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in (*KINDS, "seed"))
        raise typer.BadParameter(f"Say what to change: {options} or --script.")

    def change(plan: FaultPlan) -> FaultPlan:
        if seed is not None:
            plan = replace(plan, seed=seed)
        if script is not None:
            plan = replace(plan, script=script)
        return plan.with_step(step, **mix) if mix else plan.check()

    _plan(change, as_json)

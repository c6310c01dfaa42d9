"""Fault plans for other people's activities: which names a plan may hold, and what it means for one workflow type.

A name is an activity type, or "WorkflowType/activity_type" for the calls of one workflow type. The longer name wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from trellis.faults import FaultPlan, ForeignNames, PlanInForce
from trellis.outages import Capacity


class Names(ForeignNames):
    """The activity types of one worker. It contains each of them, alone and after any workflow type."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(tuple.__contains__(self, part) for part in _endings(name))


def _endings(name: str) -> Iterable[str]:
    """The name, and what follows each slash in it: types can hold slashes of their own."""
    yield name
    for found in re.finditer("/", name):
        yield name[found.end() :]


def mentioned(plan: FaultPlan) -> list[str]:
    """All names in a plan."""
    found = [*plan.steps, *plan.capacity, *(step for step, _ in _script(plan.script))]
    found += [one.step for one in plan.outages if one.step is not None]
    return list(dict.fromkeys(found))


def unknown(plan: FaultPlan, types: tuple[str, ...]) -> list[str]:
    """The names that belong to no activity type of the worker."""
    return [name for name in mentioned(plan) if name not in types]


def narrowed(force: PlanInForce, workflow_type: str, types: tuple[str, ...]) -> tuple[PlanInForce, dict[str, str]]:
    """The plan for the calls of one workflow type, by activity type alone; and the name under which the plan gives the
    capacity of each activity type's provider."""
    plan = force.plan
    meant = {name: _meant(name, workflow_type, tuple(types)) for name in mentioned(plan)}
    # Longer names come last and so replace shorter ones.
    names = sorted((name for name, to in meant.items() if to is not None), key=lambda name: name != meant[name])
    steps = {str(meant[name]): plan.steps[name] for name in names if name in plan.steps}
    capacity: dict[str, Capacity] = {str(meant[name]): plan.capacity[name] for name in names if name in plan.capacity}
    places = {str(meant[name]): name for name in names if name in plan.capacity}
    script = dict(_script(plan.script))
    lines = {str(meant[name]): script[name] for name in names if name in script}
    outages = tuple(
        one if one.step is None else replace(one, step=meant[one.step])
        for one in plan.outages
        if one.step is None or meant[one.step] is not None
    )
    own = replace(
        plan, steps=steps, capacity=capacity, outages=outages,
        script="; ".join(f"{step}: {outcomes}" for step, outcomes in lines.items()),
    )  # fmt: skip
    return replace(force, plan=own), places


def _meant(name: str, workflow_type: str, types: tuple[str, ...]) -> str | None:
    """The activity type that a name stands for in this workflow type; None: it is about another one."""
    if name in types or "/" not in name:
        return name
    return name.removeprefix(f"{workflow_type}/") if name.startswith(f"{workflow_type}/") else None


def _script(script: str) -> list[tuple[str, str]]:
    parts = (part.partition(":") for part in re.split(r"[;\n]", script) if part.strip())
    return [(step.strip(), outcomes.strip()) for step, _, outcomes in parts]

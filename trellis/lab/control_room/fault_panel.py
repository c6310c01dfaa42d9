"""The panel of faults: a slider for each kind of fault, for all steps or for one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from trellis.faults import FaultPlan, Mix
from trellis.lab.control_room.board import Handler, Message, Panel, Room
from trellis.model import OUTSIDE_STEPS, REPLY_CAN_BE_LOST

PRESETS = {"calm": "Calm", "canonical": "Canonical thirds"}


class Faults(Panel):
    name = "faults"

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self._moved: dict[tuple[str | None, str], float] = {}
        self._changing = asyncio.Lock()

    def options(self) -> dict[str, Any]:
        return {"sliders": sliders(), "steps": list(OUTSIDE_STEPS), "presets": PRESETS}

    def handlers(self) -> Mapping[str, Handler]:
        return {"fault": self._move, "preset faults": self._preset}

    async def _move(self, message: Message) -> None:
        name, value = str(message.get("name")), message.get("value")
        if name not in (slider["name"] for slider in sliders()) or not isinstance(value, int | float):
            return
        self._moved[message.get("step"), name] = float(value)
        async with self._changing:
            # Only the latest place of each slider counts, on the plan that the ledger has by now.
            moves, self._moved = self._moved, {}
            plan = (await self.room.engine.watch.refresh()).plan
            for (step, slider), place in moves.items():
                plan = moved(plan, step, slider, place)
            if moves:
                await self._put_in_force(plan)

    async def _preset(self, message: Message) -> None:
        plan = FaultPlan.parse(str(message.get("name")))
        self._moved.clear()
        async with self._changing:
            await self._put_in_force(plan)

    async def _put_in_force(self, plan: FaultPlan) -> None:
        await self.room.engine.desk.ledger.set_fault_plan(plan)
        await self.room.engine.watch.refresh()
        self.room.feed.send_faults()


def sliders() -> list[dict[str, Any]]:
    """One for each field of Mix: {name, label, unit, max, step, only}. `only`: the steps that can have it, or None."""
    return [
        {"name": "error", "label": "Raise at once", "unit": "share", "max": 1, "step": 0.01, "only": None},
        {"name": "hang", "label": "Hang", "unit": "share", "max": 1, "step": 0.01, "only": None},
        {
            "name": "reply_lost", "label": "Done, but reply lost", "unit": "share", "max": 1, "step": 0.01,
            "only": sorted(REPLY_CAN_BE_LOST),
        },
        {"name": "latency", "label": "Latency of good calls", "unit": "s", "max": 3, "step": 0.05, "only": None},
    ]  # fmt: skip


def moved(plan: FaultPlan, step: str | None, name: str, value: float) -> FaultPlan:
    """The plan with one slider moved, for one step or for all. Raises ConfigError.

    Probabilities add up to 1 at most: what no longer fits is taken from the other kinds in proportion. A script would
    hide what the slider does, so it ends here.
    """
    shares = [slider["name"] for slider in sliders() if slider["unit"] == "share"]

    def mixed(mix: Mix) -> Mix:
        mix = replace(mix, **{name: value})
        others = [other for other in shares if other != name]
        total = sum(getattr(mix, other) for other in others)
        if name not in shares or total + value <= 1:
            return mix
        room = max(0.0, 1 - value) / total
        return replace(mix, **{other: getattr(mix, other) * room for other in others})

    if step is None:
        steps = {one: mixed(mix) for one, mix in plan.steps.items()}
        return replace(plan, mix=mixed(plan.mix), steps=steps, script="").check()
    return replace(plan, steps={**plan.steps, step: mixed(plan.mix_of(step))}, script="").check()

"""The panel of faults: a slider for each kind of fault, for all steps or for one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from trellis.faults import KINDS, FaultPlan, sliders
from trellis.lab.control_room.board import Handler, Message, Panel, Room
from trellis.model import OUTSIDE_STEPS

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
        if name not in KINDS or not isinstance(value, int | float):
            return
        self._moved[message.get("step"), name] = float(value)
        async with self._changing:
            # Only the latest position of each slider counts. It changes the plan that is in the ledger now.
            moves, self._moved = self._moved, {}
            plan = (await self.room.engine.watch.refresh()).plan
            for (step, slider), place in moves.items():
                plan = plan.moved(step, slider, place)
            if moves:
                await self._put_in_force(plan)

    async def _preset(self, message: Message) -> None:
        plan = FaultPlan.parse(str(message.get("name")))
        self._moved.clear()
        async with self._changing:
            await self._put_in_force(plan)

    async def _put_in_force(self, plan: FaultPlan) -> None:
        await self.room.engine.desk.set_faults(plan, keep_outages=True)
        await self.room.engine.watch.refresh()
        self.room.feed.send_faults()

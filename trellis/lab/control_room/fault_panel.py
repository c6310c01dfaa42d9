"""The panel of faults: a slider for each kind of fault, for all steps or for one."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from trellis.faults import KINDS, FaultPlan, sliders
from trellis.lab.control_room.board import Handler, Message, Panel, Room
from trellis.model import OUTSIDE_STEPS


class FaultSliders(Panel):
    """Sliders that change a plan in force. `app`: whose plan, where a board shows several; None for the orders'."""

    name = "faults"
    presets: ClassVar[Mapping[str, str]]

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self._moved: dict[tuple[str | None, str | None, str], float] = {}
        self._changing = asyncio.Lock()

    def options(self) -> dict[str, Any]:
        return {"sliders": sliders(), "presets": self.presets}

    def handlers(self) -> Mapping[str, Handler]:
        return {"fault": self._move, "preset faults": self._preset}

    async def _move(self, message: Message) -> None:
        name, value, app = str(message.get("name")), message.get("value"), message.get("app")
        if name not in KINDS or not isinstance(value, int | float):
            return
        self._moved[app, message.get("step"), name] = float(value)
        async with self._changing:
            # Only the latest position of each slider counts. It changes the plan that is in force now.
            moves = {key: place for key, place in self._moved.items() if key[0] == app}
            self._moved = {key: place for key, place in self._moved.items() if key[0] != app}
            if moves:
                plan = await self._in_force(app)
                for (_, step, slider), place in moves.items():
                    plan = plan.moved(step, slider, place)
                await self._put_in_force(app, plan)

    async def _preset(self, message: Message) -> None:
        name, app = str(message.get("name")), message.get("app")
        if name not in self.presets:
            return
        self._moved = {key: place for key, place in self._moved.items() if key[0] != app}
        async with self._changing:
            await self._put_in_force(app, FaultPlan.parse(name))

    @abstractmethod
    async def _in_force(self, app: str | None) -> FaultPlan:
        """The plan in force now, as its book says."""

    @abstractmethod
    async def _put_in_force(self, app: str | None, plan: FaultPlan) -> None:
        """Put a plan in force, keep the outages that go on, and show it."""


class Faults(FaultSliders):
    """The plan of the orders, which the ledger holds."""

    presets: ClassVar[Mapping[str, str]] = {"calm": "Calm", "canonical": "Canonical thirds"}

    def options(self) -> dict[str, Any]:
        return {**super().options(), "steps": list(OUTSIDE_STEPS), "noun": "step", "follow": "Running orders follow"}

    async def _in_force(self, app: str | None) -> FaultPlan:
        return (await self.room.engine.watch.refresh()).plan

    async def _put_in_force(self, app: str | None, plan: FaultPlan) -> None:
        await self.room.engine.desk.set_faults(plan, keep_outages=True)
        await self.room.engine.watch.refresh()
        self.room.feed.send_faults()

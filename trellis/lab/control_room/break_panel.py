"""The panels of experiments: buttons that break something, and the card with the verdict of the audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trellis.errors import BadInput
from trellis.lab.breaking import Breaker
from trellis.lab.control_room.board import Handler, Message, Panel

SHOWN = 12
"""The page gets this many experiments, the newest ones."""


@dataclass(frozen=True)
class Button:
    """`nemesis`: what it breaks, by its name in `trellis chaos --list`. `seconds`: for how long. `end`: the words of
    the button that heals it before that time."""

    nemesis: str
    label: str
    seconds: float
    end: str = "Heal it now"


BUTTONS = (
    Button("worker-killed", "Kill a worker", 3),
    Button("worker-frozen", "Freeze a worker", 30, "Wake it now"),
    Button("temporal-killed", "Restart Temporal", 1, "Start it now"),
    Button("postgres-killed", "Stop Postgres for 5 s", 5, "Start it now"),
    Button("postgres-wire-cut", "Cut a wire for 5 s", 5, "Mend it now"),
    Button("provider-raises", "Provider out for 10 s", 10),
)


class Break(Panel):
    """A button for each thing that can be broken. One that cannot be used here says why."""

    name = "breaking"

    def options(self) -> dict[str, Any]:
        return {"ends": {button.nemesis: button.end for button in BUTTONS}}

    def handlers(self) -> Mapping[str, Handler]:
        return {"break": self._break, "heal": self._heal}

    async def _break(self, message: Message) -> None:
        button = next((one for one in BUTTONS if one.nemesis == message.get("name")), None)
        if button is None:
            raise BadInput(f"There is no button for {message.get('name')!r}.")
        await self.room.engine.breaker.begin(button.nemesis, button.seconds)

    async def _heal(self, _: Message) -> None:
        self.room.engine.breaker.heal()


class Experiments(Panel):
    """The card of the last experiment, and a table of those before it."""

    name = "experiments"


def state(breaker: Breaker) -> dict[str, Any]:
    """What both panels show: the buttons, each with the reason why it cannot be used, and the experiments."""
    return {
        "buttons": [
            {
                "name": button.nemesis, "label": button.label, "says": breaker.says(button.nemesis),
                "why": breaker.why_not(button.nemesis),
            }
            for button in BUTTONS
        ],
        "experiments": [one.to_json() for one in breaker.experiments[:SHOWN]],
    }  # fmt: skip

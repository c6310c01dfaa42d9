"""The panel of faults for flights: the sliders of the orders' panel, for the plan of each app that the board shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from temporalio.client import Client

from trellis.errors import BadInput
from trellis.faults import FaultPlan
from trellis.lab.control_room.fault_panel import FaultSliders
from trellis.lab.flights.feed import FlightFeed
from trellis.plugin.plugin import is_loopback


class FlightFaults(FaultSliders):
    """The plans of the book. A worker whose plugin has a plan of its own does not follow them."""

    presets: ClassVar[Mapping[str, str]] = {"calm": "Calm"}

    def options(self) -> dict[str, Any]:
        return {**super().options(), "noun": "activity type", "follow": "Workers with TrellisPlugin follow"}

    @property
    def _feed(self) -> FlightFeed:
        feed = self.room.feed
        assert isinstance(feed, FlightFeed)
        return feed

    async def _in_force(self, app: str | None) -> FaultPlan:
        return await self._feed.plan_of(self._checked(app))

    async def _put_in_force(self, app: str | None, plan: FaultPlan) -> None:
        await self._feed.set_plan(self._checked(app), plan)

    def _checked(self, app: str | None) -> str:
        if why := no_faults_in(self._feed.client):
            raise BadInput(why)
        if not app:
            raise BadInput("Choose the task queue whose activities must fail.")
        return app


def no_faults_in(client: Client) -> str | None:
    """Why no faults are injected on the server of this client; None if they are."""
    host = str(client.service_client.config.target_host)
    if is_loopback(host):
        return None
    return f"The server {host} is not on this machine, so this board injects no faults there."

"""All at once: in each lane one nemesis after another, and the lanes at the same time."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from trellis.chaos.house import House
from trellis.chaos.nemeses import disk, doors, provider, requests, servers, wires, workers
from trellis.chaos.nemesis import Nemesis, insist
from trellis.errors import TrellisError

LANES: dict[str, tuple[type[Nemesis], ...]] = {
    "temporal": (servers.TemporalKilled, servers.TemporalFrozen, *(one for one in wires.ALL if one.wire == "temporal")),
    "postgres": (
        servers.PostgresKilled, servers.PostgresFrozen, *(one for one in wires.ALL if one.wire == "postgres"),
        disk.DiskFull,
    ),
    "workers": workers.ALL,
    "providers": provider.ALL,
    "requests": (
        requests.RequestsDoubled, requests.RequestsEarly, requests.RequestsLate, doors.ApiKilled, requests.CancelStorm,
    ),
}  # fmt: skip
"""What breaks the same thing shares a lane, so that no nemesis heals what another one has just broken."""

SECONDS = 12.0
"""How long the lanes go on [s]."""


class AllAtOnce(Nemesis):
    name = "all-at-once"
    says = "Servers, wires, workers, providers and requests break at the same time, by the draw of the seed."
    seconds = SECONDS

    def __init__(self) -> None:
        self.landed_by: dict[str, int] = {}
        """How many faults of each nemesis landed; known after `landed`."""
        self._staged: list[Nemesis] = []
        self._lanes: list[asyncio.Task[None]] = []

    def why_not(self, house: House) -> str | None:
        return servers.foreign(house) or wires.PostgresCut().why_not(house) or workers.WorkerFrozen().why_not(house)

    async def break_(self, house: House) -> None:
        self._lanes = [asyncio.create_task(self._lane(house, name)) for name in LANES]

    async def _lane(self, house: House, name: str) -> None:
        draw = random.Random(f"all at once {self.seed} {name}")
        possible = [one for one in LANES[name] if one().why_not(house) is None]
        draw.shuffle(possible)
        for kind in possible:
            await asyncio.sleep(draw.uniform(0.0, 2.0))
            nemesis = kind()
            nemesis.seed = f"{self.seed} {name}"
            self._staged.append(nemesis)
            # Another lane may have broken what this one needs now. Then this fault does not land, and the next one may.
            with suppress(TrellisError, TimeoutError):
                await house.stage(nemesis, draw.uniform(1.5, 4.0))

    async def heal(self, house: House) -> None:
        for lane in self._lanes:
            lane.cancel()
        ended = await asyncio.gather(*self._lanes, return_exceptions=True)
        # The servers first: workers, plans and requests need them.
        for name in LANES:
            for nemesis in self._staged:
                if type(nemesis) in LANES[name]:
                    # It may have failed to heal while something else was broken.
                    await insist(partial(nemesis.heal, house))
        for note in house.broken:
            # `stage` notes the end of a fault that it could heal; the others have ended by now.
            if note.healed is None and note.name != self.name:
                note.healed = datetime.now(UTC)
        for mistake in ended:
            if isinstance(mistake, Exception):
                raise mistake

    async def landed(self, house: House) -> int:
        for nemesis in self._staged:
            self.landed_by[nemesis.name] = self.landed_by.get(nemesis.name, 0) + await nemesis.landed(house)
        self._staged = []
        return sum(self.landed_by.values())


ALL: tuple[type[Nemesis], ...] = (AllAtOnce,)

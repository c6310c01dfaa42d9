"""Servers that are killed, and servers that are frozen: Temporal and Postgres."""

from __future__ import annotations

from typing import ClassVar

from trellis.chaos.experiments import DEPENDENCY
from trellis.chaos.house import House, refuse_servers_of_others
from trellis.chaos.nemesis import Nemesis
from trellis.errors import StackError
from trellis.stack import breaking
from trellis.stack.processes import stands_still


def foreign(house: House) -> str | None:
    """Why the servers of this house are not to be broken; None if Trellis started them."""
    try:
        refuse_servers_of_others(house.runtime)
    except StackError as error:
        return str(error)
    return None


class _OfServer(Nemesis):
    """Something happens to all processes of one server."""

    server: ClassVar[breaking.Server]
    outage = True

    def __init__(self) -> None:
        self._pid: int | None = None
        """The server's first process, once it is broken."""

    def why_not(self, house: House) -> str | None:
        return foreign(house)


class _Killed(_OfServer):
    """The server's process is killed. `heal` starts it on the same files, at the same address."""

    # As measured: the server reads its files, and clients that waited longer each time ask again.
    lag_s = 1.5

    async def break_(self, house: House) -> None:
        self._pid = await breaking.kill(house.settings, self.server)

    async def heal(self, house: House) -> None:
        await breaking.start_again(house.settings, self.server)

    async def landed(self, house: House) -> int:
        # Another process serves now: the first one did not come through.
        return int(self._pid is not None and self._pid != breaking.processes(house.settings, self.server)[0].pid)


class TemporalKilled(_Killed):
    name = "temporal-killed"
    says = "Temporal is killed and started again on its file."
    server = "temporal"


class PostgresKilled(_Killed):
    name = "postgres-killed"
    says = "Postgres is killed, all its processes at once, and started again on its files."
    experiment = DEPENDENCY
    server = "postgres"


class _Frozen(_OfServer):
    """All processes of the server stop where they are. Its connections stay open, and nobody answers."""

    def __init__(self) -> None:
        super().__init__()
        self._stood_still = 0

    async def break_(self, house: House) -> None:
        self._pid = await breaking.freeze(house.settings, self.server)

    async def heal(self, house: House) -> None:
        # What has stopped by now has stood still since `break_`: nobody else lets it go on.
        if self._pid is not None and not self._stood_still:
            self._stood_still = int(await stands_still(self._pid))
        await breaking.thaw(house.settings, self.server)

    async def landed(self, house: House) -> int:
        return self._stood_still


class TemporalFrozen(_Frozen):
    name = "temporal-frozen"
    says = "Temporal stops in the middle of what it does, and later goes on."
    server = "temporal"


class PostgresFrozen(_Frozen):
    name = "postgres-frozen"
    says = "All processes of Postgres stop in the middle of what they do, and later go on."
    experiment = DEPENDENCY
    server = "postgres"


ALL: tuple[type[Nemesis], ...] = (TemporalKilled, TemporalFrozen, PostgresKilled, PostgresFrozen)

"""What a nemesis is. A nemesis breaks one thing on purpose, heals it, and says whether the fault landed.

The word is Jepsen's (jepsen.io): the process of a test that injects faults into the system.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

from trellis.chaos.house import House
from trellis.config import Settings
from trellis.errors import TrellisError

INSISTS = 60.0
"""How long something is tried again that another nemesis may keep from working now [s]."""


async def insist(call: Callable[[], Awaitable[object]], error: type[TrellisError] = TrellisError) -> None:
    """Call until it works. Raises the last `error` if it has not worked for a minute."""
    deadline = time.monotonic() + INSISTS
    while True:
        try:
            await call()
            return
        except error:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.5)


class Nemesis(ABC):
    """One kind of fault. A subclass sets the names and writes `break_`, `heal` and `landed`.

    An object is used for one scenario, or for one press of a button. It may keep what it broke in its attributes.
    The order of calls: `prepare`, the servers start, `why_not`, `break_`, `heal` (perhaps again), `landed`, the servers
    end, `clear`. The lab's buttons call `why_not`, `break_`, `heal` and `landed` only.
    """

    name: ClassVar[str]
    """What people type, such as "worker-killed"."""

    says: ClassVar[str]
    """One sentence for `--list` and for buttons: what breaks."""

    experiment: ClassVar[str] = ""
    """The experiment of Temporal's pre-production guide that this covers, in the guide's own words; "" if none."""

    seconds: ClassVar[float] = 6.0
    """How long the fault lasts in a scenario [s]: from the end of `break_` to the call of `heal`. 0: heal at once."""

    outage: ClassVar[bool] = False
    """While it lasts, no order moves. So the time to drain afterwards can be predicted."""

    replaces_workers: ClassVar[bool] = False
    """`heal` starts new workers. How long they take is measured before the run, and is part of the prediction."""

    heal_s: ClassVar[float] = 0.0
    """About how long `heal` takes apart from new workers [s], for the prediction."""

    lag_s: ClassVar[float] = 0.0
    """About how long after `heal` orders stand still, such as until clients connect again [s], for the prediction."""

    seed: object = 0
    """What a nemesis draws its choices by. The run sets it before `break_`."""

    def why_not(self, house: House) -> str | None:
        """A sentence if this machine cannot stage it, else None. It breaks nothing."""
        return None

    async def prepare(self, settings: Settings) -> None:  # noqa: B027 - most nemeses need no preparation
        """Called before the servers of the workspace start, such as to put the ledger on a small disk."""

    def clear(self, settings: Settings) -> None:  # noqa: B027
        """Called after the servers have ended and before the workspace is deleted: undo `prepare`. Safe to call
        twice, and without `prepare`."""

    @abstractmethod
    async def break_(self, house: House) -> None:
        """Break it, and return when it is broken."""

    @abstractmethod
    async def heal(self, house: House) -> None:
        """Mend it, and return when what was broken answers again.

        Safe to call twice, after a `break_` that failed half-way, and without `break_`.
        """

    @abstractmethod
    async def landed(self, house: House) -> int:
        """How many faults demonstrably landed, from what was seen. Called after `heal`, when the orders have ended.

        With 0 the scenario proves nothing and is void. So count what the fault did (connections cut, tries that met
        the outage, a process that ended), and not that `break_` was called.
        """

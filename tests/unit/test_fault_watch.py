"""How a worker follows the fault plan."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from trellis import workers
from trellis.config import Settings
from trellis.errors import DatabaseUnavailable


class ComesAndGoes:
    """A ledger whose database is away for three questions, back for one, and away again."""

    def __init__(self) -> None:
        self.asked = 0

    async def fault_plan(self) -> None:
        self.asked += 1
        if self.asked not in (1, 5):
            raise DatabaseUnavailable


async def test_each_outage_of_the_database_is_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plan is asked for twice a second; a line at each failure would bury what else a worker logs."""
    logged: list[str] = []

    class Log:
        def warning(self, event: str, **_: Any) -> None:
            logged.append(event)

    monkeypatch.setattr(workers, "log", Log())
    ledger = ComesAndGoes()
    async with workers.FaultWatch(ledger, Settings.model_validate({})) as watch:  # type: ignore[arg-type]
        while ledger.asked < 7:
            await asyncio.sleep(0.05)
            # A plan that is not from the ledger has a clock for its outages all the same: the worker's own start.
        assert watch.current.since is not None
    assert logged == ["the fault plan cannot be looked up"] * 2

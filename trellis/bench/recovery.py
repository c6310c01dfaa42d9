"""How long an outage takes to drain, measured and predicted before: lengths of outages times loads.

The outage is `workers-gone`: all workers are killed, and new ones start after a while. Before the cells, the pace of
this machine is measured. Each cell has servers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rich.table import Table

from trellis.chaos.nemeses.workers import AllWorkersGone
from trellis.chaos.recovery import predicted
from trellis.chaos.run import measure_pace, scenario
from trellis.chaos.scenario import Options, Skipped
from trellis.config import Settings
from trellis.errors import BadInput
from trellis.policies import preset, tuned

BEFORE, AFTER = 8.0, 10.0
"""How long orders arrive before the outage, and after all should be as before [s]."""

MARGIN = 1.3
"""Orders go on to arrive for this multiple of the predicted time, so that a longer one can be measured."""

SHARE, LEAST = 0.2, 1.0
"""A prediction holds if it is within this share of the measured time, or within so many seconds."""


def numbers(text: str, least: float, most: float) -> list[float]:
    """Numbers with commas between them. Raises BadInput."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(least <= one <= most for one in found):
        raise BadInput(f"Give numbers from {least:g} to {most:g} with commas between them, not {text[:40]!r}.")
    return found


async def run(
    settings: Settings, outages: Sequence[float], loads: Sequence[float], seed: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """{orders_per_s, lag_s, hire_s, cells: [{outage_s, load, rate, orders, drained_s, predicted_s, holds, ...}],
    holds: how many cells, violations}. Raises StackError."""
    # A budget that outlasts every outage: orders that give up would shorten the queue, and this is about the queue.
    base = Options(seed=seed, policy=tuned(preset("swift"), name="swift", budget=300))
    pace = await measure_pace(settings, base)
    cells = []
    for outage in outages:
        for load in loads:
            rate = load * pace.orders_per_s
            out = outage + pace.hire_s
            expected = predicted(rate, out, pace, lag_s=pace.lag_s) or 0.0
            orders = round((BEFORE + out + MARGIN * expected + AFTER) * rate)
            options = replace(base, orders=orders, rate=rate, seconds=outage, break_at=BEFORE)
            one = await scenario(settings, AllWorkersGone, options, pace)
            assert not isinstance(one, Skipped)
            holds = one.drained_s is not None and one.predicted_s is not None and (
                abs(one.drained_s - one.predicted_s) <= max(LEAST, SHARE * one.drained_s)
            )  # fmt: skip
            cells.append({"outage_s": outage, "load": load, "rate": round(rate, 2), "holds": holds} | one.to_json())
            tick()
    return {
        "orders_per_s": round(pace.orders_per_s, 2),
        "lag_s": round(pace.lag_s, 2),
        "hire_s": round(pace.hire_s, 2),
        "holds": sum(bool(cell["holds"]) for cell in cells),
        "violations": sum(int(str(cell["violations"])) for cell in cells),
        "cells": cells,
    }


def show(result: dict[str, Any], write: Callable[[object], None]) -> None:
    """The cells as a table, for people."""
    table = Table("outage [s]", "load", "rate [1/s]", "drained [s]", "predicted [s]", "holds", box=None)
    for cell in result["cells"]:
        columns = ("outage_s", "load", "rate", "drained_s", "predicted_s", "holds")
        table.add_row(*(str(cell[column]) for column in columns))
    write(table)
    write(
        f"{result['orders_per_s']} orders/s when many wait. The prediction holds in {result['holds']} of "
        f"{len(result['cells'])} cells; {result['violations']} violations."
    )

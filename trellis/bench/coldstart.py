"""How long a new user waits: from `lab.start()` in a fresh process to the first COMPLETED order."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trellis import stack
from trellis.config import Settings
from trellis.errors import TrellisError
from trellis.runtime import workspace

# The clock starts before the import, because a person waits for that too.
_FIRST_CELLS = """
import asyncio, time
began = time.perf_counter()
from trellis import lab
session = lab.start()
order = session.start_order()
session.approve(order)
status = asyncio.run(session.wait(order))
assert status["state"] == "COMPLETED", status
print(time.perf_counter() - began)
session.stop()
"""


def run(settings: Settings, rounds: int, tick: Callable[[], None]) -> dict[str, Any]:
    """{never_used_s, used_s: median seconds, rounds}. Used: the workspace has data, and its servers are down."""
    seconds: dict[str, list[float]] = {"never_used_s": [], "used_s": []}
    for _ in range(rounds):
        with workspace(settings, own_servers=False) as own:
            for figures in seconds.values():
                figures.append(_once(own.home))
                stack.down(own)
                tick()
    return {name: round(statistics.median(figures), 2) for name, figures in seconds.items()} | {"rounds": rounds}


def _once(home: Path) -> float:
    environment = {**os.environ, "TRELLIS_HOME": str(home), "TRELLIS_FAULTS": "calm"}
    done = subprocess.run([sys.executable, "-c", _FIRST_CELLS], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise TrellisError(f"The first order did not complete: {done.stderr.strip()[-300:]}")
    return float(done.stdout.strip().splitlines()[-1])

"""The log as a DataFrame: how fast, against a bare Arrow fetch and `pandas.read_sql`, and how much memory it takes."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, LiteralString

from trellis import stack
from trellis.config import Settings
from trellis.db import reading
from trellis.db.migrate import migrate
from trellis.errors import TrellisError

PER_ORDER = 20

# Orders of twenty events, two thirds of them tries without success, as the canonical faults leave them. The id of a
# try's event derives from its identity; here any distinct uuid will do.
_FILL: LiteralString = """
INSERT INTO events (event_id, order_id, type, step, attempt, round, execution, try, started_at, duration_ms, worker,
                    payload_json, ts)
SELECT gen_random_uuid(), 'order-' || (n / 20), kind[1 + n %% 20],
       CASE WHEN n %% 20 = 19 THEN 'complete' ELSE step[1 + (n %% 20) / 3] END,
       CASE WHEN n %% 20 < 18 THEN 1 + n %% 3 END, CASE WHEN n %% 20 < 18 THEN (n %% 20) / 9 END,
       CASE WHEN n %% 20 < 18 THEN 1 END, CASE WHEN n %% 20 < 18 THEN 1 + n %% 3 END,
       CASE WHEN n %% 20 < 18 THEN timestamptz '2026-01-01 00:00Z' + n * interval '30 ms' END,
       CASE WHEN n %% 20 < 18 THEN CASE WHEN n %% 3 = 1 THEN 250 + random() ELSE 5 * random() END END,
       'worker-' || (n %% 4),
       CASE WHEN n %% 3 < 2 AND n %% 20 < 18
            THEN jsonb_build_object('fault_plan', 1, 'error', step[1 + (n %% 20) / 3] || ' failed on purpose')
            ELSE '{"fault_plan": 1}' END,
       timestamptz '2026-01-01 00:00Z' + n * interval '30 ms' + interval '260 ms'
FROM generate_series(%(first)s::int, %(last)s::int - 1) AS n,
     (SELECT '{receive,validate,charge,prepare,dispatch,ship,complete}'::text[] AS step,
             '{ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,ORDER_RECEIVED,ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,ORDER_VALIDATED,
               ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,PAYMENT_CHARGED,ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,PACKAGE_PREPARED,
               ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,CARRIER_DISPATCHED,ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,ORDER_SHIPPED,
               SHIPPING_STARTED,ORDER_COMPLETED}'::text[] AS kind) AS words
"""

# In a process of its own: memory that an earlier round freed would hide what this one needs.
_MEASURE_MEMORY = """
import json, sys, threading, time
import psutil
from trellis.insight import frames
list(frames.events(sys.argv[1], "nobody", batches=1))
me, peak, done = psutil.Process(), 0, threading.Event()
base = me.memory_info().rss
def watch():
    global peak
    while not done.is_set():
        peak = max(peak, me.memory_info().rss)
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
if sys.argv[2] == "whole":
    frame = frames.events(sys.argv[1])
    rows, held = len(frame), int(frame.memory_usage(deep=True).sum())
else:
    rows, held, tally = 0, 0, {}
    for frame in frames.events(sys.argv[1], batches=int(sys.argv[2])):
        rows += len(frame)
        held = max(held, int(frame.memory_usage(deep=True).sum()))
        for kind, number in frame["type"].value_counts().items():
            tally[kind] = tally.get(kind, 0) + number
done.set(); watcher.join()
print(json.dumps({"rows": rows, "peak_mb": (peak - base) / 2**20, "frame_mb": held / 2**20}))
"""


def fill(url: str, rows: int, tick: Callable[[], None] = lambda: None) -> None:
    """Write `rows` plausible events, a million at a time, and have Postgres look at them."""
    with reading.connection(url) as connection:
        for first in range(0, rows, 1_000_000):
            connection.execute(_FILL, {"first": first, "last": min(rows, first + 1_000_000)})
            tick()
        connection.execute("VACUUM ANALYZE events")


def memory(url: str, batches: int | None = None) -> dict[str, Any]:
    """{rows, peak_mb, frame_mb} of reading all events in a fresh process, whole or by frames of `batches` rows."""
    command = [sys.executable, "-c", _MEASURE_MEMORY, url, str(batches or "whole")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise TrellisError(f"The measuring process failed: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout))


def _load(url: str) -> int:
    from trellis.insight import frames

    return len(frames.events(url))


def _floor(url: str) -> int:
    return int(reading.arrow_table(url, reading.query(reading.EVENTS)).num_rows)


def _read_sql(url: str) -> int:
    import pandas as pd

    with reading.connection(url) as connection, warnings.catch_warnings():
        # pandas prefers SQLAlchemy and says so; over a bare driver it is the faster of the two.
        warnings.simplefilter("ignore", UserWarning)
        return len(pd.read_sql(reading.query(reading.EVENTS), connection))


def _seconds(load: Callable[[str], int], url: str, rows: int) -> float:
    gc.collect()
    began = time.perf_counter()
    got = load(url)
    took = time.perf_counter() - began
    if got != rows:
        raise TrellisError(f"{load.__name__} gave {got} of {rows} events.")
    return took


def run(
    settings: Settings, rows: int, rounds: int, slow_rounds: int, batches: int | None, tick: Callable[[], None]
) -> dict[str, Any]:
    """{rows, load_s, floor_s, ratio, read_sql_s, speedup, peak_mb, frame_mb}: medians; ratios of alternating rounds.

    `read_sql` runs over a psycopg connection, in the first `slow_rounds` only. With `batches` nothing is timed
    against anything: {rows, batches, peak_mb, frame_mb, seconds} of one pass in frames of that many rows.
    """
    if "adbc" not in reading.drivers():
        raise TrellisError("The floor is ADBC's: install adbc-driver-postgresql first.")
    home = Path(tempfile.mkdtemp(prefix="trellis-bench-"))
    own = settings.model_copy(update={"home": home, "database_url": None})
    try:
        url = asyncio.run(_standing(own))
        fill(url, rows, tick)
        if batches is not None:
            began = time.perf_counter()
            figures = memory(url, batches)
            seconds = time.perf_counter() - began
            return {"batches": batches, "seconds": round(seconds, 1)} | _rounded(figures)
        for load in (_load, _floor):
            _seconds(load, url, rows)
        times: dict[str, list[float]] = {"load": [], "floor": [], "read_sql": []}
        for number in range(rounds):
            pair = [("load", _load), ("floor", _floor)]
            for name, load in pair if number % 2 else pair[::-1]:
                times[name].append(_seconds(load, url, rows))
            if number < slow_rounds:
                times["read_sql"].append(_seconds(_read_sql, url, rows))
            tick()
        median = {name: statistics.median(taken) for name, taken in times.items()}
        ratio = statistics.median(ours / bare for ours, bare in zip(times["load"], times["floor"], strict=True))
        return {
            "load_s": round(median["load"], 3),
            "floor_s": round(median["floor"], 3),
            "ratio": round(ratio, 3),
            "read_sql_s": round(median["read_sql"], 3),
            "speedup": round(median["read_sql"] / median["load"], 2),
            "rounds": rounds,
        } | _rounded(memory(url))
    finally:
        stack.down(own)
        shutil.rmtree(home, ignore_errors=True)


async def _standing(own: Settings) -> str:
    up = await stack.up(own)
    await migrate(up.database_url)
    return up.database_url


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in figures.items()}

"""Reading the events into a DataFrame: its speed against a bare Arrow fetch and `pandas.read_sql`, and its memory."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from trellis.bench.filling import fill
from trellis.config import Settings
from trellis.db import reading
from trellis.errors import TrellisError
from trellis.runtime import opened, workspace

# It runs in a process of its own. Here, memory that an earlier round freed would hide what this round needs.
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


def analysis(url: str) -> dict[str, float]:
    """Seconds of each part of what the essay on events computes: the frames, and each picture up to its JSON."""
    from trellis import insight

    def timed(name: str, make: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = make()
        parts[name] = time.perf_counter() - began
        return made

    parts: dict[str, float] = {}
    events = timed("events", lambda: insight.events(url))
    attempts = timed("attempts", lambda: insight.attempts(events))
    orders = timed("orders", lambda: insight.orders(url))
    steps = timed("steps", lambda: insight.steps(attempts))
    pictures: dict[str, Callable[[], Any]] = {
        "timelines": lambda: insight.timelines(orders, attempts, most=12),
        "attempts_per_step": lambda: insight.attempts_per_step(attempts, success=1 / 3),
        "where_the_seconds_go": lambda: insight.where_the_seconds_go(orders, steps, events),
        "latency": lambda: insight.latency(steps),
        "state_map": lambda: insight.state_map(events),
        "utilisation": lambda: insight.utilisation(attempts),
        "variants": lambda: insight.variants(events),
        "completion": lambda: insight.completion(orders, deadline=15),
    }
    for name, draw in pictures.items():
        made = timed(name, draw)
        timed(f"{name} as JSON", made.to_json)
    return parts


def _floor(url: str) -> int:
    return int(reading.arrow_table(url, reading.query(reading.EVENTS)).num_rows)


def _read_sql(url: str) -> int:
    import pandas as pd

    with reading.connection(url) as connection, warnings.catch_warnings():
        # pandas warns that it prefers SQLAlchemy. It is faster over a bare driver.
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
    """{rows, load_s, floor_s, ratio, read_sql_s, speedup, analysis_s, peak_mb, frame_mb}: medians; ratios of
    alternating rounds.

    `analysis_s`: one run of `analysis`, reading included. `read_sql` runs over a psycopg connection, in the first
    `slow_rounds` only. With `batches` nothing is timed against anything: {rows, batches, peak_mb, frame_mb, seconds}
    of one pass in frames of that many rows.
    """
    if "adbc" not in reading.drivers():
        raise TrellisError("This benchmark compares with ADBC: install adbc-driver-postgresql first.")
    with workspace(settings) as own:
        url = asyncio.run(_start(own))
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
        ratio = statistics.median(load / bare for load, bare in zip(times["load"], times["floor"], strict=True))
        return {
            "load_s": round(median["load"], 3),
            "floor_s": round(median["floor"], 3),
            "ratio": round(ratio, 3),
            "read_sql_s": round(median["read_sql"], 3),
            "speedup": round(median["read_sql"] / median["load"], 2),
            "analysis_s": round(sum(analysis(url).values()), 2),
            "rounds": rounds,
        } | _rounded(memory(url))


async def _start(settings: Settings) -> str:
    async with opened(settings, start=True) as runtime:
        return runtime.stack.database_url


def _rounded(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 1) if isinstance(value, float) else value for name, value in figures.items()}

"""The audit over many orders, without histories: its rate, and how much memory it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import psutil

from trellis.audit import audit
from trellis.bench.bench_stack import bench_stack
from trellis.bench.filling import EVENTS_PER_ORDER, fill
from trellis.config import Settings


async def run(settings: Settings, orders: int, tick: Callable[[int], None]) -> dict[str, Any]:
    """{orders, violations, seconds, orders_per_s, peak_mb_small, peak_mb}: the peaks are growth of this process's
    resident memory [MB], for a tenth of the orders and for all of them."""
    # Made-up orders must never get into a ledger that somebody uses.
    async with bench_stack(settings, own_servers=True) as bench:
        peaks = []
        filled = 0
        for number in (orders // 10, orders):
            await asyncio.to_thread(
                fill, bench.database_url, number * EVENTS_PER_ORDER, first=filled * EVENTS_PER_ORDER, books=True
            )
            filled = number
            peak = asyncio.create_task(_peak())
            began = time.perf_counter()
            report = await audit(bench.desk.client, bench.pool, histories=False, tick=tick)
            took = time.perf_counter() - began
            peak.cancel()
            peaks.append(await peak)
    return {
        "orders": report.orders,
        "violations": sum(report.found.values()),
        "seconds": round(took, 2),
        "orders_per_s": round(report.orders / took),
        "peak_mb_small": peaks[0],
        "peak_mb": peaks[1],
    }


async def _peak() -> float:
    """The most that this process grew by [MB], until it is cancelled."""
    process = psutil.Process()
    first = most = process.memory_info().rss
    try:
        while True:
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        return round((most - first) / 2**20, 1)

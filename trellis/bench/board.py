"""How late the board shows a change in the ledger, and how much an open board slows orders down.

Delay: from an event's `ts`, which the database takes just before the commit, until the widget's trait holds a row with
this event or a later one. Every event of every order on the page counts.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from trellis.bench.filling import fill
from trellis.config import Settings
from trellis.driving import many, run_calm_order, sample_order
from trellis.faults import FaultPlan, Mix
from trellis.lab.control_room.widget import ControlRoom
from trellis.lab.session import Session
from trellis.model import workflow_id
from trellis.policies import preset, tuned
from trellis.runtime import workspace


def run(
    settings: Settings, orders: int, rounds: int, per_round: int, filled: int, tick: Callable[[], None]
) -> dict[str, Any]:
    """{orders, events, filled, p50_ms, p95_ms, throughput_ratio, open_per_s, closed_per_s}, on a stack of its own."""
    with workspace(settings.model_copy(update={"faults": "calm"})) as own:
        session = Session(own)
        try:
            if filled:
                assert session.desk.stack is not None
                fill_old_orders(session.desk.stack.database_url, filled)
            delays = _delays(session, orders)
            tick()
            ratio, open_, closed = _cost(session, rounds, per_round, tick)
        finally:
            session.stop()
    return {
        "orders": orders,
        "events": len(delays),
        "filled": filled,
        "p50_ms": round(float(np.percentile(delays, 50)), 1),
        "p95_ms": round(float(np.percentile(delays, 95)), 1),
        "throughput_ratio": round(ratio, 3),
        "open_per_s": round(open_, 2),
        "closed_per_s": round(closed, 2),
    }


def fill_old_orders(url: str, events: int) -> None:
    """Fill the ledger as after long use: completed orders of the last day, one every two seconds."""
    fill(url, events, prefix="old-", began=datetime.now(UTC) - timedelta(days=1), every=timedelta(seconds=2))


def _delays(session: Session, orders: int) -> list[float]:
    """Milliseconds for each event, with `orders` in flight and all of them on the page."""
    # A third of the calls raise, because tries without success are events too. Good calls take a moment, so that the
    # orders stay in flight together.
    session.faults(FaultPlan(Mix(error=1 / 3, latency=0.3)))
    policy = tuned(preset("patient"), name="bench", placement="activity", review_window=3, at_window_end="approve")
    room = ControlRoom(session, size=min(2 * orders, 1000))
    frames: dict[str, list[tuple[float, int]]] = {}

    def framed(change: Any) -> None:
        at = time.time() * 1000
        for line in change.new["rows"]:
            frames.setdefault(line["id"], []).append((at, line["event"]))

    room.observe(framed, ["changes", "page"])
    since = datetime.now(UTC)

    async def work() -> list[tuple[str, int, float]]:
        samples = [sample_order("bench") for _ in range(orders)]
        lanes = asyncio.Semaphore(20)

        async def one(order: Any) -> None:
            async with lanes:
                await session.desk.start(order, policy)

        await asyncio.gather(*map(one, samples))
        for order in samples:
            await session.desk.client.get_workflow_handle(workflow_id(order.order_id)).result()
        async with session.pool.connection() as connection:
            rows = await connection.execute("SELECT order_id, id, ts FROM events WHERE ts > %s", (since,))
            return [(id_, number, ts.timestamp() * 1000) for id_, number, ts in await rows.fetchall()]

    events = session.submit(work()).result()
    time.sleep(0.5)
    room.close()
    delays = []
    for order_id, number, ts in events:
        seen = [at for at, newest in frames.get(order_id, ()) if newest >= number]
        if not seen:
            raise RuntimeError(f"the board never showed event {number} of {order_id}")
        delays.append(min(seen) - ts)
    session.faults("calm")
    return delays


def _cost(session: Session, rounds: int, per_round: int, tick: Callable[[], None]) -> tuple[float, float, float]:
    """Median of paired ratios of calm orders/s, and both medians."""
    policy = preset("swift")

    async def one() -> None:
        await run_calm_order(session.desk, policy)

    rates: dict[bool, list[float]] = {True: [], False: []}
    session.submit(many(per_round // 2, 20, one)).result()
    for number in range(rounds):
        # The two take turns in coming first, so that a drift of the machine favours neither.
        for open_ in (number % 2 == 0, number % 2 == 1):
            room = session.control_room() if open_ else None
            while room is not None and not room.link["live"]:
                time.sleep(0.02)
            rates[open_].append(per_round / session.submit(many(per_round, 20, one)).result())
            if room is not None:
                room.close()
                while not room.closed:
                    time.sleep(0.02)
        tick()
    ratios = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
    return statistics.median(ratios), statistics.median(rates[True]), statistics.median(rates[False])

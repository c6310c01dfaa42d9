"""What the board costs the ledger: notifications and blocks read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import pytest

from trellis.bench.bench_stack import bench_stack
from trellis.bench.board import fill_old_orders
from trellis.config import Settings
from trellis.db.board import _NAMES, CHANNEL, BoardReader, View, listening
from trellis.db.pool import Pool
from trellis.db.roles import as_owner

pytestmark = pytest.mark.slow


async def test_nobody_watching_means_no_notifications(house: Any) -> None:
    """NOTIFY makes commits take turns; without a board a lone writer sends none, with one each change is announced."""
    payloads = []
    assert house.desk.stack is not None
    async with house.pool.connection() as spy:
        await spy.execute(f"LISTEN {CHANNEL}")
        try:
            order = await house.start()
            await house.until(order, "AWAITING_APPROVAL")
            await house.desk.cancel(order.order_id)
            async for note in spy.notifies(timeout=0.5):
                payloads.append(note.payload)
            before = payloads.count(order.order_id)
            async with listening(house.desk.stack.database_url) as ids:
                other = await house.start()
                async with asyncio.timeout(20):
                    async for id_ in ids:
                        if id_ == other.order_id:
                            break
        finally:
            await spy.execute(f"UNLISTEN {CHANNEL}")
    # Two of one order's writers at once may each take the other for a watcher; most of its events are alone.
    assert before <= 1


class Explaining(BoardReader):
    """Asks how many blocks each query touches, instead of what it finds."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.blocks: list[int] = []

    async def _rows(self, kind: Any, sql: LiteralString, args: dict[str, object]) -> list[Any]:
        async with self._pool.connection() as connection:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}"
            plan = await (await connection.execute(explain, _NAMES | args)).fetchone()
        assert plan is not None
        top = plan[0][0]["Plan"]
        self.blocks.append(top["Shared Hit Blocks"] + top["Shared Read Blocks"])
        return []


async def test_the_board_reads_no_more_of_a_ledger_ten_times_as_large(settings: Settings) -> None:
    """Blocks touched by each of its queries, with 1,000 and with 10,000 old orders of 20 events each."""
    async with bench_stack(settings) as bench:
        touched = []
        for orders in (1_000, 10_000):
            await bench.pool.check()
            async with as_owner(bench.database_url) as owner, owner.connection() as connection:
                await connection.execute("DROP TRIGGER IF EXISTS events_append_only ON events")
                await connection.execute("TRUNCATE events, orders CASCADE")
            await asyncio.to_thread(fill_old_orders, bench.database_url, orders * 20)
            async with as_owner(bench.database_url) as owner, owner.connection() as connection:
                await connection.execute("VACUUM ANALYZE orders, events")
            reader = Explaining(bench.pool)
            middle = (datetime.now(UTC) - timedelta(days=1) + timedelta(seconds=orders), "old-")
            for view in (View(), View(("COMPLETED", "FAILED")), View(prefix="old-5")):
                await reader.page(view)
            await reader.page(View(), middle)
            await reader.orders(f"old-{n}" for n in range(50))
            await reader.tries("old-7")
            await reader.counts()
            touched.append(reader.blocks)
        for small, large in zip(*touched, strict=True):
            # A level more of an index, for each of the page's fifty lines and their four look-ups.
            assert large <= 2 * small + 50, touched

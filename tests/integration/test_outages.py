"""Outages, a provider of finite capacity, and retry budgets, on the real Temporal and the real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import House
from tests.integration.auditing import violated
from trellis import insight
from trellis.db.pool import Pool
from trellis.db.provider import Provider
from trellis.faults import FaultPlan
from trellis.governor import BUCKET, PROBE
from trellis.model import Order, State
from trellis.outages import Capacity, Outage, RandomOutages
from trellis.policies import Policy, preset, tuned
from trellis.stack import Stack

LONG = 3600.0
ROOMY = tuned(preset("swift"), budget=90)


@pytest.fixture
async def house(house: House) -> AsyncIterator[House]:
    """The house, with a provider whose places are all free afterwards."""
    yield house
    async with house.pool.connection() as connection:
        await connection.execute("DELETE FROM provider.places")


async def charges(house: House, *orders: Order) -> list[Any]:
    """The events of these orders' charges that have an attempt number."""
    found = [event for order in orders for event in await house.desk.events(order.order_id)]
    return [event for event in found if event["step"] == "charge" and event["attempt"]]


async def failing(house: House, number: int, policy: Policy) -> list[Order]:
    """So many approved orders, each with a charge that failed at least once."""
    orders = [await house.start(policy, approve=True) for _ in range(number)]
    for order in orders:
        await house.until(order, "charge:ATTEMPT_FAILED")
    return orders


async def test_an_outage_fails_the_calls_of_its_step_in_its_window(house: House) -> None:
    """Every charge that begins in the window is marked and fails. No other step is, and no later charge."""
    await house.faults(FaultPlan.calm().with_outages(Outage(0, LONG, step="charge")))
    [order] = await failing(house, 1, ROOMY)
    # The window now ends by itself, and not because the plan changes.
    await house.faults(FaultPlan.calm().with_outages(Outage(0, 1, step="charge")))
    since = house.watch.current.since
    assert since is not None
    await house.ends(order, State.COMPLETED)
    *failed, charged = await charges(house, order)
    assert {event["payload_json"].get("outage") for event in failed} == {"error"}
    assert all(event["started_at"] < since + timedelta(seconds=1) for event in failed)
    assert "outage" not in charged["payload_json"]
    assert charged["started_at"] + timedelta(milliseconds=charged["duration_ms"]) >= since + timedelta(seconds=1)
    others = [event for event in await house.desk.events(order.order_id) if event["step"] != "charge"]
    assert not [event for event in others if "outage" in event["payload_json"] or "ATTEMPT" in event["type"]]
    assert await violated(house, order) == set()


async def test_an_outage_can_hang_the_calls(house: House) -> None:
    """Each charge then ends with its timeout, and the mark says why."""
    await house.faults(FaultPlan.calm().with_outages(Outage(0, LONG, "hang")))
    order = await house.start(ROOMY)
    await house.until(order, "receive:ATTEMPT_TIMED_OUT")
    await house.faults("calm")
    await house.desk.approve(order.order_id)
    await house.ends(order, State.COMPLETED)
    tries = [event for event in await house.desk.events(order.order_id) if event["type"] == "ATTEMPT_TIMED_OUT"]
    assert {event["payload_json"]["outage"] for event in tries} == {"hang"}


async def test_outages_go_on_while_a_slider_moves(house: House) -> None:
    """A changed plan with the same outages keeps their clock if it is asked to. A new plan begins them now."""
    plan = FaultPlan.calm().with_outages(RandomOutages(5, 50, step="refund"))
    first = await house.desk.set_faults(plan)
    moved = await house.desk.set_faults(plan.moved(None, "latency", 0.001), keep_outages=True)
    assert (moved.version > first.version, moved.since) == (True, first.since)
    assert (await house.desk.faults()).since == first.since
    again = await house.desk.set_faults(plan)
    assert again.since is not None
    assert first.since is not None
    assert again.since > first.since
    other = await house.desk.set_faults(plan.with_outages(Outage(99, 1)), keep_outages=True)
    assert other.since is not None
    assert other.since > again.since


async def test_places_at_a_provider_are_never_given_twice(house: House, pool: Pool) -> None:
    """Forty calls at once, over many connections, at a provider of three: fourteen waves, none of more than three."""
    provider = Provider(pool)
    # A wave is so long that the time between the calls does not matter.
    waits = await asyncio.gather(*(provider.reserve("refund", Capacity(3, 1000)) for _ in range(40)))
    assert sorted(round(wait / 1000) for wait in waits) == sorted(1 + number // 3 for number in range(40))


async def test_a_capacity_can_change_while_calls_are_served(house: House, pool: Pool) -> None:
    """New places are free at once. Places that are taken away finish what they serve, and are busy when they return."""
    provider = Provider(pool)

    async def wave(calls: int) -> int:
        return round(await provider.reserve("refund", Capacity(calls, 1000)) / 1000)

    assert [await wave(1), await wave(1)] == [1, 2]
    assert [await wave(3), await wave(3)] == [1, 1]
    assert [await wave(1), await wave(1)] == [3, 4]
    assert [await wave(3), await wave(3), await wave(3)] == [2, 2, 3]
    # An ordinary table: what was reserved is there after a restart of Postgres.
    assert await house.one("SELECT relpersistence::text FROM pg_class WHERE relname = 'places'") == "p"


async def test_a_call_that_is_given_up_still_occupies_the_provider(house: House) -> None:
    """Each try gives up after a quarter of a second, and the next one finds the queue longer by its whole service."""
    await house.faults(FaultPlan.calm().with_capacity("charge", Capacity(1, 50)))
    order = await house.start(ROOMY, approve=True)
    async with asyncio.timeout(30):
        while len(await charges(house, order)) < 4:
            await asyncio.sleep(0.05)
    await house.faults("calm")
    await house.ends(order, State.COMPLETED)
    queued = [event["payload_json"]["queued"] for event in (await charges(house, order))[:4]]
    assert queued[0] == 0
    assert all(0 < later - earlier < 50 for earlier, later in pairwise(queued))
    assert await violated(house, order) == set()


async def test_two_orders_wait_for_one_another_at_a_provider_of_one(
    house: House, running: Stack, tmp_path: Path
) -> None:
    """Of two charges that come together, one is served at once and one waits; the frame of attempts says how long."""
    patient = tuned(ROOMY, try_timeout=30)
    await house.faults(FaultPlan.calm().with_outages(Outage(0, LONG, step="charge")))
    orders = await failing(house, 2, patient)
    await house.faults(FaultPlan.calm().with_capacity("charge", Capacity(1, 1.0)))
    for order in orders:
        await house.ends(order, State.COMPLETED)
        assert await violated(house, order) == set()
    ids = [order.order_id for order in orders]
    tries = await asyncio.to_thread(insight.attempts, running.database_url, ids)
    good = tries[(tries["step"] == "charge") & (tries["outcome"] == "succeeded")]
    waited = sorted(good["queued"])
    assert waited[0] == 0 < waited[1] <= 1.0
    assert (good["duration_ms"] >= 1000).all()
    assert good["outage"].isna().all()
    out = tries[tries["outcome"] == "failed"]
    assert list(out["outage"].unique()) == ["error"]
    assert tries.loc[tries["step"] != "charge", "queued"].isna().all()
    # Both columns survive a file.
    insight.export(tmp_path / "tries.parquet", running.database_url, table="attempts", order=ids)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "tries.parquet"), tries)


async def test_a_retry_budget_bounds_the_calls_of_an_outage(house: House) -> None:
    """Five orders meet an outage. Together they make their first calls, ten retries, and one a second. Then all end."""
    share = 0.05
    await house.faults(FaultPlan.calm().with_outages(Outage(0, LONG, step="charge")))
    orders = await failing(house, 5, tuned(ROOMY, retry_share=share))
    await asyncio.sleep(2)
    await house.faults("calm")
    for order in orders:
        await house.ends(order, State.COMPLETED)
        assert await violated(house, order) == set()
    out = [event for event in await charges(house, *orders) if "outage" in event["payload_json"]]
    began = [event["started_at"] for event in out]
    seconds = (max(began) - min(began)).total_seconds()
    assert 5 <= len(out) <= 5 * (1 + share) + BUCKET + seconds / PROBE + 1

"""What the mathematics say, against orders that ran."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conftest import House
from trellis import insight, stack
from trellis.faults import FaultPlan
from trellis.insight.fit import fit
from trellis.insight.recommend import recommend
from trellis.insight.retries import predict
from trellis.model import State, parse_order
from trellis.policies import preset


async def test_a_fit_of_real_attempts_finds_the_thirds(house: House, running: stack.Stack) -> None:
    """Eighty orders under canonical faults: the shares come out near thirds, and the recommendation can be run."""
    await house.faults(FaultPlan.canonical())
    began = time.time()

    async def one(number: int) -> None:
        id_ = f"fit-{number}"
        await house.desk.start(parse_order(id_, f"p-{id_}", [], {"line1": "1 Main St"}), preset("swift"))
        await house.desk.approve(id_)
        await house.desk.wait(id_)

    await asyncio.gather(*(one(number) for number in range(80)))
    attempts = await asyncio.to_thread(insight.attempts, running.database_url, since=began_at(began))
    found = fit(attempts[attempts["order_id"].str.startswith("fit-")])
    # Five standard errors; a busy machine only turns good calls into slow ones.
    assert found.shares["error"] == pytest.approx(1 / 3, abs=0.06)
    assert found.shares["ok"] == pytest.approx(1 / 3, abs=0.06)
    chosen = recommend(60, 0.01, FaultPlan(found.mix))
    order = house.order()
    await house.desk.start(order, chosen.policy)
    await house.desk.approve(order.order_id)
    await house.ends(order, State.COMPLETED)


async def test_real_calls_cost_what_was_predicted(house: House, running: stack.Stack) -> None:
    """Three calls a step, whatever the machine does: the one figure that no load can bend."""
    await house.faults(FaultPlan.canonical(5))
    orders = await asyncio.gather(*(house.start(approve=True) for _ in range(60)))
    for order in orders:
        await house.desk.wait(order.order_id)
    ids = [order.order_id for order in orders]
    attempts = await asyncio.to_thread(insight.attempts, running.database_url, ids)
    ended = attempts.groupby(["order_id", "step"], observed=True)["attempt"].max()
    assert ended.mean() == pytest.approx(predict(preset("swift")).calls_per_step, rel=0.25)


def began_at(seconds: float) -> str:
    """As the filters take it: ISO 8601, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))

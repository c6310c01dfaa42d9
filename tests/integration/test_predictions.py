"""The predictions of the mathematics, compared with orders that ran."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tests.conftest import House
from trellis import insight, stack
from trellis.bench.deadline import rounds_used_up
from trellis.driving import run_order
from trellis.faults import FaultPlan, Outcome
from trellis.insight.calls import Overhead
from trellis.insight.chain import ORDER
from trellis.insight.fit import learn
from trellis.insight.recommend import recommend
from trellis.insight.retries import predict
from trellis.model import FORWARD_OUTSIDE_STEPS, State, TryId
from trellis.parsing import parse_order
from trellis.policies import preset, tuned

pytestmark = pytest.mark.slow


async def test_a_fit_of_real_attempts_finds_the_thirds(house: House, running: stack.Stack) -> None:
    """Eighty orders under canonical faults: the shares come out near thirds, and the recommendation can be run."""
    await house.faults(FaultPlan.canonical())
    began = datetime.now(UTC)

    async def one(number: int) -> None:
        id_ = f"fit-{number}"
        await house.desk.start(parse_order(id_, f"p-{id_}", [], {"line1": "1 Main St"}), preset("swift"))
        await house.desk.approve(id_)
        await house.desk.wait(id_)

    await asyncio.gather(*(one(number) for number in range(80)))
    attempts = await asyncio.to_thread(lambda: insight.attempts(running.database_url, since=began))
    orders = await asyncio.to_thread(lambda: insight.orders(running.database_url, since=began))
    learned = learn(attempts[attempts["order_id"].str.startswith("fit-")], runs=orders)
    assert list(learned.steps) == [str(step) for step in FORWARD_OUTSIDE_STEPS]
    for found in learned.steps.values():
        # Five standard errors; a busy machine only turns good calls into slow ones.
        slack = 5 * (0.25 / found.tries) ** 0.5 + 0.02
        assert found.shares["error"] == pytest.approx(1 / 3, abs=slack)
        assert found.shares["ok"] == pytest.approx(1 / 3, abs=slack)
    # Chain and overhead are given: eighty orders at once wait for the cores, and that wait would be learned too.
    chosen = recommend(15, 1e-4, learned, steps=ORDER, overhead=Overhead())
    assert chosen.p_miss_at_worst is not None
    order = house.order()
    await house.desk.start(order, chosen.policy)
    await house.desk.approve(order.order_id)
    await house.ends(order, State.COMPLETED)


async def test_real_calls_cost_what_was_predicted(house: House, running: stack.Stack) -> None:
    """Three calls a step, and no order faster than computed. Both hold under any load."""
    plan = FaultPlan.canonical(5)
    await house.faults(plan)
    orders = await asyncio.gather(*(house.start(approve=True) for _ in range(60)))
    for order in orders:
        await house.desk.wait(order.order_id)
    ids = [order.order_id for order in orders]
    attempts = await asyncio.to_thread(insight.attempts, running.database_url, ids)
    # However busy the machine, no more orders are done by a time than the faults alone allow.
    seconds = (await asyncio.to_thread(insight.orders, running.database_url, ids))["seconds"]
    fastest = predict(preset("swift"), overhead=Overhead(0.0, 0.0))
    for at in (0.5, 1.0, 1.5, 2.0, 3.0):
        assert (seconds <= at).mean() <= fastest.cdf(at) + 4 * (0.25 / len(seconds)) ** 0.5
    # A busy machine answers some calls after their timeout. Those that the plan did not draw as faults do not count.
    late = sum(
        row["outcome"] != "succeeded"
        and plan.outcome(TryId(row["order_id"], row["step"], row["round"], row["execution"], row["try"])) is Outcome.OK
        for row in attempts.dropna(subset=["attempt"]).to_dict("records")
    )
    ended = attempts.groupby(["order_id", "step"], observed=True)["attempt"].max()
    assert ended.mean() - late / len(ended) == pytest.approx(predict(preset("swift")).calls_per_step, rel=0.25)


async def test_orders_that_used_up_their_rounds_are_counted_apart(house: House) -> None:
    """One order's rounds all failed, and another's budget ended. The benchmark counts only the first."""
    swift = preset("swift")
    rounds = tuned(swift, dispatch_retries=1, steps={"dispatch": {"max_tries": 1}})
    slow = tuned(swift, budget=2.0, steps={"dispatch": {"max_tries": 0}})
    await house.faults(FaultPlan.scripted("dispatch: " + ", ".join(["error"] * 2_000)))
    ended = [await run_order(house.desk, policy, prefix="used-up") for policy in (rounds, slow)]
    assert [one.state for one in ended] == [State.FAILED, State.FAILED]
    assert await rounds_used_up(house.desk, ended, rounds) == 1
    assert await rounds_used_up(house.desk, ended[1:], slow) == 0

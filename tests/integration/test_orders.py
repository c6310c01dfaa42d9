"""Every path of an order, on the real Temporal and the real Postgres."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.service import RPCError

from tests.conftest import CALM_LIFE, House
from trellis.db.provider import Provider, ProviderRefused
from trellis.desk import Desk
from trellis.errors import OrderConflict, RequestRefused
from trellis.faults import FaultPlan
from trellis.model import Order, State, charge_key
from trellis.policies import Policy, preset, tuned


async def test_a_calm_order_leaves_exactly_its_ten_events(house: House) -> None:
    """Without faults, an order's log is its ten events in order, and the charge says what it took."""
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)
    assert await house.events(order) == CALM_LIFE
    charged = (await house.desk.events(order.order_id))[4]
    assert charged["payload_json"] | {"fault_plan": 0} == {
        "payment_id": order.payment_id,
        "amount": "25.00",
        "previous_status": "PENDING",
        "fault_plan": 0,
    }
    assert charged["attempt"] == 1


async def test_approval_may_come_before_the_review_begins(house: House) -> None:
    """An approval that arrives while the order is still being received ends the review before it starts."""
    await house.faults("receive: error, error, ok")
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)


async def test_approval_in_time_ends_the_wait(house: House) -> None:
    """An order waits in review until somebody approves it."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    status = await house.desk.status(order.order_id)
    assert status["state"] == State.AWAITING_APPROVAL
    assert (await house.desk.approve(order.order_id)).verdict == "accepted"
    await house.ends(order, State.COMPLETED)


async def test_an_unapproved_order_times_out_and_refuses_a_late_approval(house: House) -> None:
    """At the window's end the order is APPROVAL_TIMEOUT; an approval after that is refused and written down."""
    order = await house.start(tuned(preset("swift"), review_window=1.0))
    status = await house.ends(order, State.APPROVAL_TIMEOUT)
    assert "in time" in status["last_error"]
    with pytest.raises(RequestRefused, match="APPROVAL_TIMEOUT"):
        await house.desk.approve(order.order_id)
    assert (await house.events(order))[-1] == "REQUEST_REFUSED"


async def test_a_policy_may_approve_by_itself(house: House) -> None:
    """With at_window_end approve, the end of the window is the approval, and the log says who gave it."""
    order = await house.start(tuned(preset("swift"), review_window=1.0, at_window_end="approve"))
    await house.ends(order, State.COMPLETED)
    approved = next(e for e in await house.desk.events(order.order_id) if e["type"] == "ORDER_APPROVED")
    assert approved["payload_json"]["by"] == "policy"


@pytest.mark.parametrize("finished", [False, True])
async def test_what_the_books_say_of_an_ending_holds(house: House, finished: bool) -> None:
    """A workflow task may be lost after its local activities decided the ending. The next task keeps that ending."""
    order = await house.start()
    await house.until(order, "AWAITING_APPROVAL")
    await house.desk.ledger.close(order.order_id, State.CANCELLED, "changed my mind")
    if finished:
        await house.desk.ledger.finish(order.order_id, State.CANCELLED, "changed my mind")
    await house.desk.approve(order.order_id)
    await house.ends(order, State.CANCELLED)
    events = await house.events(order)
    assert events.count("ORDER_CANCELLED") == 1
    assert "PAYMENT_CHARGED" not in events
    assert "ORDER_FAILED" not in events


@pytest.mark.parametrize("failing", [1, 2])
async def test_a_failed_dispatch_gets_a_fresh_child(house: House, quick: Policy, failing: int) -> None:
    """A round that fails is followed by a new child; the order ships once."""
    await house.faults("dispatch: " + "error* | " * failing + "ok")
    order = await house.start(quick, approve=True)
    await house.ends(order, State.COMPLETED)
    assert (await house.events(order)).count("DISPATCH_FAILED") == failing


async def test_a_dispatch_that_fails_for_good_refunds(house: House, quick: Policy) -> None:
    """When every round failed the order is FAILED, the charge refunded, and the parcel's key has a tombstone."""
    await house.faults("dispatch: error*")
    order = await house.start(quick, approve=True)
    status = await house.ends(order, State.FAILED)
    assert (await house.events(order)).count("DISPATCH_FAILED") == 3
    assert "dispatch" in status["last_error"]


async def test_a_claimed_order_whose_dispatch_fails_leaves_a_tombstone(house: House, quick: Policy) -> None:
    """A dispatch that claimed and then failed for good is voided at the carrier before the money goes back."""
    order = await house.start(quick)
    await house.until(order, "AWAITING_APPROVAL")
    await house.faults("prepare: hang, ok; dispatch: error*")
    await house.desk.approve(order.order_id)
    await house.until(order, "prepare:ATTEMPT_TIMED_OUT")
    # As a dispatch that claims the order and dies before it calls the carrier.
    assert (await house.desk.ledger.claim_dispatch(order.order_id))[0]
    await house.ends(order, State.FAILED)
    assert await house.tombstones(order) == {"charge", "dispatch"}


async def test_a_parcel_that_exists_after_all_means_going_forward(house: House, quick: Policy) -> None:
    """Every reply of the carrier is lost and all rounds fail: the parcel is found, and the order completes."""
    await house.faults("dispatch: reply-lost*")
    order = await house.start(quick, approve=True)
    await house.ends(order, State.COMPLETED)
    events = await house.events(order)
    assert events.count("DISPATCH_FAILED") == 3
    assert "PAYMENT_REFUNDED" not in events


async def test_a_child_that_times_out_counts_as_a_round(house: House) -> None:
    """Temporal ends a child that takes too long; the parent counts it and starts another."""
    await house.faults("prepare: hang* | ok")
    order = await house.start(tuned(preset("swift"), child_run_timeout=1.5), approve=True)
    await house.ends(order, State.COMPLETED)
    assert (await house.events(order)).count("DISPATCH_FAILED") == 1


async def test_a_terminated_child_counts_as_a_round(house: House) -> None:
    """A child that cannot even signal is counted when it closes."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang* | ok")
    await house.desk.client.get_workflow_handle(f"shipping-{order.order_id}-1").terminate("by an operator")
    await house.ends(order, State.COMPLETED)


async def test_an_exhausted_budget_refunds_and_its_tombstone_holds(house: House) -> None:
    """The budget ends while a charge hangs: the order FAILS, and the late charge is refused by the provider."""
    await house.faults("charge: hang*")
    order = await house.start(tuned(preset("swift"), budget=2.0), approve=True)
    status = await house.ends(order, State.FAILED)
    assert "budget" in status["last_error"]
    assert await house.tombstones(order) == {"charge"}
    with pytest.raises(ProviderRefused):
        await Provider(house.pool).charge(charge_key(order.payment_id), order.order_id, order.total_cents)
    assert await house.one("SELECT count(*) FROM provider.charges WHERE order_id = %s", order.order_id) == 0


@pytest.mark.slow
async def test_a_budget_of_fifteen_seconds_leaves_room_for_a_refund_that_hangs(house: House) -> None:
    """WORKFLOW_RUN_TIMEOUT_SECONDS=15: the refund hangs twice, and the money comes back without an operator."""
    settings = house.desk.settings.model_copy(update={"run_timeout": 15.0, "policy": "compact"})
    desk = Desk(house.desk.client, house.desk.ledger, settings, search_attributes=False)
    await house.faults("prepare: hang*; refund: hang, hang, ok")
    order = house.order()
    await desk.start(order)
    await house.ends(order, State.FAILED, timeout=90)
    assert "budget of 15 s" in ((await desk.status(order.order_id)).last_error or "")
    assert (await house.events(order)).count("PAYMENT_REFUNDED") == 1


async def test_an_order_that_was_never_received_still_ends_in_the_books(house: House) -> None:
    """A budget used up by the very first step leaves a FAILED order, not a hole."""
    await house.faults("receive: hang*")
    order = await house.start(tuned(preset("swift"), budget=1.0))
    await house.ends(order, State.FAILED)


@pytest.mark.slow
async def test_the_budget_does_not_stop_a_claimed_order(house: House) -> None:
    """What a dispatch has claimed is finished, however long it takes."""
    script = "dispatch: reply-lost, " + "hang, " * 12 + "ok"
    await house.faults(script)
    order = await house.start(tuned(preset("swift"), budget=2.0), approve=True)
    await house.ends(order, State.COMPLETED)


@pytest.mark.parametrize("seam", ["charge", "dispatch"])
async def test_a_lost_reply_never_doubles(house: House, seam: str) -> None:
    """The provider did it and the caller saw a failure: the next try finds it done."""
    await house.faults(f"{seam}: reply-lost, reply-lost, ok")
    order = await house.start(approve=True)
    await house.ends(order, State.COMPLETED)


async def test_a_lost_refund_reply_refunds_once(house: House) -> None:
    """A refund whose reply is lost is asked for again, and happens once."""
    order = await house.started_until("prepare:ATTEMPT_TIMED_OUT", "prepare: hang*; refund: reply-lost, error, ok")
    await house.desk.cancel(order.order_id)
    await house.ends(order, State.CANCELLED)


@pytest.mark.parametrize(
    "policy",
    [tuned(preset("swift"), hedge=2), tuned(preset("swift"), hedge=3), preset("reviewed")],
    ids=["hedge 2", "hedge 3", "reviewed"],
)
@pytest.mark.slow
async def test_every_placement_survives_faults(house: House, policy: Policy) -> None:
    """Hedged lanes and Temporal's own retries bring an order through errors and hangs alike."""
    await house.faults("receive: error, ok; charge: hang, ok; dispatch: reply-lost, ok")
    order = await house.start(tuned(policy, budget=60), approve=True)
    await house.ends(order, State.COMPLETED)
    attempts = [(e["step"], e["attempt"]) for e in await house.desk.events(order.order_id) if e["attempt"]]
    assert len(attempts) == len(set(attempts)), "attempt numbers are unique within a step"


async def test_fifty_concurrent_starts_make_one_order(house: House) -> None:
    """The same start fifty times at once is one run, created once."""
    order = house.order()
    starts = await asyncio.gather(*(house.desk.start(order) for _ in range(50)))
    assert len({start.run_id for start in starts}) == 1
    assert sum(start.created for start in starts) == 1
    await house.desk.approve(order.order_id)
    await house.ends(order, State.COMPLETED)
    assert not (await house.desk.start(order)).created


async def test_a_known_id_with_another_body_is_a_conflict(house: House) -> None:
    """An order id belongs to one body, whether the ledger knows it yet or not."""
    order = house.order()
    await house.desk.start(order)
    other = Order(order.order_id, order.payment_id, order.address, ())
    with pytest.raises(OrderConflict, match="another body"):
        await house.desk.start(other)
    await house.desk.approve(order.order_id)
    await house.ends(order, State.COMPLETED)
    with pytest.raises(OrderConflict, match="another body"):
        await house.desk.start(other)


async def test_a_payment_id_belongs_to_one_order(house: House) -> None:
    """The desk refuses another order's payment id. If two starts race, the ledger refuses the second."""
    first = await house.start(approve=True)
    await house.ends(first, State.COMPLETED)
    thief = Order(house.order().order_id, first.payment_id, first.address, first.items)
    with pytest.raises(OrderConflict, match="belongs to order"):
        await house.desk.start(thief)
    one, two = house.order(), house.order()
    two = Order(two.order_id, one.payment_id, two.address, two.items)
    await asyncio.gather(house.desk.start(one), house.desk.start(two))
    for order in (one, two):
        try:
            await house.desk.approve(order.order_id)
        except (RequestRefused, RPCError):
            continue
    states = {str((await house.desk.wait(order.order_id, 30))["state"]) for order in (one, two)}
    assert states == {"COMPLETED", "FAILED"}
    key = charge_key(one.payment_id)
    assert await house.one("SELECT count(*) FROM provider.charges WHERE idempotency_key = %s", key) == 1


async def test_a_change_of_faults_reaches_a_running_order(house: House) -> None:
    """An order stuck in hanging calls moves on once the plan is calm, without a restart."""
    order = await house.started_until("charge:ATTEMPT_TIMED_OUT", "charge: hang*", tuned(preset("swift"), budget=30))
    version = (await house.desk.set_faults(FaultPlan.calm())).version
    await house.ends(order, State.COMPLETED)
    charged = next(e for e in await house.desk.events(order.order_id) if e["type"] == "PAYMENT_CHARGED")
    assert charged["payload_json"]["fault_plan"] == version

"""The outside steps. Each tries its outside work until it succeeds, then writes one record into the ledger.

Charge and dispatch make three round trips: they look at the order (the claim), call the provider, and record.
"""

from __future__ import annotations

from temporalio import activity

from trellis.activities.attempts import Tries
from trellis.activities.undo import record, undo
from trellis.db.ledger import Ledger
from trellis.db.provider import Provider
from trellis.db.tries import Tried
from trellis.flaky import FlakyCall
from trellis.messages import Dispatched, OrderInput, StepInput, Unwind, Unwound
from trellis.model import UNDONE, State, Step, charge_key, dispatch_key
from trellis.policies import Retry
from trellis.retrying.gate import Gates
from trellis.retrying.loop import Stop, benign


class OutsideActivities:
    """The steps that call an outside system. The worker of each queue runs those that STEPS gives to its queue."""

    def __init__(self, ledger: Ledger, provider: Provider, flaky: FlakyCall) -> None:
        self._ledger = ledger
        self._provider = provider
        self._flaky = flaky
        self._gates = Gates()

    def _tries(self, order_id: str, step: Step, round_: int, retry: Retry) -> Tries:
        return Tries(self._ledger, self._flaky, order_id, step, round_, retry, self._gates.of(step, retry))

    async def _simple(self, order_id: str, step: Step, round_: int, retry: Retry) -> Tried:
        """A step whose outside system keeps no records: a try is the flaky call and nothing else."""

        async def call() -> None:
            return None

        _, tried = await self._tries(order_id, step, round_, retry).succeed(call)
        return tried

    @activity.defn(name=Step.RECEIVE)
    async def receive(self, given: OrderInput) -> None:
        """Insert the order and reserve its payment id. If another order has that payment id, the order fails."""
        tried = await self._simple(given.order.order_id, Step.RECEIVE, 0, given.policy.retry_of(Step.RECEIVE))
        owner = await self._ledger.receive(given.order, given.policy, tried)
        if owner is not None:
            message = f"payment id {given.order.payment_id} belongs to order {owner}"
            raise benign(message, "PaymentIdTaken", retry=False)

    @activity.defn(name=Step.VALIDATE)
    async def validate(self, given: StepInput) -> None:
        """ORDER_VALIDATED and AWAITING_APPROVAL, in one transaction."""
        tried = await self._simple(given.order.order_id, Step.VALIDATE, given.round, given.retry)
        await self._ledger.validate(given.order.order_id, tried)

    @activity.defn(name=Step.CHARGE)
    async def charge(self, given: StepInput) -> None:
        """Take the money once, whatever happens to the caller."""
        order = given.order

        async def call() -> None:
            status, closing = await self._ledger.claim_charge(order.order_id)
            # Check `closing` first: a hung try that wakes up late must not charge an order that is being undone.
            if closing:
                raise Stop(UNDONE)
            if status != "CHARGED":
                await self._provider.charge(charge_key(order.payment_id), order.order_id, order.total_cents)

        _, tried = await self._tries(order.order_id, Step.CHARGE, given.round, given.retry).succeed(call)
        if not await self._ledger.record_charge(order, tried):
            raise benign(UNDONE, "Stopped", retry=False)

    @activity.defn(name=Step.PREPARE)
    async def prepare(self, given: StepInput) -> None:
        """Prepare the package of this round. The first one moves the order to SHIPPING."""
        tried = await self._simple(given.order.order_id, Step.PREPARE, given.round, given.retry)
        if not await self._ledger.prepare(given.order.order_id, given.round, tried):
            raise benign(UNDONE, "Stopped", retry=False)

    @activity.defn(name=Step.DISPATCH)
    async def dispatch(self, given: StepInput) -> Dispatched:
        """Claim the order, fixing its address, and hand the parcel to the carrier, once."""
        order_id = given.order.order_id

        async def call() -> str:
            claimed, address = await self._ledger.claim_dispatch(order_id)
            if not claimed:
                raise Stop(UNDONE)
            return await self._provider.dispatch(dispatch_key(order_id), order_id, address)

        tracking, tried = await self._tries(order_id, Step.DISPATCH, given.round, given.retry).succeed(call)
        await self._ledger.record_dispatch(order_id, given.round, str(tracking), tried)
        return Dispatched(str(tracking))

    @activity.defn(name=Step.SHIP)
    async def ship(self, given: StepInput) -> None:
        """Mark the order as shipped."""
        tried = await self._simple(given.order.order_id, Step.SHIP, given.round, given.retry)
        await self._ledger.ship(given.order.order_id, tried)

    @activity.defn(name=Step.REFUND)
    async def refund(self, given: Unwind) -> Unwound:
        """Undo what can be undone, and write down what became of it."""
        order = given.order

        async def call() -> Unwound:
            return await undo(
                self._ledger, self._provider, order, State(given.ending), given.reason, claimed=given.claimed
            )

        value, tried = await self._tries(order.order_id, Step.REFUND, 0, given.retry).succeed(call)
        assert isinstance(value, Unwound)
        await record(self._ledger, order, given.round, given.reason, value, tried)
        return value

"""The ledger-only steps: one round trip to Postgres, no outside call. They run as local activities."""

from __future__ import annotations

from temporalio import activity

from trellis.db.ledger import Ledger
from trellis.messages import (
    AddressChange,
    Approval,
    DispatchFailure,
    Ending,
    Fence,
    FenceAnswer,
    Refusal,
    Verdict,
)
from trellis.model import State, Step

TOO_LATE = "the carrier already has the parcel"


class LedgerActivities:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @activity.defn(name=Step.APPROVE)
    async def approve(self, given: Approval) -> None:
        await self._ledger.approve(given.order_id, given.request_id, given.by)

    @activity.defn(name=Step.UPDATE_ADDRESS)
    async def update_address(self, given: AddressChange) -> Verdict:
        why = await self._ledger.change_address(given.order_id, given.request_id, given.address)
        return Verdict(why is None, why or "")

    @activity.defn(name="fence")
    async def fence(self, given: Fence) -> FenceAnswer:
        """Mark the order as being undone, unless a dispatch claimed it; a refused cancel is written down."""
        # An order that ends before `receive` has succeeded still needs its row.
        await self._ledger.receive(given.input.order, given.input.policy, None)
        answer = await self._ledger.close(
            given.input.order.order_id, State(given.ending), given.reason, given.request_id
        )
        if not answer.closed and given.request_id:
            await self._ledger.refuse(given.input.order.order_id, given.request_id, "cancel", TOO_LATE)
        return answer

    @activity.defn(name="refuse")
    async def refuse(self, given: Refusal) -> None:
        await self._ledger.refuse(given.order_id, given.request_id, given.request, given.reason)

    @activity.defn(name="dispatch_failed")
    async def dispatch_failed(self, given: DispatchFailure) -> None:
        await self._ledger.fail_dispatch(given.order_id, given.round, given.reason)

    @activity.defn(name="finish")
    async def finish(self, given: Ending) -> None:
        """COMPLETE, CANCEL or FAIL: the terminal state with its event."""
        await self._ledger.finish(given.order_id, State(given.state), given.reason)

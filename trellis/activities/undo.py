"""Undoing an order, behind the fence. The refund step and `trellis reconcile` do it the same way."""

from __future__ import annotations

from trellis.db.ledger import Ledger
from trellis.db.provider import Provider
from trellis.db.tries import Tried
from trellis.messages import Unwound
from trellis.model import Order, State, charge_key, dispatch_key


async def undo(
    ledger: Ledger,
    provider: Provider,
    order: Order,
    ending: State,
    reason: str,
    *,
    claimed: bool,
    request_id: str = "",
) -> Unwound:
    """Void the parcel if there was a claim, close the order, void the charge.

    If a parcel exists after all, nothing else is touched and its tracking number is returned: the order goes forward.
    Any part may be done twice.
    """
    if claimed:
        tracking = await provider.void_parcel(dispatch_key(order.order_id), order.order_id)
        if tracking is not None:
            return Unwound(False, tracking)
    await ledger.close(order.order_id, ending, reason, request_id, released=True)
    return Unwound(await provider.void_charge(charge_key(order.payment_id), order.order_id))


async def record(
    ledger: Ledger, order: Order, round_: int, reason: str, undone: Unwound, tried: Tried | None = None
) -> None:
    """Write down what `undo` found: the parcel, or the refund."""
    if undone.tracking is not None:
        await ledger.record_dispatch(order.order_id, round_, undone.tracking, tried)
    else:
        await ledger.record_refund(order, undone.refunded, reason, tried)

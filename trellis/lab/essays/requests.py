"""One request, sent at many moments in the life of an order."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import pandas as pd

from trellis.desk import Desk
from trellis.driving import sample_order
from trellis.errors import BadInput, RequestRefused
from trellis.lab.session import Session
from trellis.policies import Policy, preset


async def send_after(
    session: Session,
    request: str,
    delays: Sequence[float],
    *,
    approved: bool = True,
    policy: str | Policy = "swift",
) -> pd.DataFrame:
    """Start one order for each delay, all at once. Send `request` to it that many seconds after its start.

    `request`: approve, cancel or update_address. With `approved` each order is approved as it starts.
    Columns: sent_after [s], verdict [accepted, refused; pending: no worker judged it within a second], reason,
    state [as it ended], payment, address [where the parcel went, or would have gone]. Raises BadInput.
    """
    if request not in ("approve", "cancel", "update_address"):
        raise BadInput(f"There is no request {request!r}. Known are approve, cancel and update_address.")
    chosen = preset(policy) if isinstance(policy, str) else policy
    return await session.awaiting(_send_after(session.desk, request, delays, approved, chosen))


async def _send_after(
    desk: Desk, request: str, delays: Sequence[float], approved: bool, policy: Policy
) -> pd.DataFrame:
    async def one(delay: float) -> dict[str, Any]:
        id_ = f"send-{request.replace('_', '-')}-{uuid.uuid4().hex[:8]}-{delay:.2f}"
        await desk.start(sample_order(order_id=id_), policy)
        if approved:
            await desk.approve(id_)
        await asyncio.sleep(delay)
        try:
            if request == "approve":
                receipt = await desk.approve(id_)
            elif request == "cancel":
                receipt = await desk.cancel(id_, "changed my mind")
            else:
                receipt = await desk.update_address(id_, {"line1": "2 New Road"})
            verdict, reason = receipt.verdict, receipt.reason
        except RequestRefused as refused:
            verdict, reason = "refused", str(refused).split(": ", 1)[-1]
        end = await desk.wait(id_)
        return {
            "sent_after": delay,
            "verdict": verdict,
            "reason": reason,
            "state": str(end.state),
            "payment": end.payment.status if end.payment else None,
            "address": (end.address or {}).get("line1"),
        }

    return pd.DataFrame(await asyncio.gather(*(one(delay) for delay in delays)))

"""An order in the middle of its charge."""

from __future__ import annotations

import asyncio

from trellis.errors import BadInput, TrellisError
from trellis.faults import FaultPlan
from trellis.lab.session import Session
from trellis.model import Step
from trellis.policies import preset, tuned

PATIENCE = 30.0


def hanging_charge(session: Session, seconds: float = 5.0) -> str:
    """Start an approved order and wait until it is at its charge, whose calls hang for `seconds`. Returns its id.

    Raises TrellisError if it does not get there within half a minute.
    """
    if not 1 <= seconds <= 600:
        raise BadInput(f"A charge can hang for 1 to 600 s, not {seconds:g} s.")
    session.faults(FaultPlan.scripted("charge: hang"))
    slow = {"try_timeout": seconds}
    policy = tuned(preset("swift"), name="slow charge", budget=2 * seconds + 60, steps={Step.CHARGE: slow})
    order = session.start_order(policy=policy)
    session.approve(order)
    session.do(_until_charging(session, order))
    return order


async def _until_charging(session: Session, order: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while (await session.desk.status(order))["step"] != Step.CHARGE:
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise TrellisError(f"Order {order} did not get to its charge within {PATIENCE:g} s.") from None

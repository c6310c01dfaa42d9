"""Crashes at the worst moment: a worker ends, or stops, between the provider's charge and our record of it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pandas as pd

from trellis import config
from trellis.db.books import entries
from trellis.edited import Edit, package_copy
from trellis.errors import BadInput, TrellisError
from trellis.faults import FaultPlan
from trellis.lab.session import Session
from trellis.model import EventType, Step
from trellis.policies import preset, tuned
from trellis.runtime import workspace

PATIENCE = 30.0

MISTAKES = {
    "attempt in the key": Edit(
        "trellis/activities/steps.py",
        "charge_key(order.payment_id), order.order_id, order.total_cents",
        'charge_key(f"{order.payment_id}-{activity.info().attempt}"), order.order_id, order.total_cents',
    ),
}
"""Mistakes that can be planted."""


async def charged_but_not_recorded(session: Session, pause: float = 20.0) -> str:
    """An order whose money the provider has taken, and whose worker has not learned it. Returns its id.

    The answer to the first charge is lost on its way. The worker pauses for `pause` seconds before it asks again. This
    is the time in which a crash is worst. The order may work for two minutes plus the pause. Afterwards no call fails.
    Raises TrellisError if the first charge is not made within half a minute.
    """
    if not 1 <= pause <= 300:
        raise BadInput(f"The pause must be from 1 to 300 s, not {pause:g} s.")
    waits = {"try_timeout": 10.0, "first_backoff": pause, "max_backoff": pause, "jitter": "none"}
    policy = tuned(preset("swift"), name="slow to ask again", budget=pause + 120, steps={Step.CHARGE: waits})
    session.faults(FaultPlan.scripted("charge: reply-lost"))
    try:
        order = session.start_order(policy=policy)
        session.approve(order)
        await session.awaiting(_until_lost(session, order))
    finally:
        session.faults("calm")
    return order


async def _until_lost(session: Session, order: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                events = await session.desk.ledger.events(order)
                if any(one.type == EventType.ATTEMPT_FAILED and one.step == Step.CHARGE for one in events):
                    return
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TrellisError(f"Order {order} was not charged within {PATIENCE:g} s. See `session.log`.") from None


def both_books(session: Session, order_id: str) -> pd.DataFrame:
    """What the provider's book and our ledger say about the order's money and parcel, the oldest first.

    Columns: seconds [s since the first entry], book [provider or ledger], entry, key, amount [empty where no money
    moves].
    """
    rows = session.do(entries(session.pool, order_id))
    frame = pd.DataFrame([dict(row) for row in rows], columns=["at", "book", "entry", "key", "amount"])
    frame["amount"] = frame["amount"].where(frame["amount"].notna(), "")
    at = pd.to_datetime(frame.pop("at"), utc=True)
    frame.insert(0, "seconds", (at - at.min()).dt.total_seconds().round(3))
    return frame


class MistakenSession(Session):
    """A lab whose worker processes run a copy of the package with one mistake in it, in a workspace of its own.

    `stop` ends its servers and deletes its workspace, because its books are wrong.
    """

    def __init__(self, mistake: str, processes: int = 2) -> None:
        if mistake not in MISTAKES:
            raise BadInput(f"There is no mistake {mistake!r}. Known are {', '.join(MISTAKES)}.")
        self._own = ExitStack()
        settings = self._own.enter_context(workspace(config.load()))
        try:
            self.worker_environment = package_copy(settings.home / "mistaken", [MISTAKES[mistake]])
            super().__init__(settings, processes)
        except BaseException:
            self._own.close()
            raise

    def stop(self) -> None:
        try:
            super().stop()
        finally:
            self._own.close()


def start_with_mistake(mistake: str = "attempt in the key", workers: int = 2) -> MistakenSession:
    """A second lab, with a mistake in its workers' code. Stop it when you have seen enough: `session.stop()`.

    Raises BadInput for an unknown mistake, and TrellisError as `lab.start` does.
    """
    return MistakenSession(mistake, workers)

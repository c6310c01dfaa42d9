"""The outside payment gateway and carrier, simulated: one call, one transaction, one idempotency key."""

from __future__ import annotations

from decimal import Decimal
from typing import LiteralString

from psycopg.types.json import Jsonb

from trellis.db.pool import Pool, borrowed
from trellis.model import CHARGE_VOIDED, CHARGED_OTHERWISE, PARCEL_VOIDED
from trellis.outages import Capacity


class ProviderRefused(Exception):
    """The provider will never do this: the key was voided, or reused with other content."""


class Provider:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def _call(self, sql: LiteralString, *args: object) -> object:
        async with borrowed(self._pool) as connection:
            row = await (await connection.execute(sql, args)).fetchone()
        return row[0] if row else None

    async def reserve(self, step: str, capacity: Capacity) -> float:
        """Take the place at the step's provider that is free first; returns the seconds until the call is answered.

        One statement. Nobody gives the place back: the provider serves the call even if its caller is gone.
        """
        # Calls of a step take turns. If each waited for the disk before the next may begin, there would be some hundred
        # a second, and a storm makes more. If Postgres crashes, the places of the last half second are lost, and the
        # queue is so much shorter. Nothing else happens in this transaction.
        seconds = await self._call(
            "SELECT provider.reserve(%s, %s, %s), set_config('synchronous_commit', 'off', true)",
            step, capacity.calls, capacity.seconds,
        )  # fmt: skip
        assert isinstance(seconds, float)
        return seconds

    async def charge(self, key: str, order_id: str, cents: int) -> None:
        """Take the money, once per key. Raises ProviderRefused if the key was voided or used for another charge."""
        answer = await self._call("SELECT provider.charge(%s, %s, %s)", key, order_id, Decimal(cents) / 100)
        if answer == "voided":
            raise ProviderRefused(CHARGE_VOIDED)
        if answer == "mismatch":
            raise ProviderRefused(CHARGED_OTHERWISE)

    async def void_charge(self, key: str, order_id: str) -> bool:
        """Undo the charge, and refuse it if it comes later. True: there was a charge, and it is refunded."""
        return bool(await self._call("SELECT provider.void_charge(%s, %s)", key, order_id))

    async def dispatch(self, key: str, order_id: str, address: object) -> str:
        """Send the parcel, once per key; returns its tracking number. Raises ProviderRefused after a void."""
        tracking = await self._call("SELECT provider.dispatch(%s, %s, %s)", key, order_id, Jsonb(address))
        if tracking is None:
            raise ProviderRefused(PARCEL_VOIDED)
        return str(tracking)

    async def void_parcel(self, key: str, order_id: str) -> str | None:
        """None: no parcel exists, and a later dispatch is refused. Otherwise the tracking number of the parcel."""
        tracking = await self._call("SELECT provider.void_parcel(%s, %s)", key, order_id)
        return None if tracking is None else str(tracking)

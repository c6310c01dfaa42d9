"""Compares the two books, the ledger and the provider's records, a batch of orders at a time. It only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from trellis.db.pool import Pool, borrowed
from trellis.db.rows import AuditedRow, FindingRow
from trellis.model import ATTEMPTS, REFUSED_FOR_GOOD, REQUEST_EVENTS, STATE_AFTER, STEPS, TERMINAL, EventType

STILL_TRYING = 3.0
"""How long a worker may go on with an execution after Temporal gave it the same step again [s].

Its next heartbeat, half a second later at most, brings the cancellation. If heartbeats are not sent, Temporal takes the
step away after 5 s, and the SDK ends the execution about 5 s later.
"""

_BATCH = (Path(__file__).parent / "audit.sql").read_bytes()
_NAMES: dict[str, object] = {
    "terminal": [str(state) for state in TERMINAL],
    "state_after": Jsonb({str(event): str(state) for event, state in STATE_AFTER.items()}),
    "repeated": [str(event) for event in (*REQUEST_EVENTS, *ATTEMPTS)],
    "per_round": [
        str(event)
        for event in (EventType.DISPATCH_FAILED, *(e for info in STEPS.values() if info.per_round for e in info.leaves))
    ],
    "refusals": list(REFUSED_FOR_GOOD),
    "still_trying": STILL_TRYING,
}
"""The states, events and limits that the statement needs."""

# Records of the provider that the ledger does not have. The batches go through the ledger's orders and cannot find
# them. They are at least a second old, because our own record comes after the provider's.
_STRAYS: LiteralString = """
SELECT c.order_id, 4 AS invariant, 'the provider holds a charge that the ledger does not have' AS sentence,
       jsonb_build_object('key', c.idempotency_key, 'amount', c.amount) AS evidence
FROM provider.charges c
LEFT JOIN payments p ON p.order_id = c.order_id AND 'charge:' || p.payment_id = c.idempotency_key
WHERE p.payment_id IS NULL AND c.ts < clock_timestamp() - interval '1 second'
UNION ALL
SELECT r.order_id, 4, 'the provider holds a refund that the ledger does not have',
       jsonb_build_object('key', r.idempotency_key, 'amount', r.amount)
FROM provider.refunds r
LEFT JOIN payments p ON p.order_id = r.order_id AND 'charge:' || p.payment_id = r.idempotency_key
WHERE p.payment_id IS NULL AND r.ts < clock_timestamp() - interval '1 second'
UNION ALL
SELECT d.order_id, 3, 'the carrier has a parcel of an order that the ledger does not have',
       jsonb_build_object('key', d.idempotency_key, 'tracking', d.tracking)
FROM provider.parcels d LEFT JOIN orders o ON o.id = d.order_id
WHERE o.id IS NULL AND d.ts < clock_timestamp() - interval '1 second'
"""

_COUNTS: LiteralString = """
SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM provider.charges),
       (SELECT count(*) FROM events WHERE type IN ('ATTEMPT_FAILED', 'ATTEMPT_TIMED_OUT', 'ATTEMPT_ABANDONED'))
"""

_ORDER: LiteralString = """
SELECT o.state, o.reconciled, o.ending, extract(epoch FROM clock_timestamp() - o.updated_at)::float8 AS unchanged,
       (SELECT coalesce(jsonb_agg(jsonb_build_object(
            'type', e.type, 'round', e.round, 'request_id', e.payload_json ->> 'request_id') ORDER BY e.id), '[]')
        FROM events e WHERE e.order_id = o.id AND e.type NOT LIKE 'ATTEMPT%%') AS events
FROM orders o WHERE o.id = %(order)s
"""


class AuditBooks:
    def __init__(self, pool: Pool, *, grace: float, batch: int = 2000) -> None:
        self._pool = pool
        self._grace = grace
        self._batch = batch

    async def counts(self) -> tuple[int, int, int]:
        """(orders, charges at the provider, tries without success)."""
        async with borrowed(self._pool) as connection:
            row = await (await connection.execute(_COUNTS)).fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), int(row[2])

    async def batches(self) -> AsyncIterator[tuple[int, list[FindingRow]]]:
        """(orders looked at, findings) of each batch in turn, in the order of their ids."""
        after = ""
        while True:
            async with borrowed(self._pool) as connection:
                row = await (
                    await connection.execute(
                        "SELECT max(id), count(*) FROM "
                        "(SELECT id FROM orders WHERE id > %s ORDER BY id LIMIT %s) AS page",
                        (after, self._batch),
                    )
                ).fetchone()
            if row is None or row[0] is None:
                return
            yield int(row[1]), await self._find(_BATCH, after=after, upto=row[0], grace=self._grace, **_NAMES)
            after = row[0]

    async def strays(self) -> list[FindingRow]:
        """Charges and refunds at the provider without a payment in the ledger, and parcels without an order."""
        return await self._find(_STRAYS)

    async def order(self, order_id: str) -> AuditedRow | None:
        """The ledger's row of one order, or None if there is none."""
        async with borrowed(self._pool) as connection, connection.cursor(row_factory=class_row(AuditedRow)) as cursor:
            await cursor.execute(_ORDER, {"order": order_id})
            return await cursor.fetchone()

    async def _find(self, sql: LiteralString | bytes, **args: object) -> list[FindingRow]:
        async with borrowed(self._pool) as connection, connection.cursor(row_factory=class_row(FindingRow)) as cursor:
            await cursor.execute(sql, args)
            return await cursor.fetchall()

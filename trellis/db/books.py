"""What both books say about the money and the parcel of one order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import LiteralString

from psycopg.rows import class_row

from trellis.db.pool import Pool, borrowed
from trellis.db.rows import Record

_ENTRIES: LiteralString = """
SELECT ts AS at, 'provider' AS book, 'charge' AS entry, idempotency_key AS key, amount
FROM provider.charges WHERE order_id = %(order)s
UNION ALL
SELECT ts, 'provider', 'refund', idempotency_key, amount FROM provider.refunds WHERE order_id = %(order)s
UNION ALL
SELECT v.ts, 'provider', 'void', v.idempotency_key, NULL
FROM payments p JOIN provider.voids v ON v.idempotency_key = 'charge:' || p.payment_id WHERE p.order_id = %(order)s
UNION ALL
SELECT ts, 'provider', 'parcel', idempotency_key, NULL FROM provider.parcels WHERE order_id = %(order)s
UNION ALL
SELECT e.ts, 'ledger', e.type, p.payment_id, CASE WHEN e.type LIKE 'PAYMENT%%' THEN p.amount END
FROM events e LEFT JOIN payments p ON p.order_id = e.order_id
WHERE e.order_id = %(order)s AND e.type = ANY (
    '{PAYMENT_CHARGED,PAYMENT_REFUNDED,PAYMENT_FAILED,CARRIER_DISPATCHED,ORDER_COMPLETED,ORDER_CANCELLED,ORDER_FAILED}')
ORDER BY at, book DESC
"""


@dataclass(frozen=True)
class BookRow(Record):
    """One entry. `book`: "provider" or "ledger". `at` is UTC. `amount`: None where no money moves.

    `key`: the idempotency key at the provider, the payment's id in our ledger. An entry "void" says that the provider
    refuses this key from then on.
    """

    at: datetime
    book: str
    entry: str
    key: str | None
    amount: Decimal | None


async def entries(pool: Pool, order_id: str) -> list[BookRow]:
    """The entries of both books about one order, the oldest first. Raises DatabaseUnavailable."""
    async with borrowed(pool) as connection, connection.cursor(row_factory=class_row(BookRow)) as cursor:
        await cursor.execute(_ENTRIES, {"order": order_id})
        return await cursor.fetchall()

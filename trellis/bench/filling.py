"""Made-up completed orders, written by SQL, for measurements in a ledger of their own. They have no workflows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import LiteralString

from trellis.db import reading
from trellis.policies import preset

EVENTS_PER_ORDER = 20
BATCH = 1_000_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

# Orders of twenty events, ten of their sixteen tries without success. Every third order has placement server, with one
# execution per try. In every thirtieth order, the second execution of each step left no event. A real try's event id
# derives from its identity; here any distinct uuid is enough.
_EVENTS: LiteralString = """
INSERT INTO events (event_id, order_id, type, step, attempt, round, execution, try, started_at, duration_ms, worker,
                    payload_json, ts)
SELECT gen_random_uuid(), %(prefix)s || n / 20, kind[place], step[place], attempt[place],
       CASE WHEN attempt[place] > 0 THEN round[place] END,
       CASE WHEN n / 20 %% 30 = 0 THEN attempt[place] + (attempt[place] > 1)::int
            WHEN n / 20 %% 3 = 0 THEN attempt[place] WHEN attempt[place] > 0 THEN 1 END,
       CASE WHEN n / 20 %% 3 = 0 THEN least(attempt[place], 1) ELSE attempt[place] END,
       CASE WHEN attempt[place] > 0 THEN began END,
       CASE WHEN attempt[place] > 0
            THEN CASE kind[place] WHEN 'ATTEMPT_TIMED_OUT' THEN 250 ELSE 0 END + random() * 5 END,
       'worker-' || n %% 4,
       CASE WHEN kind[place] LIKE 'ATTEMPT%%'
            THEN jsonb_build_object('fault_plan', 1, 'error', step[place] || ' failed on purpose')
            ELSE '{"fault_plan": 1}' END,
       began + interval '260 ms'
FROM generate_series(%(first)s::int, %(last)s::int - 1) AS n,
     LATERAL (SELECT 1 + n %% 20 AS place,
                     %(began)s::timestamptz + n / 20 * %(every)s::interval + n %% 20 * interval '300 ms'
                     AS began),
     (SELECT '{ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,ORDER_RECEIVED,ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,ORDER_VALIDATED,
               AWAITING_APPROVAL,ORDER_APPROVED,ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,PAYMENT_CHARGED,SHIPPING_STARTED,
               ATTEMPT_FAILED,PACKAGE_PREPARED,ATTEMPT_FAILED,ATTEMPT_TIMED_OUT,CARRIER_DISPATCHED,
               ATTEMPT_TIMED_OUT,ORDER_SHIPPED,ORDER_COMPLETED}'::text[] AS kind,
             '{receive,receive,receive,validate,validate,validate,validate,approve,charge,charge,charge,prepare,
               prepare,prepare,dispatch,dispatch,dispatch,ship,ship,complete}'::text[] AS step,
             '{1,2,3,1,2,3,NULL,NULL,1,2,3,NULL,1,2,1,2,3,1,2,NULL}'::int[] AS attempt,
             '{0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1,1,0,0,0}'::int[] AS round) AS words
"""

_ORDERS: LiteralString = """
WITH made AS (
    SELECT %(prefix)s || o AS id, o AS n, %(began)s::timestamptz + o * %(every)s::interval AS ts
    FROM generate_series(%(first)s::int / 20, (%(last)s::int - 1) / 20) AS o
), o AS (
    INSERT INTO orders (id, state, items_json, address_json, total, policy_json, fingerprint, claimed_at, created_at,
                        updated_at)
    SELECT id, 'COMPLETED', '[]', '{"line1": "1 Main Street"}', 25, %(policy)s::jsonb, '', ts + interval '4 s',
           ts + interval '860 ms', ts + interval '6 s' FROM made
), p AS (
    INSERT INTO payments (payment_id, order_id, status, amount, created_at)
    SELECT 'pay-' || id, id, 'CHARGED', 25, ts FROM made WHERE %(books)s
), s AS (
    INSERT INTO shipments (order_id, round, status, tracking, created_at)
    SELECT id, 1, 'DISPATCHED', 'TRK-' || n, ts FROM made WHERE %(books)s
), c AS (
    INSERT INTO provider.charges SELECT 'charge:pay-' || id, id, 25, ts FROM made WHERE %(books)s
)
INSERT INTO provider.parcels
SELECT 'dispatch:' || id, id, '{"line1": "1 Main Street"}', 'TRK-' || n, ts FROM made WHERE %(books)s
"""


def fill(
    url: str,
    events: int,
    tick: Callable[[], None] = lambda: None,
    *,
    first: int = 0,
    prefix: str = "order-",
    began: datetime = BEGAN,
    every: timedelta = timedelta(milliseconds=600),
    books: bool = False,
) -> None:
    """Add the events from number `first` to `events`, twenty to an order, with their orders; then VACUUM ANALYZE.

    Orders begin at `began`, one in each interval `every`. books: also fill payments, shipments and the provider's
    records. `tick` is called after each million.
    """
    given = {
        "prefix": prefix, "began": began, "every": every, "books": books, "policy": json.dumps(asdict(preset("swift"))),
    }  # fmt: skip
    with reading.connection(url) as connection:
        # The triggers allow only legal steps of an order, one by one. As a replica, the session runs no triggers.
        connection.execute("SET session_replication_role = replica")
        connection.execute(_ORDERS, given | {"first": first, "last": events})
        for start in range(first, events, BATCH):
            connection.execute(_EVENTS, given | {"first": start, "last": min(events, start + BATCH)})
            tick()
        connection.execute("SET session_replication_role = origin")
        # A real ledger has been vacuumed and written to disk. Without this, both would happen during the measurement.
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")

-- Completed orders made by the thousand, with all ten events and both books, up to order number %(upto)s.
-- For measurements in a ledger of their own: nothing ran that these rows tell of.
WITH made AS (
    SELECT n, 'made-' || lpad(n::text, 9, '0') AS id,
           clock_timestamp() - interval '1 hour' + n * interval '10 milliseconds' AS ts
    FROM generate_series((SELECT count(*) + 1 FROM orders WHERE id LIKE 'made-%%')::bigint, %(upto)s::bigint) AS n
), o AS (
    INSERT INTO orders (id, state, items_json, address_json, total, policy_json, fingerprint, claimed_at, created_at, updated_at)
    SELECT id, 'COMPLETED', '[]', '{"line1": "1 Main Street"}', 25, %(policy)s, md5(id), ts + interval '2 seconds', ts,
           ts + interval '3 seconds' FROM made RETURNING id
), p AS (
    INSERT INTO payments (payment_id, order_id, status, amount, created_at)
    SELECT 'pay-' || id, id, 'CHARGED', 25, ts FROM made
), s AS (
    INSERT INTO shipments (order_id, round, status, tracking, created_at)
    SELECT id, 1, 'DISPATCHED', 'TRK-' || n, ts FROM made
), c AS (
    INSERT INTO provider.charges SELECT 'charge:pay-' || id, id, 25, ts FROM made
), d AS (
    INSERT INTO provider.parcels SELECT 'dispatch:' || id, id, '{"line1": "1 Main Street"}', 'TRK-' || n, ts FROM made
)
INSERT INTO events (event_id, order_id, type, step, attempt, round, execution, try, started_at, duration_ms, worker, payload_json, ts)
SELECT gen_random_uuid(), made.id, type, step, CASE WHEN step IS NOT NULL THEN 1 END, CASE WHEN step IN ('prepare', 'dispatch') THEN 1 ELSE 0 END,
       1, 1, ts + place * interval '200 milliseconds', 20 + place * 3.5, 'worker-1', '{}', ts + place * interval '210 milliseconds'
FROM made CROSS JOIN (VALUES
    (1, 'ORDER_RECEIVED', 'receive'), (2, 'ORDER_VALIDATED', 'validate'), (3, 'AWAITING_APPROVAL', NULL),
    (4, 'ORDER_APPROVED', NULL), (5, 'PAYMENT_CHARGED', 'charge'), (6, 'SHIPPING_STARTED', NULL),
    (7, 'PACKAGE_PREPARED', 'prepare'), (8, 'CARRIER_DISPATCHED', 'dispatch'), (9, 'ORDER_SHIPPED', 'ship'),
    (10, 'ORDER_COMPLETED', NULL)) AS step (place, type, step)
ORDER BY made.n, place

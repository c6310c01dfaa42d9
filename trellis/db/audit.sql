-- What the two sets of books say against one another, for the orders after %(after)s up to %(upto)s.
-- One statement, so one snapshot of both books: a transaction that commits meanwhile is seen whole or not at all.
-- An order that still runs may be a step ahead in one book; what must hold only at the end asks for `ended`.
WITH o AS MATERIALIZED (
    SELECT *, state = ANY (%(terminal)s) AS ended,
           (policy_json ->> 'budget')::float AS budget,
           CASE WHEN (policy_json ->> 'budget_counts_review')::boolean THEN 0
                ELSE (policy_json ->> 'review_window')::float END AS window_s,
           coalesce((policy_json ->> 'run_timeout')::float,
                    (policy_json ->> 'review_window')::float + (policy_json ->> 'budget')::float + 60) AS whole_run,
           extract(epoch FROM clock_timestamp() - created_at) AS age
    FROM orders WHERE id > %(after)s AND id <= %(upto)s
), c AS (
    SELECT order_id, count(*) AS n, sum(amount) AS amount, array_agg(idempotency_key) AS keys
    FROM provider.charges WHERE order_id > %(after)s AND order_id <= %(upto)s GROUP BY order_id
), r AS (
    SELECT order_id, count(*) AS n, sum(amount) AS amount
    FROM provider.refunds WHERE order_id > %(after)s AND order_id <= %(upto)s GROUP BY order_id
), p AS (
    SELECT order_id, count(*) AS n, array_agg(tracking) AS tracking, jsonb_agg(coalesce(address_json, 'null')) AS addresses
    FROM provider.parcels WHERE order_id > %(after)s AND order_id <= %(upto)s GROUP BY order_id
), s AS (
    SELECT order_id, count(*) AS n, array_agg(tracking) AS tracking
    FROM shipments WHERE status = 'DISPATCHED' AND order_id > %(after)s AND order_id <= %(upto)s GROUP BY order_id
), books AS (
    SELECT o.id AS order_id, o.state, o.ended, o.total, o.claimed_at, o.closing_at, o.age, o.budget, o.window_s, o.whole_run,
           coalesce(c.n, 0) AS charges, coalesce(c.amount, 0) AS charged, c.keys,
           coalesce(r.amount, 0) AS refunded, coalesce(r.n, 0) AS refunds,
           coalesce(p.n, 0) AS parcels, p.tracking AS parcel_tracking, p.addresses, coalesce(o.address_json, 'null') AS address,
           coalesce(s.n, 0) AS dispatched, s.tracking AS shipment_tracking,
           pay.payment_id, pay.status AS payment, pay.amount AS payment_amount
    FROM o LEFT JOIN c ON c.order_id = o.id LEFT JOIN r ON r.order_id = o.id LEFT JOIN p ON p.order_id = o.id
    LEFT JOIN s ON s.order_id = o.id LEFT JOIN payments pay ON pay.order_id = o.id
), log AS (
    SELECT order_id, id, type, step, attempt, round, event_id, execution, worker, started_at, duration_ms,
           type = 'ATTEMPT_FAILED' AND payload_json ->> 'error' = ANY (%(refusals)s) AS refused,
           %(state_after)s::jsonb ->> type AS reached
    FROM events WHERE order_id > %(after)s AND order_id <= %(upto)s
), path AS (
    SELECT order_id, id, reached, lag(reached) OVER w AS came_from, lead(reached) OVER w IS NULL AS last
    FROM log WHERE reached IS NOT NULL WINDOW w AS (PARTITION BY order_id ORDER BY id)
)
SELECT order_id, 1 AS invariant, 'charged ' || charges || ' times at the provider' AS sentence,
       jsonb_build_object('keys', keys, 'charged', charged) AS evidence FROM books WHERE charges > 1
UNION ALL
SELECT order_id, 2, CASE WHEN parcels > 0 THEN 'shipped, but the provider kept ' || charged - refunded || ' of ' || total
                         ELSE 'nothing shipped, yet the provider kept ' || charged - refunded END,
       jsonb_build_object('charged', charged, 'refunded', refunded, 'total', total, 'parcels', parcels, 'state', state)
FROM books WHERE CASE WHEN parcels > 0 THEN charged - refunded <> total ELSE ended AND charged <> refunded END
UNION ALL
SELECT order_id, 3, CASE WHEN parcels > 1 OR dispatched > 1 THEN 'shipped more than once'
                         WHEN charges = 0 THEN 'shipped without a charge'
                         WHEN refunds > 0 THEN 'shipped and refunded'
                         WHEN parcels = 0 THEN 'the ledger shows a parcel that the carrier does not have'
                         ELSE 'ended without its parcel, or with one that the ledger does not show' END,
       jsonb_build_object('parcels', parcels, 'dispatched', dispatched, 'charges', charges, 'refunds', refunds,
                          'carrier', parcel_tracking, 'ours', shipment_tracking, 'state', state)
FROM books WHERE parcels > 1 OR dispatched > 1 OR (parcels > 0 AND (charges = 0 OR refunds > 0)) OR dispatched > parcels
    OR (ended AND ((state = 'COMPLETED') <> (parcels = 1) OR dispatched <> parcels))
UNION ALL
SELECT order_id, 3, 'the parcel went to another address than that of the order',
       jsonb_build_object('parcel', addresses -> 0, 'order', address)
FROM books WHERE parcels = 1 AND addresses -> 0 <> address
UNION ALL
SELECT order_id, 4,
       CASE WHEN payment_amount <> total THEN 'our payment is of ' || payment_amount || ', the order of ' || total
            WHEN ended AND payment = 'PENDING' THEN 'the order has ended, and its payment is still PENDING'
            ELSE 'the ledger says ' || coalesce(payment, 'no payment') || ', the provider ' ||
                 CASE WHEN refunds > 0 THEN 'refunded' WHEN charges > 0 THEN 'charged' ELSE 'never charged' END END,
       jsonb_build_object('payment', payment, 'amount', payment_amount, 'total', total, 'charged', charged, 'refunded', refunded, 'keys', keys)
-- Without a payment of its own is the order that lost the race for its payment id; it can only fail.
FROM books WHERE (payment IS NULL AND (charges > 0 OR claimed_at IS NOT NULL OR state = 'COMPLETED'))
    OR (ended AND payment = 'PENDING') OR payment_amount <> total
    OR (payment IN ('CHARGED', 'REFUNDED') AND (charges = 0 OR charged <> payment_amount * charges
                                                OR NOT 'charge:' || payment_id = ANY (keys)))
    OR (payment = 'REFUNDED' AND refunds = 0)
    OR (ended AND ((payment IN ('CHARGED', 'REFUNDED')) <> (charges > 0) OR (payment = 'REFUNDED') <> (refunds > 0)))
UNION ALL
SELECT order_id, 5, 'went from ' || coalesce(came_from, 'nothing') || ' to ' || reached,
       jsonb_build_object('event', id, 'from', came_from, 'to', reached)
FROM path WHERE CASE WHEN came_from IS NULL THEN reached <> 'ORDER_RECEIVED' ELSE NOT EXISTS (
    SELECT FROM order_edges WHERE from_state = came_from AND to_state = reached) END
UNION ALL
SELECT o.id, 5, 'the log ends at ' || coalesce(path.reached, 'nothing') || ', the order is ' || o.state,
       jsonb_build_object('log', path.reached, 'state', o.state)
FROM o LEFT JOIN path ON path.order_id = o.id AND path.last WHERE path.reached IS DISTINCT FROM o.state
UNION ALL
SELECT order_id, 5, 'more than one event of ' || type, jsonb_build_object('events', array_agg(id), 'type', type)
FROM log WHERE type <> ALL (%(repeated)s)
GROUP BY order_id, type, CASE WHEN type = ANY (%(per_round)s) THEN round END HAVING count(*) > 1
UNION ALL
SELECT order_id, 5, 'two tries of ' || step || ' have the attempt number ' || attempt,
       jsonb_build_object('events', array_agg(id), 'step', step, 'attempt', attempt)
FROM log WHERE attempt IS NOT NULL GROUP BY order_id, step, attempt HAVING count(*) > 1
UNION ALL
SELECT b.order_id, 5, 'no event tells of the ' || need.what, jsonb_build_object('missing', need.type)
FROM books b CROSS JOIN LATERAL (VALUES
    ('refund', 'PAYMENT_REFUNDED', b.payment = 'REFUNDED'), ('dispatch', 'CARRIER_DISPATCHED', b.dispatched > 0),
    ('charge', 'PAYMENT_CHARGED', b.payment = 'CHARGED'),
    ('failed payment', 'PAYMENT_FAILED', b.payment = 'FAILED')) AS need (what, type, wanted)
WHERE need.wanted AND NOT EXISTS (SELECT FROM log WHERE log.order_id = b.order_id AND log.type = need.type)
UNION ALL
SELECT order_id, 8, CASE WHEN age > whole_run THEN 'still ' || state || ' after its run timeout'
                         ELSE 'still ' || state || ' past its budget, and nothing is being undone' END,
       jsonb_build_object('age_s', round(age::numeric, 1), 'budget_s', budget, 'run_timeout_s', whole_run, 'state', state)
FROM books WHERE NOT ended AND (age > whole_run + %(grace)s
    OR (claimed_at IS NULL AND closing_at IS NULL AND age > window_s + budget + %(grace)s))
UNION ALL
SELECT r.order_id, 11, r.step || ' was tried again after it was refused for good',
       jsonb_build_object('step', r.step, 'round', r.round, 'execution', r.execution, 'attempt', min(r.attempt),
                          'tries_after', count(DISTINCT l.id))
FROM log r JOIN log l ON l.order_id = r.order_id AND l.step = r.step AND l.round = r.round AND l.execution = r.execution
    AND l.started_at > r.started_at + r.duration_ms * interval '1 ms'
WHERE r.refused GROUP BY r.order_id, r.step, r.round, r.execution
UNION ALL
-- Why the last condition: a worker that loses its wire to Temporal loses the step, too, and may notice it late. But one
-- that was given other work shortly before had a wire, and its heartbeats should have arrived. All times are from one
-- worker's clock. Two workers on two machines may share a name, such as worker-7 in two containers.
SELECT old.order_id, 11,
       old.step || ' went on for ' || round(extract(epoch FROM max(old.started_at) - min(new.began))::numeric, 1)
           || ' s after Temporal had given it out again',
       jsonb_build_object('step', old.step, 'round', old.round, 'worker', old.worker, 'execution', old.execution,
                          'tries_after', count(DISTINCT old.id))
FROM (SELECT order_id, step, round, worker, execution, min(started_at) AS began FROM log WHERE execution > 1
      GROUP BY order_id, step, round, worker, execution) AS new
JOIN log old ON old.order_id = new.order_id AND old.step = new.step AND old.round = new.round AND old.worker = new.worker
    AND old.execution < new.execution AND old.started_at > new.began + %(still_trying)s * interval '1 s'
WHERE EXISTS (SELECT FROM events other WHERE other.worker = new.worker AND other.try = 1
    AND other.ts > new.began - interval '4 s' AND other.ts < new.began + interval '1 minute'
    AND other.started_at > new.began - interval '4 s' AND other.started_at < new.began - interval '1.5 s')
GROUP BY old.order_id, old.step, old.round, old.worker, old.execution

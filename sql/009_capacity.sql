-- A provider of finite capacity, a clock for outages, and marks on every successful try.

-- What a provider serves: one row for each call that it can serve at once. A call takes the place that is free first,
-- and moves `free_at` to its own end. The place belongs to the provider: a caller that gives up, or dies, does not give
-- it back. These rows are no record of money or parcels, and the audit does not read them.
CREATE TABLE provider.places (
    step    text NOT NULL,
    place   int NOT NULL,
    free_at timestamptz NOT NULL,
    PRIMARY KEY (step, place)
);

-- Seconds until the call is answered: its wait in the queue, and p_seconds of service. Reservations of a step take
-- turns. Without the lock two of them would find the same place free first. With more places than before, new ones are
-- free at once. With fewer, the last ones are left alone, and what they were serving goes on.
CREATE FUNCTION provider.reserve(p_step text, p_calls int, p_seconds double precision) RETURNS double precision
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE moment timestamptz; answer timestamptz;
BEGIN
    PERFORM provider.take_turn('places:' || p_step);
    -- After the wait for the lock: a moment read before it could be earlier than that of the call before this one.
    moment := clock_timestamp();
    IF NOT EXISTS (SELECT FROM provider.places WHERE step = p_step AND place = p_calls) THEN
        INSERT INTO provider.places (step, place, free_at)
            SELECT p_step, number, moment FROM generate_series(1, p_calls) AS number ON CONFLICT DO NOTHING;
    END IF;
    UPDATE provider.places SET free_at = greatest(free_at, moment) + make_interval(secs => p_seconds)
    WHERE step = p_step AND place = (
        SELECT place FROM provider.places WHERE step = p_step AND place <= p_calls ORDER BY free_at, place LIMIT 1)
    RETURNING free_at INTO answer;
    RETURN extract(epoch FROM answer - moment);
END $$;

-- A ledger that is older than this file has the role already. Otherwise grant_application_role() grants this.
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'trellis_app') THEN
        GRANT SELECT ON provider.places TO trellis_app;
    END IF;
END $$;

-- When the outages of a plan came into force. A plan with the same outages as the plan before keeps their clock:
-- otherwise each move of a slider would begin them again.
ALTER TABLE fault_plans ADD COLUMN since timestamptz;
UPDATE fault_plans SET since = ts;
ALTER TABLE fault_plans ALTER COLUMN since SET DEFAULT clock_timestamp(), ALTER COLUMN since SET NOT NULL;

-- As before, and the event of the package carries what is known of its try, as the events of all other steps do.
DROP FUNCTION prepare_package(uuid, uuid, text, int, try_info);
CREATE FUNCTION prepare_package(p_started uuid, p_prepared uuid, p_order text, p_round int, p_try try_info,
                                p_payload jsonb DEFAULT '{}')
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE closing timestamptz; address jsonb;
BEGIN
    SELECT closing_at, address_json INTO closing, address FROM orders WHERE id = p_order FOR UPDATE;
    IF closing IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM move_order(p_started, p_order, '{PAYMENT_CHARGED}', 'SHIPPING', 'SHIPPING_STARTED', NULL, '{}');
    INSERT INTO shipments (order_id, round, status, payload_json)
    VALUES (p_order, p_round, 'PREPARED', jsonb_build_object('address', address)) ON CONFLICT DO NOTHING;
    PERFORM add_event(p_prepared, p_order, 'PACKAGE_PREPARED', p_try, p_payload);
    RETURN true;
END $$;

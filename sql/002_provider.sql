-- The outside payment gateway and carrier, simulated. They keep a book of their own, and know nothing of ours:
-- "charged once" is checked against this second book. Every call is one transaction, serialised by its key.

CREATE SCHEMA provider;

CREATE TABLE provider.charges (
    idempotency_key text PRIMARY KEY,
    order_id text NOT NULL,
    amount numeric(10, 2) NOT NULL,
    ts timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE provider.refunds (
    idempotency_key text PRIMARY KEY,
    order_id text NOT NULL,
    amount numeric(10, 2) NOT NULL,
    ts timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE provider.voids (
    idempotency_key text PRIMARY KEY,
    order_id text NOT NULL,
    ts timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE provider.parcels (
    idempotency_key text PRIMARY KEY,
    order_id text NOT NULL,
    address_json jsonb,
    tracking text NOT NULL,
    ts timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON provider.charges (order_id);
CREATE INDEX ON provider.refunds (order_id);
CREATE INDEX ON provider.parcels (order_id);

-- Two calls with one key take turns: without the lock a charge and its void could both miss one another.
CREATE FUNCTION provider.take_turn(p_key text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(hashtextextended(p_key, 7));
$$;

CREATE FUNCTION provider.charge(p_key text, p_order text, p_amount numeric) RETURNS text LANGUAGE plpgsql AS $$
DECLARE known provider.charges;
BEGIN
    PERFORM provider.take_turn(p_key);
    SELECT * INTO known FROM provider.charges WHERE idempotency_key = p_key;
    IF FOUND AND (known.order_id, known.amount) IS DISTINCT FROM (p_order, p_amount) THEN
        RETURN 'mismatch';
    END IF;
    IF EXISTS (SELECT FROM provider.voids WHERE idempotency_key = p_key) THEN
        RETURN 'voided';
    END IF;
    INSERT INTO provider.charges VALUES (p_key, p_order, p_amount) ON CONFLICT DO NOTHING;
    RETURN 'charged';
END $$;

-- A charge that exists is refunded; one that is still on its way will meet the tombstone.
CREATE FUNCTION provider.void_charge(p_key text, p_order text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM provider.take_turn(p_key);
    INSERT INTO provider.voids VALUES (p_key, p_order) ON CONFLICT DO NOTHING;
    INSERT INTO provider.refunds (idempotency_key, order_id, amount)
        SELECT idempotency_key, order_id, amount FROM provider.charges
        WHERE idempotency_key = p_key AND order_id = p_order ON CONFLICT DO NOTHING;
    RETURN EXISTS (SELECT FROM provider.refunds WHERE idempotency_key = p_key AND order_id = p_order);
END $$;

-- NULL: refused by a tombstone.
CREATE FUNCTION provider.dispatch(p_key text, p_order text, p_address jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE number text;
BEGIN
    PERFORM provider.take_turn(p_key);
    SELECT tracking INTO number FROM provider.parcels WHERE idempotency_key = p_key;
    IF FOUND THEN
        RETURN number;
    END IF;
    IF EXISTS (SELECT FROM provider.voids WHERE idempotency_key = p_key) THEN
        RETURN NULL;
    END IF;
    number := 'TRK-' || upper(substr(md5(p_key), 1, 12));
    INSERT INTO provider.parcels VALUES (p_key, p_order, p_address, number);
    RETURN number;
END $$;

-- The tracking number of a parcel that exists after all; NULL where a tombstone now stands.
CREATE FUNCTION provider.void_parcel(p_key text, p_order text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE number text;
BEGIN
    PERFORM provider.take_turn(p_key);
    SELECT tracking INTO number FROM provider.parcels WHERE idempotency_key = p_key;
    IF NOT FOUND THEN
        INSERT INTO provider.voids VALUES (p_key, p_order) ON CONFLICT DO NOTHING;
    END IF;
    RETURN number;
END $$;

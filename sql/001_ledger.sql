-- Our own books: orders, payments, shipments, and the append-only log of what happened.

CREATE TABLE orders (
    id           text PRIMARY KEY,
    state        text NOT NULL,
    items_json   jsonb NOT NULL,
    address_json jsonb,
    total        numeric(10, 2) NOT NULL CHECK (total >= 0),
    policy_json  jsonb NOT NULL,
    fingerprint  text NOT NULL,
    last_error   text,
    claimed_at   timestamptz,
    closing_at   timestamptz,
    reconciled   boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    -- The fence: what can no longer be undone and what is being undone exclude one another.
    -- A claimed order is closed only after the carrier has voided the parcel, which clears the claim.
    CONSTRAINT fence CHECK (claimed_at IS NULL OR closing_at IS NULL)
);
CREATE INDEX orders_by_state ON orders (state, created_at, id);
CREATE INDEX orders_by_time ON orders (created_at, id);

CREATE TABLE payments (
    payment_id text PRIMARY KEY,
    order_id   text NOT NULL UNIQUE REFERENCES orders (id),
    status     text NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'CHARGED', 'REFUNDED', 'FAILED')),
    amount     numeric(10, 2) NOT NULL CHECK (amount >= 0),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE shipments (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id     text NOT NULL REFERENCES orders (id),
    round        int NOT NULL,
    status       text NOT NULL CHECK (status IN ('PREPARED', 'DISPATCHED', 'FAILED')),
    tracking     text,
    payload_json jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (order_id, round)
);

CREATE TABLE events (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id     uuid NOT NULL UNIQUE,
    order_id     text NOT NULL,
    type         text NOT NULL,
    step         text,
    attempt      int,
    round        int,
    execution    int,
    try          int,
    started_at   timestamptz,
    duration_ms  double precision,
    worker       text,
    payload_json jsonb NOT NULL DEFAULT '{}',
    ts           timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX events_of_order ON events (order_id, id);
CREATE INDEX events_by_type ON events (type, ts);
CREATE INDEX events_by_time ON events (ts);

CREATE TABLE fault_plans (
    version   int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    plan_json jsonb NOT NULL,
    ts        timestamptz NOT NULL DEFAULT now()
);

-- Legal edges. tests/integration proves that this table and trellis.model.EDGES are the same.
CREATE TABLE order_edges (from_state text NOT NULL, to_state text NOT NULL, PRIMARY KEY (from_state, to_state));
INSERT INTO order_edges VALUES
    ('ORDER_RECEIVED', 'ORDER_VALIDATED'),
    ('ORDER_VALIDATED', 'AWAITING_APPROVAL'),
    ('AWAITING_APPROVAL', 'PAYMENT_CHARGED'),
    ('PAYMENT_CHARGED', 'SHIPPING'),
    ('SHIPPING', 'SHIPPED'),
    ('SHIPPED', 'COMPLETED'),
    ('AWAITING_APPROVAL', 'APPROVAL_TIMEOUT'),
    ('ORDER_RECEIVED', 'FAILED'), ('ORDER_RECEIVED', 'CANCELLED'),
    ('ORDER_VALIDATED', 'FAILED'), ('ORDER_VALIDATED', 'CANCELLED'),
    ('AWAITING_APPROVAL', 'FAILED'), ('AWAITING_APPROVAL', 'CANCELLED'),
    ('PAYMENT_CHARGED', 'FAILED'), ('PAYMENT_CHARGED', 'CANCELLED'),
    ('SHIPPING', 'FAILED'), ('SHIPPING', 'CANCELLED');

CREATE FUNCTION refuse_illegal_edge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'ORDER_RECEIVED' THEN
            RAISE EXCEPTION 'order % must begin as ORDER_RECEIVED, not %', NEW.id, NEW.state
                USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NOT EXISTS (SELECT FROM order_edges WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'order % cannot go from % to %', NEW.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER orders_begin BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION refuse_illegal_edge();
CREATE TRIGGER orders_edge BEFORE UPDATE OF state ON orders FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION refuse_illegal_edge();

CREATE FUNCTION refuse_illegal_payment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.status, NEW.status) NOT IN (('PENDING', 'CHARGED'), ('CHARGED', 'REFUNDED'), ('PENDING', 'FAILED')) THEN
        RAISE EXCEPTION 'payment % cannot go from % to %', NEW.payment_id, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER payments_edge BEFORE UPDATE OF status ON payments FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION refuse_illegal_payment();

CREATE FUNCTION refuse_rewriting() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the events table is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_rewriting();

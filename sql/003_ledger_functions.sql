-- One function per thing that happens to an order: one round trip, one transaction, state and event together.
-- Each may be called any number of times with the same cause; only the first call changes anything.

-- What an activity knows of the try that brought an event about; all NULL where no try did.
CREATE TYPE try_info AS (step text, round int, execution int, try int, started_at timestamptz, duration_ms double precision, worker text);

CREATE FUNCTION add_event(p_event uuid, p_order text, p_type text, p_try try_info, p_payload jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE number int; added int;
BEGIN
    IF p_try.try IS NOT NULL THEN
        -- Numbering takes turns per order: two hedge lanes that fail together must not share a number.
        PERFORM pg_advisory_xact_lock(hashtextextended(p_order, 11));
        SELECT count(*) + 1 INTO number FROM events
            WHERE order_id = p_order AND step = p_try.step AND attempt IS NOT NULL;
    END IF;
    INSERT INTO events (event_id, order_id, type, step, attempt, round, execution, try, started_at, duration_ms, worker, payload_json)
    VALUES (p_event, p_order, p_type, p_try.step, number, p_try.round, p_try.execution, p_try.try,
            p_try.started_at, p_try.duration_ms, p_try.worker, coalesce(p_payload, '{}'))
    ON CONFLICT (event_id) DO NOTHING;
    GET DIAGNOSTICS added = ROW_COUNT;
    RETURN added > 0;
END $$;

-- One state change with its event. A second call finds the state changed and does nothing.
CREATE FUNCTION move_order(p_event uuid, p_order text, p_from text[], p_to text, p_type text, p_try try_info, p_payload jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE orders SET state = p_to, updated_at = now() WHERE id = p_order AND state = ANY (p_from);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM add_event(p_event, p_order, p_type, p_try, p_payload);
    RETURN true;
END $$;

-- Another order's payment id: the order is known, its payment is not. Returns the owner's id, NULL if it is ours.
CREATE FUNCTION receive_order(p_event uuid, p_order text, p_items jsonb, p_address jsonb, p_total numeric, p_policy jsonb,
                              p_fingerprint text, p_payment text, p_try try_info, p_payload jsonb)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE owner text;
BEGIN
    INSERT INTO orders (id, state, items_json, address_json, total, policy_json, fingerprint)
    VALUES (p_order, 'ORDER_RECEIVED', p_items, p_address, p_total, p_policy, p_fingerprint)
    ON CONFLICT (id) DO NOTHING;
    INSERT INTO payments (payment_id, order_id, amount) VALUES (p_payment, p_order, p_total) ON CONFLICT DO NOTHING;
    SELECT order_id INTO owner FROM payments WHERE payment_id = p_payment;
    PERFORM add_event(p_event, p_order, 'ORDER_RECEIVED', p_try, p_payload);
    RETURN nullif(owner, p_order);
END $$;

CREATE FUNCTION validate_order(p_validated uuid, p_awaiting uuid, p_order text, p_try try_info, p_payload jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM move_order(p_validated, p_order, '{ORDER_RECEIVED}', 'ORDER_VALIDATED', 'ORDER_VALIDATED', p_try, p_payload);
    PERFORM move_order(p_awaiting, p_order, '{ORDER_VALIDATED}', 'AWAITING_APPROVAL', 'AWAITING_APPROVAL', NULL, '{}');
END $$;

-- What a charge must know before it calls out: (payment status, is the order being undone).
CREATE FUNCTION claim_charge(p_order text, OUT status text, OUT closing boolean) LANGUAGE sql AS $$
    SELECT p.status, o.closing_at IS NOT NULL FROM orders o JOIN payments p ON p.order_id = o.id WHERE o.id = p_order;
$$;

-- False: the order is being undone, and this charge is the compensation's to void.
CREATE FUNCTION record_charge(p_event uuid, p_order text, p_try try_info, p_payload jsonb)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE was text; closing timestamptz;
BEGIN
    SELECT closing_at INTO closing FROM orders WHERE id = p_order FOR UPDATE;
    SELECT status INTO was FROM payments WHERE order_id = p_order;
    IF was IN ('CHARGED', 'REFUNDED') THEN
        RETURN was = 'CHARGED';
    END IF;
    IF closing IS NOT NULL OR was = 'FAILED' THEN
        RETURN false;
    END IF;
    UPDATE payments SET status = 'CHARGED', updated_at = now() WHERE order_id = p_order;
    PERFORM move_order(p_event, p_order, '{AWAITING_APPROVAL}', 'PAYMENT_CHARGED', 'PAYMENT_CHARGED', p_try,
                       p_payload || jsonb_build_object('previous_status', was));
    RETURN true;
END $$;

-- False: the order is being undone.
CREATE FUNCTION prepare_package(p_started uuid, p_prepared uuid, p_order text, p_round int, p_try try_info)
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
    PERFORM add_event(p_prepared, p_order, 'PACKAGE_PREPARED', p_try, '{}');
    RETURN true;
END $$;

-- The claim, in one statement: it also fixes the address. No row: the order is being undone.
CREATE FUNCTION claim_dispatch(p_order text) RETURNS SETOF jsonb LANGUAGE sql AS $$
    UPDATE orders SET claimed_at = coalesce(claimed_at, now()), updated_at = now()
    WHERE id = p_order AND closing_at IS NULL AND state IN ('PAYMENT_CHARGED', 'SHIPPING', 'SHIPPED', 'COMPLETED')
    RETURNING coalesce(address_json, 'null');
$$;

CREATE FUNCTION record_dispatch(p_event uuid, p_order text, p_round int, p_tracking text, p_try try_info, p_payload jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM orders WHERE id = p_order FOR UPDATE;
    UPDATE shipments SET status = 'DISPATCHED', tracking = p_tracking, updated_at = now()
    WHERE order_id = p_order AND round = p_round
      AND NOT EXISTS (SELECT FROM shipments WHERE order_id = p_order AND status = 'DISPATCHED');
    PERFORM add_event(p_event, p_order, 'CARRIER_DISPATCHED', p_try, p_payload || jsonb_build_object('tracking', p_tracking));
END $$;

CREATE FUNCTION fail_dispatch(p_event uuid, p_order text, p_round int, p_reason text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE shipments SET status = 'FAILED', updated_at = now() WHERE order_id = p_order AND round = p_round AND status = 'PREPARED';
    UPDATE orders SET last_error = p_reason, updated_at = now() WHERE id = p_order AND NOT EXISTS (SELECT FROM events WHERE event_id = p_event);
    PERFORM add_event(p_event, p_order, 'DISPATCH_FAILED', ROW (NULL, p_round, NULL, NULL, NULL, NULL, NULL)::try_info,
                      jsonb_build_object('reason', p_reason, 'round', p_round));
END $$;

-- The fence. Marks the order as being undone, unless a dispatch claimed it first.
-- With p_released the carrier has voided the parcel, and the claim is given back.
CREATE FUNCTION close_order(p_order text, p_released boolean, OUT closed boolean, OUT claimed boolean) LANGUAGE plpgsql AS $$
DECLARE row_now orders;
BEGIN
    SELECT * INTO row_now FROM orders WHERE id = p_order FOR UPDATE;
    claimed := row_now.claimed_at IS NOT NULL;
    closed := row_now.closing_at IS NOT NULL;
    IF closed OR row_now.state IN ('SHIPPED', 'COMPLETED', 'FAILED', 'CANCELLED', 'APPROVAL_TIMEOUT') THEN
        RETURN;
    END IF;
    IF NOT claimed OR p_released THEN
        UPDATE orders SET closing_at = now(), claimed_at = NULL, updated_at = now() WHERE id = p_order;
        closed := true;
    END IF;
END $$;

CREATE FUNCTION record_refund(p_event uuid, p_failed uuid, p_order text, p_refunded boolean, p_try try_info, p_payload jsonb)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE was text;
BEGIN
    PERFORM FROM orders WHERE id = p_order FOR UPDATE;
    SELECT status INTO was FROM payments WHERE order_id = p_order;
    IF p_refunded THEN
        -- The charge may have reached the provider without our ever recording it.
        UPDATE payments SET status = 'CHARGED', updated_at = now() WHERE order_id = p_order AND status = 'PENDING';
        UPDATE payments SET status = 'REFUNDED', updated_at = now() WHERE order_id = p_order AND status = 'CHARGED';
        PERFORM add_event(p_event, p_order, 'PAYMENT_REFUNDED', p_try, p_payload || jsonb_build_object('previous_status', was));
    ELSE
        UPDATE payments SET status = 'FAILED', updated_at = now() WHERE order_id = p_order AND status = 'PENDING';
        PERFORM add_event(p_failed, p_order, 'PAYMENT_FAILED', p_try, p_payload || jsonb_build_object('previous_status', was));
    END IF;
END $$;

-- The terminal state. A payment that was never attempted ends with its order.
CREATE FUNCTION finish_order(p_event uuid, p_failed uuid, p_order text, p_to text, p_type text, p_step text, p_payload jsonb)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE row_now orders; pending text;
BEGIN
    SELECT * INTO row_now FROM orders WHERE id = p_order FOR UPDATE;
    IF row_now.state = p_to THEN
        RETURN p_to;
    END IF;
    IF p_to <> 'COMPLETED' THEN
        UPDATE payments SET status = 'FAILED', updated_at = now() WHERE order_id = p_order AND status = 'PENDING'
            RETURNING payment_id INTO pending;
        IF pending IS NOT NULL THEN
            PERFORM add_event(p_failed, p_order, 'PAYMENT_FAILED', NULL,
                              jsonb_build_object('payment_id', pending, 'reason', 'the order ended before anything was charged'));
        END IF;
    END IF;
    UPDATE orders SET state = p_to, updated_at = now(),
        closing_at = CASE WHEN p_to = 'COMPLETED' THEN closing_at ELSE coalesce(closing_at, now()) END,
        last_error = CASE WHEN p_to IN ('FAILED', 'APPROVAL_TIMEOUT') THEN p_payload ->> 'reason' ELSE last_error END
    WHERE id = p_order;
    PERFORM add_event(p_event, p_order, p_type, ROW (p_step, NULL, NULL, NULL, NULL, NULL, NULL)::try_info, p_payload);
    RETURN p_to;
END $$;

-- NULL: done. Otherwise why not; the refusal is written down in the same transaction.
CREATE FUNCTION change_address(p_event uuid, p_refused uuid, p_order text, p_request text, p_address jsonb)
RETURNS text LANGUAGE plpgsql AS $$
DECLARE row_now orders; why text;
BEGIN
    SELECT * INTO row_now FROM orders WHERE id = p_order FOR UPDATE;
    IF EXISTS (SELECT FROM events WHERE event_id = p_event) THEN
        RETURN NULL;
    END IF;
    why := CASE
        WHEN row_now.closing_at IS NOT NULL THEN 'the order is being undone'
        WHEN row_now.claimed_at IS NOT NULL THEN 'the carrier already has the parcel''s label'
        WHEN row_now.state NOT IN ('ORDER_RECEIVED', 'ORDER_VALIDATED', 'AWAITING_APPROVAL', 'PAYMENT_CHARGED', 'SHIPPING')
            THEN 'the order is ' || row_now.state END;
    IF why IS NOT NULL THEN
        PERFORM refuse_request(p_refused, p_order, p_request, 'update_address', why);
        RETURN why;
    END IF;
    UPDATE orders SET address_json = p_address, updated_at = now() WHERE id = p_order;
    PERFORM add_event(p_event, p_order, 'ADDRESS_UPDATED', ROW ('update_address', NULL, NULL, NULL, NULL, NULL, NULL)::try_info,
                      jsonb_build_object('old', row_now.address_json, 'new', p_address, 'request_id', p_request));
    RETURN NULL;
END $$;

CREATE FUNCTION refuse_request(p_event uuid, p_order text, p_request text, p_kind text, p_reason text)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM add_event(p_event, p_order, 'REQUEST_REFUSED', NULL,
                      jsonb_build_object('request', p_kind, 'request_id', p_request, 'reason', p_reason));
END $$;


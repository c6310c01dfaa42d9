-- How an order that is being undone will end is written where that is decided. A workflow task may be lost after its
-- local activities ran; the next one then learns here what the books say already, and ends the order no other way.
ALTER TABLE orders
    ADD COLUMN ending text CHECK (ending IN ('FAILED', 'CANCELLED', 'APPROVAL_TIMEOUT')),
    ADD COLUMN ending_reason text,
    ADD COLUMN ending_request text;

-- The fence. Marks the order as being undone, unless a dispatch claimed it first.
-- With p_released the carrier has voided the parcel, and the claim is given back.
-- Whoever comes second is told how the first one decided that the order ends.
DROP FUNCTION close_order(text, boolean);
CREATE FUNCTION close_order(p_order text, p_released boolean, p_ending text, p_reason text, p_request text,
                            OUT closed boolean, OUT claimed boolean, OUT ending text, OUT reason text) LANGUAGE plpgsql AS $$
DECLARE row_now orders;
BEGIN
    SELECT * INTO row_now FROM orders WHERE id = p_order FOR UPDATE;
    claimed := row_now.claimed_at IS NOT NULL;
    closed := row_now.closing_at IS NOT NULL;
    ending := row_now.ending;
    reason := row_now.ending_reason;
    IF closed OR row_now.state IN ('SHIPPED', 'COMPLETED', 'FAILED', 'CANCELLED', 'APPROVAL_TIMEOUT') THEN
        RETURN;
    END IF;
    IF NOT claimed OR p_released THEN
        UPDATE orders SET closing_at = now(), claimed_at = NULL, ending = p_ending, ending_reason = p_reason,
            ending_request = p_request, updated_at = now()
        WHERE id = p_order;
        closed := true;
        ending := p_ending;
        reason := p_reason;
    END IF;
END $$;

-- The terminal state, with the request that brought it about. A payment that was never attempted ends with its order.
CREATE OR REPLACE FUNCTION finish_order(p_event uuid, p_failed uuid, p_order text, p_to text, p_type text, p_step text, p_payload jsonb)
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
    PERFORM add_event(p_event, p_order, p_type, ROW (p_step, NULL, NULL, NULL, NULL, NULL, NULL)::try_info,
                      p_payload || CASE WHEN row_now.ending_request <> '' AND p_to = row_now.ending
                                        THEN jsonb_build_object('request_id', row_now.ending_request) ELSE '{}' END);
    RETURN p_to;
END $$;

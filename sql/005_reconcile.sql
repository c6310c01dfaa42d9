-- The terminal state of an order whose workflow is gone, marked as such.
CREATE FUNCTION reconcile_order(p_event uuid, p_failed uuid, p_order text, p_to text, p_type text, p_step text, p_payload jsonb)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM finish_order(p_event, p_failed, p_order, p_to, p_type, p_step, p_payload || '{"reconciled": true}');
    UPDATE orders SET reconciled = true WHERE id = p_order AND state = p_to AND NOT reconciled;
END $$;
CREATE INDEX orders_open ON orders (id) WHERE state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'APPROVAL_TIMEOUT');

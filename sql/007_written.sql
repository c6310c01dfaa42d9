-- The caller logs each event that it writes: with the attempt's number, which this function gives, and only if the
-- event is new. So the transaction keeps a list of the events that it added: `type:step:attempt`, separated by spaces.
-- The caller reads the list, `trellis.written`, in the same statement. This adds no round trip, and the functions that
-- call add_event stay as they are.
CREATE OR REPLACE FUNCTION add_event(p_event uuid, p_order text, p_type text, p_try try_info, p_payload jsonb)
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
    IF added > 0 THEN
        PERFORM set_config('trellis.written',
                           concat_ws(' ', nullif(current_setting('trellis.written', true), ''),
                                     format('%s:%s:%s', p_type, p_try.step, number)),
                           true);
    END IF;
    RETURN added > 0;
END $$;

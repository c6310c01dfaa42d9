-- What a live board needs: to be told which order changed, and to find orders by the beginning of their id.

CREATE INDEX orders_by_id_prefix ON orders (id text_pattern_ops);

-- Is anybody watching? Each watcher holds this lock shared, so that an exclusive one cannot be had.
-- NOTIFY makes commits take turns for the whole database; a ledger that nobody watches does not pay for it.
-- Two writers at once may each take the other for a watcher and notify needlessly, which does no harm. A writer
-- that did get the lock keeps it until it has committed, and a new watcher waits for that: nothing falls between.
CREATE FUNCTION watched() RETURNS boolean LANGUAGE sql AS $$
    SELECT NOT pg_try_advisory_xact_lock(7234, 6);
$$;

CREATE FUNCTION tell_of_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF watched() THEN
        PERFORM pg_notify('trellis_orders', order_id) FROM (SELECT DISTINCT order_id FROM added) ids;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER events_told AFTER INSERT ON events REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_events();

-- Claims and closings change what may be asked of an order, and bring no event about.
CREATE FUNCTION tell_of_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF watched() THEN
        PERFORM pg_notify('trellis_orders', NEW.id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER orders_told AFTER UPDATE OF claimed_at, closing_at ON orders FOR EACH ROW
    WHEN ((OLD.claimed_at, OLD.closing_at) IS DISTINCT FROM (NEW.claimed_at, NEW.closing_at))
    EXECUTE FUNCTION tell_of_order();

-- The trigger that refuses an illegal edge looks the edge up in the table order_edges. A session searches its temporary
-- tables first: with one of that name it could move an order along an edge of its own. With a fixed path it cannot.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION refuse_illegal_edge() SET search_path = %I, pg_temp', current_schema());
END $$;

-- The book of attempts: what TrellisPlugin notes of other people's workflows. It needs no table of the ledger, so it
-- can live in any database.

CREATE TABLE flights.attempts (
    namespace                 text NOT NULL,
    workflow_id               text NOT NULL,
    run_id                    text NOT NULL,
    workflow_type             text NOT NULL,
    activity_id               text NOT NULL,
    activity_type             text NOT NULL,
    -- As Temporal counts. A loop inside the attempt counts its own tries from 1, in its lane; the attempt itself is 0.
    attempt                   int NOT NULL,
    try                       int NOT NULL DEFAULT 0,
    lane                      int NOT NULL DEFAULT 0,
    queue                     text NOT NULL,
    worker                    text,
    local                     boolean NOT NULL DEFAULT false,
    scheduled_at              timestamptz NOT NULL,
    -- NULL: no worker began this attempt; only the server counted it.
    attempt_scheduled_at      timestamptz,
    started_at                timestamptz,
    ended_at                  timestamptz,
    outcome                   text NOT NULL
        CHECK (outcome IN ('succeeded', 'failed', 'timed out', 'abandoned', 'lost', 'open')),
    failure_type              text,
    error                     text,
    injected                  text,
    outage                    text,
    queued                    double precision,
    start_to_close_timeout    double precision,
    schedule_to_close_timeout double precision,
    schedule_to_start_timeout double precision,
    heartbeat_timeout         double precision,
    initial_interval          double precision,
    backoff_coefficient       double precision,
    maximum_interval          double precision,
    maximum_attempts          int,
    heartbeats                int NOT NULL DEFAULT 0,
    input                     jsonb,
    result                    jsonb
);

-- A workflow can use an activity id again, so the activity's first schedule belongs to the key. An operator can reset an
-- activity, and it counts from 1 again, so the attempt's own schedule belongs to it too.
CREATE UNIQUE INDEX attempts_key ON flights.attempts (
    namespace, workflow_id, run_id, activity_id, scheduled_at, attempt, try, lane,
    coalesce(attempt_scheduled_at, '-infinity'::timestamptz));
-- With the attempt: many attempts of one activity have the same time, and a row is sought by both.
CREATE INDEX attempts_scheduled ON flights.attempts (scheduled_at, attempt);

-- Takes an array of rows as JSON, in any order, any of them more than once. Returns how many changed the book. An end is
-- not replaced by 'open', and what was settled from the server's word stays. A row that some worker began takes the
-- place of one that was counted as lost before it arrived.
CREATE FUNCTION flights.note(p_rows json) RETURNS bigint LANGUAGE sql AS $$
    WITH given AS (
        -- One statement may not change a row twice.
        SELECT DISTINCT ON (namespace, workflow_id, run_id, activity_id, scheduled_at, attempt, try, lane,
                            attempt_scheduled_at) *
        FROM json_populate_recordset(NULL::flights.attempts, p_rows)
        ORDER BY namespace, workflow_id, run_id, activity_id, scheduled_at, attempt, try, lane, attempt_scheduled_at,
                 outcome = 'open', ended_at
    ), found AS (
        DELETE FROM flights.attempts a USING given g
        WHERE g.attempt_scheduled_at IS NOT NULL AND a.attempt_scheduled_at IS NULL
          AND (a.namespace, a.workflow_id, a.run_id, a.activity_id, a.scheduled_at, a.attempt, a.try, a.lane)
            = (g.namespace, g.workflow_id, g.run_id, g.activity_id, g.scheduled_at, g.attempt, g.try, g.lane)
    ), written AS (
        INSERT INTO flights.attempts AS a SELECT g.* FROM given g
        WHERE g.attempt_scheduled_at IS NOT NULL OR NOT EXISTS (
            SELECT FROM flights.attempts b
            WHERE b.attempt_scheduled_at IS NOT NULL
              AND (b.namespace, b.workflow_id, b.run_id, b.activity_id, b.scheduled_at, b.attempt, b.try, b.lane)
                = (g.namespace, g.workflow_id, g.run_id, g.activity_id, g.scheduled_at, g.attempt, g.try, g.lane))
        ON CONFLICT (namespace, workflow_id, run_id, activity_id, scheduled_at, attempt, try, lane,
                     coalesce(attempt_scheduled_at, '-infinity'::timestamptz))
        DO UPDATE SET
            started_at = coalesce(a.started_at, excluded.started_at),
            worker = coalesce(a.worker, excluded.worker),
            ended_at = excluded.ended_at,
            outcome = excluded.outcome,
            failure_type = excluded.failure_type,
            error = excluded.error,
            injected = coalesce(excluded.injected, a.injected),
            outage = coalesce(excluded.outage, a.outage),
            queued = coalesce(excluded.queued, a.queued),
            heartbeats = greatest(a.heartbeats, excluded.heartbeats),
            input = coalesce(excluded.input, a.input),
            result = coalesce(excluded.result, a.result)
        WHERE a.outcome IN ('open', 'lost') AND (
            excluded.outcome NOT IN ('open', a.outcome)
            -- It ended so close to its deadline that only the server knows whether in time.
            OR (a.outcome = 'open' AND a.ended_at IS NULL AND excluded.ended_at IS NOT NULL))
        RETURNING a.namespace, a.workflow_id
    ), told AS (
        -- A longer payload would fail the whole batch.
        SELECT pg_notify('trellis_flights', namespace || E'\x1f' || workflow_id)
        FROM (SELECT DISTINCT namespace, workflow_id FROM written) AS one
        WHERE octet_length(namespace) + octet_length(workflow_id) < 7900
    )
    SELECT (SELECT count(*) FROM written) + 0 * (SELECT count(*) FROM told)
$$;

-- The plan in force for one app. The sliders of a board write it, and plugins without a plan of their own follow it.
-- `since`: when its outages came into force.
CREATE TABLE flights.plans (
    namespace text NOT NULL,
    queue     text NOT NULL,
    version   bigint NOT NULL,
    plan      jsonb NOT NULL,
    since     timestamptz NOT NULL,
    PRIMARY KEY (namespace, queue)
);

-- What the imagined provider behind an activity type serves: one row for each call that it can serve at once, as in
-- provider.places.
CREATE TABLE flights.places (
    namespace text NOT NULL,
    queue     text NOT NULL,
    step      text NOT NULL,
    place     int NOT NULL,
    free_at   timestamptz NOT NULL,
    PRIMARY KEY (namespace, queue, step, place)
);

-- Seconds until the call is answered, as provider.reserve says it: its wait, and p_seconds of service.
CREATE FUNCTION flights.reserve(p_namespace text, p_queue text, p_step text, p_calls int, p_seconds double precision)
RETURNS double precision LANGUAGE plpgsql AS $$
DECLARE began timestamptz; ends timestamptz;
BEGIN
    -- Calls take turns, and the clock is read after the wait for the turn.
    PERFORM pg_advisory_xact_lock(hashtextextended(concat_ws(E'\x1f', p_namespace, p_queue, p_step), 0));
    began := clock_timestamp();
    INSERT INTO flights.places SELECT p_namespace, p_queue, p_step, number, began
        FROM generate_series(1, p_calls) AS number ON CONFLICT DO NOTHING;
    WITH free AS (
        SELECT place FROM flights.places
        WHERE (namespace, queue, step) = (p_namespace, p_queue, p_step) AND place <= p_calls
        ORDER BY free_at, place LIMIT 1)
    UPDATE flights.places p SET free_at = greatest(p.free_at, began) + make_interval(secs => p_seconds) FROM free
    WHERE (p.namespace, p.queue, p.step) = (p_namespace, p_queue, p_step) AND p.place = free.place
    RETURNING p.free_at INTO ends;
    RETURN extract(epoch FROM ends - began);
END $$;

-- The role of desk and workers, where there is one, writes the book and drops what is older than it is kept. The ledger
-- can be migrated after the book, so this runs after every migration.
CREATE FUNCTION flights.grant_application_role() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'trellis_app') THEN
        GRANT USAGE ON SCHEMA flights TO trellis_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON flights.attempts TO trellis_app;
        GRANT SELECT, INSERT, UPDATE ON flights.plans, flights.places TO trellis_app;
        GRANT SELECT ON flights.migrations TO trellis_app;
    END IF;
END $$;

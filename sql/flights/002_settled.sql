-- The runs that have ended and whose attempts were compared with what the server counted, so that none is read twice.
-- `gone`: the server no longer had the history, so what was open stays open.
CREATE TABLE flights.settled (
    namespace   text NOT NULL,
    workflow_id text NOT NULL,
    run_id      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    gone        boolean NOT NULL DEFAULT false,
    PRIMARY KEY (namespace, workflow_id, run_id)
);

ALTER FUNCTION flights.grant_application_role() RENAME TO grant_attempts;

CREATE FUNCTION flights.grant_application_role() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM flights.grant_attempts();
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'trellis_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON flights.settled TO trellis_app;
    END IF;
END $$;

-- The role may be there already, with its rights to the other tables.
SELECT flights.grant_application_role();

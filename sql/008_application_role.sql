-- The desk and the workers connect as `trellis_app`. It cannot change or delete an event. It cannot write the
-- provider's records except through the provider's own functions. It cannot alter the schema. Migrations run as the
-- owner.

-- The owner runs this after every migration. It returns NULL if the role exists and the owner may act as it. Otherwise
-- it returns the reason: an external database may not allow roles. Trellis then works as the user that it was given.
CREATE FUNCTION grant_application_role() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'trellis_app') THEN
        BEGIN
            -- Without a password it can log in only where the server asks for none, as the embedded one does.
            CREATE ROLE trellis_app LOGIN;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RETURN format('%s may not create the role trellis_app', current_user);
            WHEN duplicate_object OR unique_violation THEN
                -- Roles belong to the whole server: another database of it was migrated at the same time.
                NULL;
        END;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I, provider TO trellis_app', current_schema());
    GRANT SELECT, INSERT, UPDATE ON orders, payments, shipments TO trellis_app;
    GRANT SELECT, INSERT ON events, fault_plans TO trellis_app;
    GRANT SELECT ON order_edges, trellis_migrations TO trellis_app;
    GRANT SELECT ON ALL TABLES IN SCHEMA provider TO trellis_app;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND current_user <> 'trellis_app' THEN
        BEGIN
            EXECUTE format('GRANT trellis_app TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege OR invalid_grant_operation THEN
            IF NOT pg_has_role(current_user, 'trellis_app', 'MEMBER') THEN
                RETURN format('%s may not act as the role trellis_app', current_user);
            END IF;
        END;
    END IF;
    RETURN NULL;
END $$;

-- The provider's functions write its records with the owner's rights, because their callers have no right to. Every
-- name in them is qualified. The fixed path keeps a caller from placing its own functions before those of Postgres.
ALTER FUNCTION provider.charge(text, text, numeric) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION provider.void_charge(text, text) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION provider.dispatch(text, text, jsonb) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION provider.void_parcel(text, text) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;

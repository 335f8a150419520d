-- Roles of the services. Each may do what its job needs and nothing else; a service refuses to start with more.
-- Run by a superuser or by a role with CREATEROLE; roles belong to the whole server, so they may exist already.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ledger_owner', 'ledger_command', 'ledger_projector', 'ledger_query', 'ledger_audit'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT NOBYPASSRLS', name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this server is being migrated at this moment
            END;
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA ledger AUTHORIZATION ledger_owner;
-- Registry and checkpoints of the projections; the projections' own tables live in schemas p_NAME_vN.
CREATE SCHEMA projection AUTHORIZATION ledger_projector;

DO $$
BEGIN
    -- The projector creates and drops the schemas of projection versions when it rebuilds.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO ledger_projector', current_database());
END
$$;

-- Time limits: a query that hangs must not hold the writer's lock.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['ledger_command', 'ledger_projector', 'ledger_query', 'ledger_audit'] LOOP
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
    END LOOP;
END
$$;

-- Who looked at exports and audit data, and who tried to change something: from where, and why. What was changed stands in the log.
SET LOCAL ROLE ledger_owner;

CREATE TABLE ledger.access (
    access_id  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- As events name it.
    actor      text        NOT NULL CHECK (length(actor) <= 128),
    -- Whose connection it was, as far as this host can see.
    address    inet,
    kind       text        NOT NULL CHECK (kind IN ('read', 'attempt')),
    -- Method and route, with the names of its parameters.
    operation  text        NOT NULL CHECK (length(operation) <= 256),
    -- Path and query as they came.
    target     text        NOT NULL CHECK (length(target) <= 2048),
    request_id text        NOT NULL CHECK (length(request_id) <= 128),
    reason     text        CHECK (length(reason) <= 1000)
);
CREATE INDEX access_request ON ledger.access (actor, request_id);
CREATE INDEX access_at ON ledger.access (at);
SELECT ledger.guard('ledger.access');

CREATE FUNCTION ledger.record_access(
    p_actor text, p_address text, p_kind text, p_operation text, p_target text, p_request_id text, p_reason text
) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
    INSERT INTO ledger.access (actor, address, kind, operation, target, request_id, reason)
    VALUES (p_actor, p_address::inet, p_kind, p_operation, p_target, p_request_id, p_reason)
$$;

-- When a token was last used, to the minute. Not a fact of the books: nothing follows from it.
CREATE TABLE ledger.token_use (
    token_id     uuid        NOT NULL PRIMARY KEY,
    last_used_at timestamptz NOT NULL
);

CREATE FUNCTION ledger.note_token_use(p_token_id uuid) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
    INSERT INTO ledger.token_use AS u (token_id, last_used_at) VALUES (p_token_id, clock_timestamp())
    ON CONFLICT (token_id) DO UPDATE SET last_used_at = greatest(u.last_used_at, excluded.last_used_at)
$$;

REVOKE ALL ON FUNCTION ledger.record_access(text, text, text, text, text, text, text), ledger.note_token_use(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.record_access(text, text, text, text, text, text, text), ledger.note_token_use(uuid)
    TO ledger_command, ledger_query;
GRANT SELECT ON ledger.access, ledger.token_use TO ledger_query, ledger_audit;

-- How far the relay has published the log to the broker. A reactor's own mark: no rebuild of a projection touches it, and it may be
-- behind, never ahead of what the broker has confirmed.
CREATE SCHEMA relay AUTHORIZATION ledger_projector;

SET LOCAL ROLE ledger_owner;
-- Publishing again is an act, and acts are on record.
GRANT EXECUTE ON FUNCTION ledger.record_access(text, text, text, text, text, text, text) TO ledger_projector;

SET LOCAL ROLE ledger_projector;

-- (log_id, position, hash): a log that was rewritten or forked behind the relay's back is a loud halt.
CREATE TABLE relay.mark (
    shard       smallint    NOT NULL PRIMARY KEY,
    log_id      uuid        NOT NULL,
    position    bigint      NOT NULL,
    hash        bytea       NOT NULL CHECK (octet_length(hash) = 32),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- What the working relay does, for people.
    state       text        NOT NULL DEFAULT 'new',
    state_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Why it does not go on, until an operator says how.
    halted      text
);

GRANT USAGE ON SCHEMA relay TO ledger_query, ledger_audit, ledger_command;
GRANT SELECT ON relay.mark TO ledger_query, ledger_audit, ledger_command;

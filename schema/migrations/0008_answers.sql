-- Answers of calls with an idempotency key, so that a repeat gets the same bytes after a restart. Sealed by the gateway; no part of the
-- log: all of them may be lost, and nothing is owed for it.
CREATE SCHEMA gateway AUTHORIZATION ledger_owner;
SET LOCAL ROLE ledger_owner;

CREATE TABLE gateway.answer (
    hold_id uuid        NOT NULL PRIMARY KEY,
    sealed  bytea       NOT NULL CHECK (octet_length(sealed) <= 5 * 1024 * 1024),
    kept_at timestamptz NOT NULL DEFAULT now()
);
-- What is sealed cannot be compressed.
ALTER TABLE gateway.answer ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX answer_age ON gateway.answer (kept_at);

GRANT USAGE ON SCHEMA gateway TO ledger_command;
GRANT SELECT, INSERT, DELETE ON gateway.answer TO ledger_command;

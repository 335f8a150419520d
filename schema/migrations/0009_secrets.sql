-- Ciphertexts of provider keys, apart from the log: they can be removed, and no other role of the services may see them.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'ledger_secrets') THEN
        CREATE ROLE ledger_secrets NOLOGIN NOINHERIT NOBYPASSRLS;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this server is being migrated at this moment
END
$$;
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO ledger_secrets', current_database());
END
$$;

CREATE SCHEMA secret AUTHORIZATION ledger_owner;
SET LOCAL ROLE ledger_owner;

-- One row per provider key that may be in use. The format of `sealed`: secrets/src/envelope.rs.
CREATE TABLE secret.credential (
    credential_id uuid        NOT NULL PRIMARY KEY,
    owner         text        NOT NULL,
    purpose       text        NOT NULL,
    kek_id        bigint      NOT NULL CHECK (kek_id > 0),
    sealed        bytea       NOT NULL CHECK (octet_length(sealed) > 93),
    stored_at     timestamptz NOT NULL DEFAULT now(),
    sealed_at     timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN secret.credential.owner IS 'whom it was sealed for; part of what is needed to open it';
COMMENT ON COLUMN secret.credential.purpose IS 'what for, with the origin that it may be sent to; part of what is needed to open it';
COMMENT ON COLUMN secret.credential.kek_id IS 'the key-encryption key that it was sealed under';
CREATE INDEX credential_kek ON secret.credential (kek_id, credential_id);

-- How often each key-encryption key has sealed: random nonces of one key may come at most 2^32 times.
CREATE TABLE secret.kek_use (
    kek_id bigint NOT NULL PRIMARY KEY CHECK (kek_id > 0),
    seals  bigint NOT NULL CHECK (seals >= 0)
);

GRANT USAGE ON SCHEMA secret TO ledger_secrets;
GRANT SELECT, INSERT, UPDATE, DELETE ON secret.credential TO ledger_secrets;
GRANT SELECT, INSERT, UPDATE ON secret.kek_use TO ledger_secrets;

-- What payment providers told us: stored as it came before anything is made of it, and kept beside what became of it.
CREATE SCHEMA payment AUTHORIZATION ledger_owner;
SET LOCAL ROLE ledger_owner;

-- Events and movements, once each, exactly as received; insert-only like the log.
CREATE TABLE payment.received (
    provider    text        NOT NULL,
    id          text        NOT NULL,
    type        text        NOT NULL,
    payment     text,
    created_at  timestamptz NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    sha256      bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    body        bytea       NOT NULL,
    PRIMARY KEY (provider, id)
);
SELECT ledger.guard('payment.received');

-- What became of each.
--   received: not worked on yet, or the work was interrupted · done · ignored: nothing to do
--   waiting: what it concerns is not known yet · refused: a rule said no, somebody has to look
CREATE TABLE payment.work (
    provider   text        NOT NULL,
    id         text        NOT NULL,
    state      text        NOT NULL CHECK (state IN ('received', 'done', 'ignored', 'waiting', 'refused')),
    payment    text,
    problem    text,
    attempts   integer     NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, id),
    FOREIGN KEY (provider, id) REFERENCES payment.received (provider, id)
);
CREATE INDEX ON payment.work (provider, state, updated_at) WHERE state IN ('received', 'waiting', 'refused');
CREATE INDEX ON payment.work (provider, payment) WHERE state = 'waiting';

-- Up to when everything that the provider has was fetched.
CREATE TABLE payment.sweep (
    provider text        NOT NULL,
    what     text        NOT NULL,
    until    timestamptz NOT NULL,
    PRIMARY KEY (provider, what)
);

GRANT USAGE ON SCHEMA payment TO ledger_command, ledger_audit;
GRANT SELECT, INSERT ON payment.received TO ledger_command;
GRANT SELECT, INSERT, UPDATE ON payment.work, payment.sweep TO ledger_command;
GRANT SELECT ON payment.received, payment.work, payment.sweep TO ledger_audit;

-- Which projections exist, and how far each has read.
SET LOCAL ROLE ledger_projector;

CREATE TABLE projection.registry (
    name       text        NOT NULL,
    version    integer     NOT NULL,
    state      text        NOT NULL CHECK (state IN ('building', 'standby', 'live', 'retired')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);
CREATE UNIQUE INDEX one_live_version ON projection.registry (name) WHERE state = 'live';

-- (log_id, position, hash): a log that was rewritten or forked behind a projection's back is a loud halt.
CREATE TABLE projection.checkpoint (
    name       text        NOT NULL,
    version    integer     NOT NULL,
    shard      smallint    NOT NULL,
    log_id     uuid        NOT NULL,
    position   bigint      NOT NULL,
    hash       bytea       NOT NULL CHECK (octet_length(hash) = 32),
    updated_at timestamptz NOT NULL DEFAULT now(),
    halted     text,
    PRIMARY KEY (name, version, shard)
);

-- Events that a projection could not apply. Later events of the same stream wait behind them.
CREATE TABLE projection.dead_letter (
    projection text        NOT NULL,
    version    integer     NOT NULL,
    shard      smallint    NOT NULL,
    stream     text        NOT NULL,
    position   bigint      NOT NULL,
    cause      text        NOT NULL,
    attempts   integer     NOT NULL DEFAULT 1,
    first_seen timestamptz NOT NULL DEFAULT now(),
    last_seen  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, version, shard, position)
);
CREATE INDEX dead_letter_stream ON projection.dead_letter (projection, version, shard, stream);

GRANT USAGE ON SCHEMA projection TO ledger_query, ledger_audit, ledger_command;
GRANT SELECT ON ALL TABLES IN SCHEMA projection TO ledger_query, ledger_audit;

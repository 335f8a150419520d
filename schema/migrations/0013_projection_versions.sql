-- Several versions of a projection's tables side by side; who did what to them; dead letters that people can name.
SET LOCAL ROLE ledger_projector;

ALTER TABLE projection.registry
    -- Which version of the program's fold writes these tables. The same fold may fill tables anew under the next number.
    ADD COLUMN code integer,
    -- Statements that point the views in the schema read to these tables; none while they are being built.
    ADD COLUMN views text NOT NULL DEFAULT '';
UPDATE projection.registry SET code = version;
ALTER TABLE projection.registry ALTER COLUMN code SET NOT NULL;

ALTER TABLE projection.dead_letter ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY;
CREATE UNIQUE INDEX dead_letter_id ON projection.dead_letter (id);

-- What people did to read tables: rebuilt, compared, switched, paused, dropped, retried letters, looked at a payload.
CREATE TABLE projection.act (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- As events name staff, or a user of the operating system; the latter is a claim, see docs/OPERATIONS.md.
    actor      text        NOT NULL CHECK (length(actor) <= 128),
    act        text        NOT NULL CHECK (length(act) <= 64),
    projection text        NOT NULL,
    version    integer     NOT NULL,
    reason     text        CHECK (length(reason) <= 1000),
    detail     jsonb       NOT NULL
);
CREATE INDEX act_of_projection ON projection.act (projection, id);

-- Letters that two people have taken off the list: another event answers what these would have done.
CREATE TABLE projection.resolved_letter (
    projection text     NOT NULL,
    version    integer  NOT NULL,
    shard      smallint NOT NULL,
    position   bigint   NOT NULL,
    -- The event that answers it.
    by_position bigint  NOT NULL,
    act        bigint   NOT NULL REFERENCES projection.act (id),
    PRIMARY KEY (projection, version, shard, position)
);

GRANT SELECT ON projection.act, projection.resolved_letter TO ledger_query, ledger_audit, ledger_command;

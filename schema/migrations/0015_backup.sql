-- Backups by replication, and logs that go on under another id because a restore has lost their end.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'ledger_backup') THEN
        BEGIN
            CREATE ROLE ledger_backup NOLOGIN NOINHERIT NOBYPASSRLS REPLICATION;
        EXCEPTION WHEN insufficient_privilege THEN
            -- Only a superuser gives REPLICATION; `modelfaucet backup` says so where it is missing.
            CREATE ROLE ledger_backup NOLOGIN NOINHERIT NOBYPASSRLS;
        END;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another database of this server is being migrated at this moment
END
$$;
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO ledger_backup', current_database());
END
$$;

SET LOCAL ROLE ledger_owner;

-- One row per fork: from `position` on the shard's log goes on under another id. The first event behind it is LogForked.
-- ledger.log keeps the id that the chain begins with.
CREATE TABLE ledger.fork (
    shard      smallint    NOT NULL REFERENCES ledger.log (shard),
    epoch      integer     NOT NULL CHECK (epoch > 1),
    log_id     uuid        NOT NULL UNIQUE,
    position   bigint      NOT NULL CHECK (position >= 0),
    hash       bytea       NOT NULL CHECK (octet_length(hash) = 32),
    -- The last position of the old line that anybody has seen; everything behind `position` up to it is lost.
    lost_until bigint      NOT NULL,
    forked_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, epoch),
    CHECK (lost_until > position)
);
SELECT ledger.guard('ledger.fork');

-- Every id that a shard's log has had, in order. `until`: the last position of that line that is still in the log; null while
-- nothing was lost behind it. `lost_until`: up to where what was lost is named.
CREATE VIEW ledger.lineage WITH (security_invoker = true) AS
SELECT i.shard, i.epoch, i.log_id, f.until, f.lost_until
FROM (SELECT shard, 1 AS epoch, log_id FROM ledger.log UNION ALL SELECT shard, epoch, log_id FROM ledger.fork) AS i
LEFT JOIN LATERAL (SELECT min(later.position) AS until, max(later.lost_until) AS lost_until
                   FROM ledger.fork later WHERE later.shard = i.shard AND later.epoch > i.epoch) f ON true;

-- As before, but with the id that the log has now.
CREATE OR REPLACE VIEW ledger.head WITH (security_invoker = true) AS
SELECT l.shard,
       coalesce((SELECT f.log_id FROM ledger.fork f WHERE f.shard = l.shard ORDER BY f.epoch DESC LIMIT 1), l.log_id) AS log_id,
       coalesce(b.last_pos, 0) AS position,
       coalesce(b.hash, sha256('modelfaucet.log.v1'::bytea || uuid_send(l.log_id) || int2send(l.shard))) AS hash,
       b.committed_at
FROM ledger.log l
LEFT JOIN LATERAL (SELECT last_pos, hash, committed_at FROM ledger.batch
                   WHERE batch.shard = l.shard ORDER BY last_pos DESC LIMIT 1) b ON true;

-- Begins another line behind the head. In the same transaction the caller appends LogForked; alone it does nothing that a reader
-- could tell apart. No service role may: it takes the owner's login and two administrators (`modelfaucet log fork`).
CREATE FUNCTION ledger.fork_log(p_shard smallint, p_position bigint, p_hash bytea, p_log_id uuid, p_lost_until bigint) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    head_pos  bigint;
    head_hash bytea;
    epoch_now integer;
BEGIN
    PERFORM pg_advisory_xact_lock(7304, p_shard);
    SELECT h.position, h.hash INTO head_pos, head_hash FROM ledger.head h WHERE h.shard = p_shard;
    IF head_pos IS DISTINCT FROM p_position OR head_hash IS DISTINCT FROM p_hash THEN
        RAISE EXCEPTION 'shard % is at position %, not at %', p_shard, head_pos, p_position USING ERRCODE = 'ML001';
    END IF;
    SELECT coalesce(max(f.epoch), 1) + 1 INTO epoch_now FROM ledger.fork f WHERE f.shard = p_shard;
    INSERT INTO ledger.fork (shard, epoch, log_id, position, hash, lost_until)
    VALUES (p_shard, epoch_now, p_log_id, p_position, p_hash, p_lost_until);
    RETURN epoch_now;
END
$$;
REVOKE ALL ON FUNCTION ledger.fork_log(smallint, bigint, bytea, uuid, bigint) FROM PUBLIC;

GRANT SELECT ON ledger.fork, ledger.lineage TO ledger_command, ledger_projector, ledger_query, ledger_audit;
GRANT USAGE ON SCHEMA ledger TO ledger_backup;
GRANT SELECT ON ledger.log, ledger.fork, ledger.lineage, ledger.head, ledger.event, ledger.batch TO ledger_backup;

-- The log: what happened, in order, insert-only. Every key begins with the shard; nothing assumes that there is only one.
SET LOCAL ROLE ledger_owner;

-- One line per shard: which log this is. A restore that loses a suffix gets a new log_id.
CREATE TABLE ledger.log (
    shard      smallint    NOT NULL PRIMARY KEY CHECK (shard >= 0),
    log_id     uuid        NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Where each app lives. An app never moves; an app that is not listed lives in shard 0.
CREATE TABLE ledger.app_shard (
    app_id uuid     NOT NULL PRIMARY KEY,
    shard  smallint NOT NULL REFERENCES ledger.log (shard)
);

-- Events. The payload is bytea: exactly the bytes that were hashed.
CREATE TABLE ledger.event (
    shard       smallint    NOT NULL,
    position    bigint      NOT NULL CHECK (position > 0),
    stream      text        NOT NULL,
    stream_seq  bigint      NOT NULL CHECK (stream_seq > 0),
    type        text        NOT NULL,
    version     smallint    NOT NULL,
    recorded_at timestamptz NOT NULL,
    actor       text        NOT NULL,
    request_id  text        NOT NULL,
    key         uuid,
    fingerprint uuid,
    payload     bytea       NOT NULL,
    PRIMARY KEY (shard, position),
    CHECK ((key IS NULL) = (fingerprint IS NULL))
) PARTITION BY LIST (shard);
-- Payloads of about a kilobyte stay in the row, uncompressed: compressing costs more than it saves here.
ALTER TABLE ledger.event ALTER COLUMN payload SET STORAGE EXTERNAL;

-- One row per append: a link of the hash chain (see schema/src/hash.rs for what is hashed).
CREATE TABLE ledger.batch (
    shard        smallint    NOT NULL,
    first_pos    bigint      NOT NULL,
    last_pos     bigint      NOT NULL,
    batch_id     uuid        NOT NULL,
    prev_hash    bytea       NOT NULL CHECK (octet_length(prev_hash) = 32),
    hash         bytea       NOT NULL CHECK (octet_length(hash) = 32),
    committed_at timestamptz NOT NULL,
    PRIMARY KEY (shard, last_pos),
    CHECK (last_pos >= first_pos)
) PARTITION BY LIST (shard);

-- Which event answers an idempotency key. Kept forever: a repeat after a year still has no second effect.
CREATE TABLE ledger.idempotency (
    shard    smallint NOT NULL,
    key      uuid     NOT NULL,
    position bigint   NOT NULL,
    PRIMARY KEY (shard, key)
) PARTITION BY LIST (shard);

-- Snapshots of the writer's state. Disposable: they only make a cold start short.
CREATE TABLE ledger.snapshot (
    shard        smallint    NOT NULL,
    position     bigint      NOT NULL,
    hash         bytea       NOT NULL CHECK (octet_length(hash) = 32),
    fold_version integer     NOT NULL,
    state        bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, position, fold_version)
);

-- Append-only, also for the owner and for a superuser in replica mode (ENABLE ALWAYS).
CREATE FUNCTION ledger.refuse_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'ML003';
END
$$;

-- Truncate triggers are not inherited by partitions, so whoever creates a table or partition of the log calls this.
CREATE FUNCTION ledger.guard(target regclass) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = target AND tgname = 'append_only') THEN
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change()', target);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only', target);
    EXECUTE format('CREATE TRIGGER no_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER no_truncate', target);
END
$$;

SELECT ledger.guard(target::regclass)
FROM unnest(ARRAY['ledger.log', 'ledger.app_shard', 'ledger.event', 'ledger.batch', 'ledger.idempotency']) AS target;

-- Positions per partition of ledger.event.
CREATE FUNCTION ledger.partition_size() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 20000000::bigint';

-- Creates the partition that holds position $2 of shard $1, and the shard's own partitions, if they are missing.
CREATE FUNCTION ledger.ensure_partition(p_shard smallint, p_position bigint) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    size   constant bigint := ledger.partition_size();
    number constant bigint := (p_position - 1) / size;
    shard_name text := format('s%s', lpad(p_shard::text, 2, '0'));
    parent     text;
    child      text;
BEGIN
    PERFORM pg_advisory_xact_lock(7305, p_shard);
    FOREACH parent IN ARRAY ARRAY['event', 'batch', 'idempotency'] LOOP
        child := format('%s_%s', parent, shard_name);
        IF to_regclass('ledger.' || child) IS NULL THEN
            EXECUTE format('CREATE TABLE ledger.%I PARTITION OF ledger.%I FOR VALUES IN (%s) %s', child, parent, p_shard,
                           CASE parent WHEN 'event' THEN 'PARTITION BY RANGE (position)' ELSE '' END);
            PERFORM ledger.guard(to_regclass('ledger.' || child));
        END IF;
    END LOOP;
    child := format('event_%s_%s', shard_name, lpad(number::text, 5, '0'));
    IF to_regclass('ledger.' || child) IS NULL THEN
        EXECUTE format('CREATE TABLE ledger.%I PARTITION OF ledger.%I FOR VALUES FROM (%s) TO (%s)', child, 'event_' || shard_name,
                       number * size + 1, (number + 1) * size + 1);
        EXECUTE format('ALTER TABLE ledger.%I ALTER COLUMN payload SET STORAGE EXTERNAL', child);
        PERFORM ledger.guard(to_regclass('ledger.' || child));
    END IF;
END
$$;

-- Begins a shard's log. Does nothing if it exists.
CREATE FUNCTION ledger.create_shard(p_shard smallint, p_log_id uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    INSERT INTO ledger.log (shard, log_id) VALUES (p_shard, p_log_id) ON CONFLICT (shard) DO NOTHING;
    PERFORM ledger.ensure_partition(p_shard, 1);
END
$$;

-- The only way to write an event: one call, one commit. Takes the shard's lock, checks that the head is exactly what the caller
-- saw, inserts batch, events and keys, and checks that all of them went in.
--   p_streams … p_payloads: one element per event, in order of position; p_keys and p_fingerprints: null where there is none.
-- Returns 'appended', or 'already' if this very batch is at this very place (its answer had been lost).
-- Errors: ML001 another head (detail: position and hash of it) · 23505 in ledger.idempotency: a key was used before (ON CONFLICT
--         would look at the index twice per key) · 23514 no partition for these positions (call ledger.ensure_partition).
CREATE FUNCTION ledger.append(
    p_shard        smallint,
    p_prev_pos     bigint,
    p_prev_hash    bytea,
    p_batch_id     uuid,
    p_hash         bytea,
    p_recorded_at  timestamptz,
    p_streams      text[],
    p_stream_seqs  bigint[],
    p_types        text[],
    p_versions     smallint[],
    p_actors       text[],
    p_request_ids  text[],
    p_keys         uuid[],
    p_fingerprints uuid[],
    p_payloads     bytea[]
) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    n         constant integer := coalesce(array_length(p_payloads, 1), 0);
    head_pos  bigint;
    head_hash bytea;
    log_id    uuid;
    inserted  bigint;
    with_key  bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7304, p_shard);

    SELECT b.last_pos, b.hash INTO head_pos, head_hash
    FROM ledger.batch b WHERE b.shard = p_shard ORDER BY b.last_pos DESC LIMIT 1;
    IF head_pos IS NULL THEN
        SELECT l.log_id INTO log_id FROM ledger.log l WHERE l.shard = p_shard;
        IF log_id IS NULL THEN
            RAISE EXCEPTION 'shard % has no log', p_shard USING ERRCODE = 'ML004';
        END IF;
        head_pos := 0;
        -- Same bytes as ChainHash::genesis.
        head_hash := sha256('modelfaucet.log.v1'::bytea || uuid_send(log_id) || int2send(p_shard));
    END IF;

    IF head_pos <> p_prev_pos OR head_hash <> p_prev_hash THEN
        IF head_pos > p_prev_pos AND EXISTS (
            SELECT FROM ledger.batch b
            WHERE b.shard = p_shard AND b.last_pos = p_prev_pos + n AND b.first_pos = p_prev_pos + 1
              AND b.batch_id = p_batch_id AND b.hash = p_hash)
        THEN
            RETURN 'already';
        END IF;
        RAISE EXCEPTION 'shard % is at position %, not at %', p_shard, head_pos, p_prev_pos
            USING ERRCODE = 'ML001', DETAIL = format('%s %s', head_pos, encode(head_hash, 'hex'));
    END IF;
    IF n = 0 THEN
        RAISE EXCEPTION 'a batch has at least one event' USING ERRCODE = 'ML005';
    END IF;

    INSERT INTO ledger.batch (shard, first_pos, last_pos, batch_id, prev_hash, hash, committed_at)
    VALUES (p_shard, head_pos + 1, head_pos + n, p_batch_id, p_prev_hash, p_hash, p_recorded_at);

    INSERT INTO ledger.event (shard, position, stream, stream_seq, type, version, recorded_at, actor, request_id, key, fingerprint, payload)
    SELECT p_shard, head_pos + e.ordinal, e.stream, e.stream_seq, e.type, e.version, p_recorded_at, e.actor, e.request_id,
           e.key, e.fingerprint, e.payload
    FROM ROWS FROM (unnest(p_streams), unnest(p_stream_seqs), unnest(p_types), unnest(p_versions), unnest(p_actors),
                    unnest(p_request_ids), unnest(p_keys), unnest(p_fingerprints), unnest(p_payloads))
         WITH ORDINALITY AS e (stream, stream_seq, type, version, actor, request_id, key, fingerprint, payload, ordinal);
    GET DIAGNOSTICS inserted = ROW_COUNT;
    IF inserted <> n THEN
        RAISE EXCEPTION '% events given, % inserted', n, inserted USING ERRCODE = 'ML005';
    END IF;

    with_key := n - coalesce(array_length(array_positions(p_keys, NULL), 1), 0);
    IF with_key > 0 THEN
        INSERT INTO ledger.idempotency (shard, key, position)
        SELECT p_shard, k.key, head_pos + k.ordinal
        FROM unnest(p_keys) WITH ORDINALITY AS k (key, ordinal)
        WHERE k.key IS NOT NULL;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        IF inserted <> with_key THEN
            RAISE EXCEPTION '% idempotency keys given, % inserted', with_key, inserted USING ERRCODE = 'ML005';
        END IF;
    END IF;
    RETURN 'appended';
END
$$;

-- Keeps a snapshot of the writer's state and drops all but the two newest of its fold version.
CREATE FUNCTION ledger.save_snapshot(p_shard smallint, p_position bigint, p_hash bytea, p_fold_version integer, p_state bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    INSERT INTO ledger.snapshot (shard, position, hash, fold_version, state)
    VALUES (p_shard, p_position, p_hash, p_fold_version, p_state)
    ON CONFLICT DO NOTHING;
    DELETE FROM ledger.snapshot s
    WHERE s.shard = p_shard AND s.position < (
        SELECT min(newest.position)
        FROM (SELECT n.position FROM ledger.snapshot n
              WHERE n.shard = p_shard AND n.fold_version = p_fold_version
              ORDER BY n.position DESC LIMIT 2) AS newest);
END
$$;

-- What an auditor's SQL reads.
CREATE VIEW ledger.event_json WITH (security_invoker = true) AS
SELECT shard, position, stream, stream_seq, type, version, recorded_at, actor, request_id, key,
       convert_from(payload, 'UTF8')::jsonb AS payload
FROM ledger.event;

-- The newest link per shard.
CREATE VIEW ledger.head WITH (security_invoker = true) AS
SELECT l.shard, l.log_id, coalesce(b.last_pos, 0) AS position,
       coalesce(b.hash, sha256('modelfaucet.log.v1'::bytea || uuid_send(l.log_id) || int2send(l.shard))) AS hash,
       b.committed_at
FROM ledger.log l
LEFT JOIN LATERAL (SELECT last_pos, hash, committed_at FROM ledger.batch
                   WHERE batch.shard = l.shard ORDER BY last_pos DESC LIMIT 1) b ON true;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC;
GRANT USAGE ON SCHEMA ledger TO ledger_command, ledger_projector, ledger_query, ledger_audit;
GRANT SELECT ON ledger.log, ledger.app_shard, ledger.event, ledger.batch, ledger.idempotency, ledger.snapshot, ledger.head TO ledger_command;
GRANT EXECUTE ON FUNCTION ledger.append(smallint, bigint, bytea, uuid, bytea, timestamptz, text[], bigint[], text[], smallint[], text[], text[], uuid[], uuid[], bytea[]),
                          ledger.ensure_partition(smallint, bigint), ledger.create_shard(smallint, uuid),
                          ledger.save_snapshot(smallint, bigint, bytea, integer, bytea), ledger.partition_size() TO ledger_command;
GRANT SELECT ON ledger.log, ledger.app_shard, ledger.event, ledger.batch, ledger.head TO ledger_projector;
-- The query role sees how far the log is, to say how far the projections are behind; it does not see events.
GRANT SELECT ON ledger.log TO ledger_query;
GRANT SELECT (shard, last_pos, hash, committed_at) ON ledger.batch TO ledger_query;
GRANT SELECT ON ledger.head TO ledger_query;
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO ledger_audit;

-- What all projections share. Run by ledger_projector, inside a transaction; safe to repeat.
CREATE SCHEMA IF NOT EXISTS read;
GRANT USAGE ON SCHEMA read TO ledger_query, ledger_audit;

-- Moves the checkpoints of projections that stand at the same place. Fails, and so undoes its transaction, unless every one of
-- them stands where the caller thinks: another projector was here first, or an operator halted one.
-- Error ML006: a checkpoint is elsewhere.
CREATE OR REPLACE FUNCTION projection.advance(
    p_names     text[],
    p_versions  integer[],
    p_shard     smallint,
    p_log_id    uuid,
    p_from      bigint,
    p_from_hash bytea,
    p_to        bigint,
    p_to_hash   bytea
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$$
DECLARE
    moved bigint;
BEGIN
    UPDATE projection.checkpoint c
    SET position = p_to, hash = p_to_hash, updated_at = clock_timestamp()
    FROM unnest(p_names, p_versions) AS mine (name, version)
    WHERE c.name = mine.name AND c.version = mine.version AND c.shard = p_shard
      AND c.log_id = p_log_id AND c.position = p_from AND c.hash = p_from_hash AND c.halted IS NULL;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(p_names) THEN
        RAISE EXCEPTION '% of % checkpoints of shard % are not at position %', cardinality(p_names) - moved, cardinality(p_names), p_shard, p_from
            USING ERRCODE = 'ML006';
    END IF;
END
$$;

-- Fails unless a statement changed as many rows as it had to: an event that changes a row which is not there is an error.
-- Error ML007.
CREATE OR REPLACE FUNCTION projection.expect_rows(p_table text, p_changed bigint, p_expected bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    IF p_changed <> p_expected THEN
        RAISE EXCEPTION '% rows of % are missing', p_expected - p_changed, p_table USING ERRCODE = 'ML007';
    END IF;
END
$$;

REVOKE ALL ON FUNCTION projection.advance(text[], integer[], smallint, uuid, bigint, bytea, bigint, bytea),
                       projection.expect_rows(text, bigint, bigint) FROM PUBLIC;

-- What the policies of the read tables ask (projector/src/tenant.rs). In functions, whose bodies depend on nothing: a view may be
-- dropped and made anew without taking the policies along, and while it is missing there is an error, not an empty answer. They run as
-- their caller, so the views inside are filtered for the tenant as well.
CREATE OR REPLACE FUNCTION projection.own_apps() RETURNS uuid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    RETURN ARRAY(SELECT a.app_id FROM read.app a);
END
$$;

CREATE OR REPLACE FUNCTION projection.own_actors() RETURNS text[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS
$$
BEGIN
    RETURN ARRAY(SELECT 'token:' || t.token_id FROM read.developer_token t);
END
$$;

CREATE OR REPLACE FUNCTION projection.sees_wallet(p_shard smallint, p_wallet_id uuid) RETURNS boolean
    LANGUAGE plpgsql STABLE AS
$$
BEGIN
    RETURN EXISTS (SELECT FROM read.wallet w WHERE w.shard = p_shard AND w.wallet_id = p_wallet_id);
END
$$;

REVOKE ALL ON FUNCTION projection.own_apps(), projection.own_actors(), projection.sees_wallet(smallint, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION projection.own_apps(), projection.own_actors(), projection.sees_wallet(smallint, uuid) TO ledger_query;

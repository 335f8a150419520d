-- Puts a newly sealed secret in the place of the one that was opened, if that is still there, and counts the seal.
-- $1 credential uuid · $2 the bytes that were opened bytea · $3 key-encryption key int8 · $4 the sealed bytes bytea
WITH changed AS (
    UPDATE secret.credential SET kek_id = $3, sealed = $4, sealed_at = now()
    WHERE credential_id = $1 AND sealed = $2
    RETURNING 1),
counted AS (
    INSERT INTO secret.kek_use AS k (kek_id, seals) VALUES ($3, 1)
    ON CONFLICT (kek_id) DO UPDATE SET seals = k.seals + 1)
SELECT count(*) FROM changed

-- Keeps a sealed secret and counts the seal. $1 credential uuid · $2 owner text · $3 purpose text · $4 key-encryption key int8 ·
-- $5 the sealed bytes bytea
WITH counted AS (
    INSERT INTO secret.kek_use AS k (kek_id, seals) VALUES ($4, 1)
    ON CONFLICT (kek_id) DO UPDATE SET seals = k.seals + 1
    RETURNING seals),
kept AS (
    INSERT INTO secret.credential (credential_id, owner, purpose, kek_id, sealed) VALUES ($1, $2, $3, $4, $5))
SELECT seals FROM counted

-- Stores what was received unless its id is there; gives whether it was, its state and the first body.
-- $1 provider text · $2 id text · $3 type text · $4 payment text or null · $5 created_at timestamptz · $6 sha256 bytea · $7 body bytea
WITH stored AS (
    INSERT INTO payment.received (provider, id, type, payment, created_at, sha256, body)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (provider, id) DO NOTHING
    RETURNING provider, id
), noted AS (
    INSERT INTO payment.work (provider, id, state, payment)
    SELECT provider, id, 'received', $4 FROM stored
    RETURNING state
)
SELECT NOT EXISTS (SELECT FROM noted),
       coalesce((SELECT state FROM noted), (SELECT w.state FROM payment.work w WHERE w.provider = $1 AND w.id = $2), 'received'),
       coalesce((SELECT r.body FROM payment.received r WHERE r.provider = $1 AND r.id = $2), $7)

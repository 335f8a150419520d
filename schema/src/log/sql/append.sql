-- One batch of events: one round trip, one commit.
-- $1 shard int2 · $2 previous position int8 · $3 previous hash bytea(32) · $4 batch id uuid · $5 hash bytea(32)
-- $6 recorded at timestamptz · $7 streams text[] · $8 stream seqs int8[] · $9 types text[] · $10 versions int2[]
-- $11 actors text[] · $12 request ids text[] · $13 keys uuid[] · $14 fingerprints uuid[] · $15 payloads bytea[]
SELECT ledger.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)

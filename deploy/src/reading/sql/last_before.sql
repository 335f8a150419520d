-- The last position of shard $1 int2 that was recorded before $2 timestamptz; 0 if none was. Times never go back in a shard, so the
-- place is found by halving: everything up to lo is earlier, everything behind hi is not. Halves also where the log has a hole.
WITH RECURSIVE search (lo, hi) AS (
    SELECT 0::bigint, coalesce((SELECT max(b.last_pos) FROM ledger.batch b WHERE b.shard = $1), 0)
    UNION ALL
    SELECT CASE WHEN b.committed_at < $2 THEN b.last_pos ELSE s.lo END,
           CASE WHEN b.committed_at < $2 THEN s.hi ELSE least(b.first_pos - 1, (s.lo + s.hi) / 2) END
    FROM search s
    CROSS JOIN LATERAL (SELECT m.first_pos, m.last_pos, m.committed_at FROM ledger.batch m
                        WHERE m.shard = $1 AND m.last_pos > (s.lo + s.hi) / 2
                        ORDER BY m.last_pos LIMIT 1) b
    WHERE s.lo < s.hi
)
SELECT max(lo) FROM search

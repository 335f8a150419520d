-- Entries, newest first, with the texts of their accounts in the order of the postings.
-- $1 shard int2 · $2 only below this position int8 · $3 rows at most int8 · $4 recorded from and
-- $5 before this time timestamptz, null for all
SELECT e.position, e.type, e.wallet_id, e.app_id, e.recorded_at, e.occurred_at, e.request_id, e.amounts, e.balances,
       ARRAY(SELECT a.account
             FROM unnest(e.account_ids) WITH ORDINALITY AS p (account_id, line)
             JOIN read.account a ON a.shard = e.shard AND a.account_id = p.account_id
             ORDER BY p.line) AS accounts
FROM read.entry e
WHERE e.shard = $1 AND e.position < $2
  AND ($4::timestamptz IS NULL OR e.recorded_at >= $4)
  AND ($5::timestamptz IS NULL OR e.recorded_at < $5)
ORDER BY e.position DESC
LIMIT $3

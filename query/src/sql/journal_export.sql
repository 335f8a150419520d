-- The whole journal in order. $1 recorded from timestamptz, null for all · $2 recorded before timestamptz, null for all
-- Accounts are looked up by subquery, entry by entry: a join would have to be sorted.
SELECT e.shard, e.position, e.type, e.wallet_id, e.recorded_at, e.occurred_at, e.request_id, e.amounts, e.balances,
       ARRAY(SELECT a.account
             FROM unnest(e.account_ids) WITH ORDINALITY AS p (account_id, line)
             JOIN read.account a ON a.shard = e.shard AND a.account_id = p.account_id
             ORDER BY p.line) AS accounts
FROM read.entry e
WHERE ($1::timestamptz IS NULL OR e.recorded_at >= $1)
  AND ($2::timestamptz IS NULL OR e.recorded_at < $2)
ORDER BY e.shard, e.position

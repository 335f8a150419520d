-- As journal_of_account, for an account of a wallet: only entries of that wallet post to it.
-- $1 shard int2 · $2 only below this position int8 · $3 rows at most int8 · $4 account text · $5 wallet uuid · $6 recorded from and
-- $7 before this time timestamptz, null for all
SELECT e.position, e.type, e.wallet_id, e.app_id, e.recorded_at, e.occurred_at, e.request_id, e.amounts, e.balances,
       ARRAY(SELECT a.account
             FROM unnest(e.account_ids) WITH ORDINALITY AS p (account_id, line)
             JOIN read.account a ON a.shard = e.shard AND a.account_id = p.account_id
             ORDER BY p.line) AS accounts
FROM read.entry e
WHERE e.shard = $1
  AND e.wallet_id = $5
  AND e.position < $2
  AND (SELECT f.account_id FROM read.account f WHERE f.shard = $1 AND f.account = $4) = ANY (e.account_ids)
  AND ($6::timestamptz IS NULL OR e.recorded_at >= $6)
  AND ($7::timestamptz IS NULL OR e.recorded_at < $7)
ORDER BY e.position DESC
LIMIT $3

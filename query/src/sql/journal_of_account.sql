-- As journal_page, only entries that post to an account. Its last posting is known, so that looking for an old one does not begin
-- at the end of the books. $1 shard int2 · $2 only below this position int8 · $3 rows at most int8 · $4 account text · $5 recorded from and
-- $6 before this time timestamptz, null for all
SELECT e.position, e.type, e.wallet_id, e.app_id, e.recorded_at, e.occurred_at, e.request_id, e.amounts, e.balances,
       ARRAY(SELECT a.account
             FROM unnest(e.account_ids) WITH ORDINALITY AS p (account_id, line)
             JOIN read.account a ON a.shard = e.shard AND a.account_id = p.account_id
             ORDER BY p.line) AS accounts
FROM read.entry e
WHERE e.shard = $1
  AND e.position < $2
  AND e.position <= (SELECT f.position FROM read.account f WHERE f.shard = $1 AND f.account = $4)
  AND (SELECT f.account_id FROM read.account f WHERE f.shard = $1 AND f.account = $4) = ANY (e.account_ids)
  AND ($5::timestamptz IS NULL OR e.recorded_at >= $5)
  AND ($6::timestamptz IS NULL OR e.recorded_at < $6)
ORDER BY e.position DESC
LIMIT $3

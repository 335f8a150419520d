-- Entries, newest first, with the texts of their accounts in the order of the postings.
-- $1 shard int2 · $2 account text, null for all · $3 only below this position int8, null for all · $4 rows at most int8
-- The last posting of the account is known, so that looking for an old account does not begin at the end of the books.
SELECT e.position, e.type, e.wallet_id, e.app_id, e.recorded_at, e.occurred_at, e.request_id, e.amounts, e.balances,
       ARRAY(SELECT a.account
             FROM unnest(e.account_ids) WITH ORDINALITY AS p (account_id, line)
             JOIN read.account a ON a.shard = e.shard AND a.account_id = p.account_id
             ORDER BY p.line) AS accounts
FROM read.entry e
WHERE e.shard = $1
  AND ($3::bigint IS NULL OR e.position < $3)
  AND ($2::text IS NULL OR (
        e.position <= (SELECT f.position FROM read.account f WHERE f.shard = $1 AND f.account = $2)
        AND (SELECT f.account_id FROM read.account f WHERE f.shard = $1 AND f.account = $2) = ANY (e.account_ids)))
ORDER BY e.position DESC
LIMIT $4

-- Three opinions on every wallet: the balance that the writer stated, the sum of the postings to its accounts (2010 paid, 2020
-- promotional; credits are gains), and the fold of the business amounts. A wallet that only one of them knows is there too.
-- Amounts in units of 1e-8 USD; null where an opinion is missing. Without postings the sum is zero.
WITH ledger AS (
    SELECT shard, substr(account, 6)::uuid AS wallet_id, sum(credit - debit)::bigint AS posted,
           coalesce(sum(credit - debit) FILTER (WHERE account LIKE '2020:%'), 0)::bigint AS promo
    FROM read.account
    WHERE account LIKE '2010:%' OR account LIKE '2020:%'
    GROUP BY 1, 2
)
SELECT shard, wallet_id, w.user_id, w.floor, w.posted, w.promo, w.held, coalesce(l.posted, 0) AS ledger_posted,
       coalesce(l.promo, 0) AS ledger_promo, f.posted AS fold_posted, f.held AS fold_held
FROM read.wallet w
FULL JOIN ledger l USING (shard, wallet_id)
FULL JOIN read.wallet_fold f USING (shard, wallet_id)
ORDER BY w.opened_at, shard, wallet_id

-- How many wallets there are, and on how many the three opinions do not agree: the stated balance, the postings, the fold.
WITH ledger AS (
    SELECT shard, substr(account, 6)::uuid AS wallet_id, sum(credit - debit)::bigint AS posted
    FROM read.account
    WHERE account LIKE '2010:%' OR account LIKE '2020:%'
    GROUP BY 1, 2
)
SELECT count(*), count(*) FILTER (WHERE w.posted IS NULL OR f.posted IS NULL OR w.posted <> coalesce(l.posted, 0)
                                     OR w.posted <> f.posted OR w.held <> f.held OR w.posted - w.held < w.floor)
FROM read.wallet w
FULL JOIN ledger l USING (shard, wallet_id)
FULL JOIN read.wallet_fold f USING (shard, wallet_id)

-- Balances of a few accounts of the house, over all shards, each found by its name; debits minus credits. $1 accounts text[]
SELECT a.account, sum(a.debit - a.credit)::bigint
FROM ledger.head h
JOIN read.account a ON a.shard = h.shard AND a.account = ANY ($1)
GROUP BY a.account

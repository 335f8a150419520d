-- Debits and credits by code, over all shards. Sums as texts: they may be wider than 64 bits.
SELECT split_part(account, ':', 1) AS code, count(*) AS accounts, sum(postings)::bigint AS postings,
       sum(debit)::text AS debit, sum(credit)::text AS credit
FROM read.account
GROUP BY 1
ORDER BY 1

-- One row per posting, as an auditor reads a journal. Amounts and balances: debit positive.
CREATE OR REPLACE VIEW read.posting WITH (security_invoker = true) AS
SELECT e.shard, e.position, p.line, a.account, split_part(a.account, ':', 1) AS code,
       p.amount, p.balance,
       (p.amount * 0.00000001)::numeric(28, 8) AS amount_usd,
       (p.balance * 0.00000001)::numeric(28, 8) AS balance_usd,
       e.type, e.wallet_id, e.app_id, e.recorded_at, e.occurred_at, e.request_id
FROM {schema}.entry e
CROSS JOIN LATERAL ROWS FROM (unnest(e.account_ids), unnest(e.amounts), unnest(e.balances))
           WITH ORDINALITY AS p (account_id, amount, balance, line)
JOIN {schema}.account a ON a.shard = e.shard AND a.account_id = p.account_id;

-- Totals per account and shard; the sum of all balances is zero. Balance: debit positive.
CREATE OR REPLACE VIEW read.trial_balance WITH (security_invoker = true) AS
SELECT shard, account, split_part(account, ':', 1) AS code,
       debit, credit, debit - credit AS balance, postings, position,
       (debit * 0.00000001)::numeric(28, 8) AS debit_usd,
       (credit * 0.00000001)::numeric(28, 8) AS credit_usd,
       ((debit - credit) * 0.00000001)::numeric(28, 8) AS balance_usd
FROM {schema}.account;

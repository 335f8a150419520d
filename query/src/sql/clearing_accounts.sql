-- Balances of the accounts in which the ledger and the payment provider meet; debits minus credits. No parameters.
SELECT split_part(account, ':', 1) AS code, sum(debit - credit)::text AS balance
FROM read.account
WHERE split_part(account, ':', 1) IN ('1010', '1110', '1120', '1130', '1200', '2030', '2220')
GROUP BY 1
ORDER BY 1

-- Is every table of the log, each of its partitions included, guarded as it was made? One row per guard; problem is null or says
-- what is wrong. $1 the guarding function's body text
WITH RECURSIVE
    wanted (name, oid) AS (
        SELECT name, to_regclass('ledger.' || name) FROM unnest(ARRAY['log', 'app_shard', 'event', 'batch', 'idempotency', 'fork']) AS name),
    guarded (oid) AS (
        SELECT oid::oid FROM wanted WHERE oid IS NOT NULL
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN guarded g ON g.oid = i.inhparent)
SELECT 'ledger.' || name, 'table', CASE WHEN oid IS NULL THEN 'is missing' END
FROM wanted
UNION ALL
SELECT c.oid::regclass::text, 'table',
       CASE WHEN c.relkind NOT IN ('r', 'p') THEN 'is not a table'
            WHEN c.relrowsecurity THEN 'hides rows by row security'
            WHEN c.relhasrules THEN 'has rewrite rules' END
FROM guarded g
JOIN pg_class c ON c.oid = g.oid
UNION ALL
-- tgtype: 27 = before update or delete, each row; 34 = before truncate, each statement.
SELECT g.oid::regclass::text, 'trigger ' || w.name,
       CASE WHEN t.oid IS NULL THEN 'is missing'
            WHEN t.tgenabled <> 'A' THEN 'is not enabled always'
            WHEN t.tgtype <> w.type OR t.tgqual IS NOT NULL OR t.tgattr::text <> '' THEN 'does not stop every change'
            WHEN p.oid IS DISTINCT FROM to_regprocedure('ledger.refuse_change()') OR p.prosrc IS DISTINCT FROM $1
                 THEN 'does something else than it was made for' END
FROM guarded g
CROSS JOIN (VALUES ('append_only', 27), ('no_truncate', 34)) AS w (name, type)
LEFT JOIN pg_trigger t ON t.tgrelid = g.oid AND t.tgname = w.name
LEFT JOIN pg_proc p ON p.oid = t.tgfoid

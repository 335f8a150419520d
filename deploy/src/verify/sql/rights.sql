-- May a service role write to a table of the log, by a grant or by what it is? One row per role and right, and whether
-- it has it. $1 roles text[]
WITH RECURSIVE
    guarded (oid) AS (
        SELECT to_regclass('ledger.' || name)::oid FROM unnest(ARRAY['log', 'app_shard', 'event', 'batch', 'idempotency', 'fork']) AS name
        UNION SELECT i.inhrelid FROM pg_inherits i JOIN guarded g ON g.oid = i.inhparent)
SELECT r.rolname::text, 'may ' || v.verb || ' ' || g.oid::regclass,
       CASE v.verb WHEN 'INSERT' THEN has_any_column_privilege(r.oid, g.oid, 'INSERT')
                   WHEN 'UPDATE' THEN has_any_column_privilege(r.oid, g.oid, 'UPDATE')
                   ELSE has_table_privilege(r.oid, g.oid, v.verb) END
FROM pg_roles r
CROSS JOIN guarded g
CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) AS v (verb)
WHERE r.rolname = ANY ($1) AND g.oid IS NOT NULL AND NOT r.rolsuper
UNION ALL
SELECT r.rolname::text, 'is a superuser, bypasses row security or makes roles', r.rolsuper OR r.rolbypassrls OR r.rolcreaterole
FROM pg_roles r
WHERE r.rolname = ANY ($1)
UNION ALL
SELECT r.rolname::text, 'is a member of ledger_owner', NOT r.rolsuper AND pg_has_role(r.oid, o.oid, 'MEMBER')
FROM pg_roles r
JOIN pg_roles o ON o.rolname = 'ledger_owner'
WHERE r.rolname = ANY ($1)

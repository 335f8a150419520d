-- Tables of live projections whose rows are not secured.
SELECT n.nspname || '.' || c.relname
FROM projection.registry r
JOIN pg_catalog.pg_namespace n ON n.nspname = 'p_' || r.name || '_v' || r.version
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
WHERE r.state = 'live'
  AND (NOT c.relrowsecurity OR NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant'))
ORDER BY 1

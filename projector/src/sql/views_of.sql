-- Views in the schema read that show tables of a projection's version. $1 its schema text
SELECT DISTINCT v.relname::text
FROM pg_depend d
JOIN pg_rewrite w ON w.oid = d.objid
JOIN pg_class v ON v.oid = w.ev_class AND v.relnamespace = to_regnamespace('read')
JOIN pg_class t ON t.oid = d.refobjid AND t.relnamespace = to_regnamespace($1)
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass

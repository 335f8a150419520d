-- The tables of a schema with their columns: table, column, type, is it part of the key. $1 schema text
SELECT c.relname::text, a.attname::text, format_type(a.atttypid, NULL),
       coalesce(a.attnum = ANY (i.indkey::smallint[]), false)
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
WHERE c.relnamespace = to_regnamespace($1) AND c.relkind = 'r'
ORDER BY c.relname, a.attnum

-- How far each log is published, what the relay says, why it has stopped, and whether one is at work.
SELECT m.shard, h.position - m.position, m.state, m.halted,
       EXISTS (SELECT FROM pg_locks l
               WHERE l.locktype = 'advisory' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND l.classid = 7307 AND l.objid::int8 = m.shard AND l.objsubid = 2 AND l.granted)
FROM relay.mark m
JOIN ledger.head h USING (shard)
ORDER BY m.shard

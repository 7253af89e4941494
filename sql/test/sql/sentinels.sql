-- Shared-memory sentinels: every byte that nobody uses is watched, none that somebody does.

-- Majors differ in what lies beside a segment; in all of them "buggy first" ends 24 bytes before something.
CREATE FUNCTION findings() RETURNS TABLE (intact boolean, severity text, context text, detail text) LANGUAGE sql AS $$
  SELECT intact, finding ->> 'severity', finding ->> 'context',
         regexp_replace(regexp_replace(finding ->> 'detail', '; segment "[^"]*" (begins at \d+|is below)', ''),
                        'pid \d+', 'pid N', 'g')
    FROM pgmemtrace.check_shmem_sentinels() WHERE 'buggy first' IN (below, above) OR finding IS NOT NULL
$$;

-- Where there is none to be watched.
SELECT pgmemtrace.register_shmem_probe('no such segment');
SELECT pgmemtrace.register_shmem_probe(repeat('x', 60));
SELECT pgmemtrace.register_shmem_probe('buggy full too');
SELECT pgmemtrace.register_shmem_probe('buggy first', 0);
SELECT pgmemtrace.register_shmem_probe('buggy first', 1001);
SELECT pgmemtrace.register_shmem_probe('buggy first', 1000, 1);
SELECT pgmemtrace.register_shmem_probe('buggy first', 9223372036854775807, 9223372036854775807);
SELECT count(*) FROM pgmemtrace.check_shmem_sentinels();

-- 24 bytes are left to the next cache line.  Within the segment anything may be written.
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy first');
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy first');
SELECT write_to_segment('buggy first', 0, decode(repeat('ff', 1000), 'hex'));
SELECT write_to_segment('buggy second', 0, '\xff');
SELECT bool_and(intact) FROM pgmemtrace.check_shmem_sentinels();

-- The first byte past the end: zero, as when a string's end has no room.
SELECT write_to_segment('buggy first', 1000, '\x00');
SELECT * FROM findings() WHERE NOT intact;
-- Reported once, shown as long as it is so.
SELECT * FROM findings() WHERE NOT intact;
SELECT pgmemtrace.flush_violations();
SELECT rule, severity, context, detail IS NOT NULL AS detailed, time <= now() AS timed FROM pgmemtrace.violation_log;
-- The last byte, too, and whatever the neighbour begins with is not ours.
SELECT write_to_segment('buggy first', 1023, '\x4142') AS too_far;
SELECT write_to_segment('buggy first', 1020, '\x41424344');
SELECT * FROM findings() WHERE NOT intact;
SELECT pgmemtrace.flush_violations();
SELECT pgmemtrace.clear_violations();

-- Who has written there relies on it, perhaps: no guard is put over that.
SELECT pgmemtrace.clear_shmem_registry();
SELECT count(*) FROM pgmemtrace.check_shmem_sentinels();
SELECT pgmemtrace.register_shmem_probe('buggy first');
SELECT write_to_segment('buggy first', 1020, '\x00000000');
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy first');

-- One value over all of it.
SELECT write_to_segment('buggy first', 1000, decode(repeat('de', 24), 'hex'));
SELECT * FROM findings() WHERE NOT intact;
SELECT pgmemtrace.clear_shmem_registry();
SELECT write_to_segment('buggy first', 1000, decode(repeat('00', 24), 'hex'));

-- Before the start: the same bytes are the guard of the segment above, where nothing without a
-- name was put between the two, such as an entry of ShmemIndex.
SELECT guard_bytes_below = 24 AS adjacent FROM pgmemtrace.register_shmem_probe('buggy second') \gset
SELECT count(write_to_segment('buggy second', -2, '\xabcd')) = :'adjacent'::boolean::integer AS written WHERE :'adjacent';
SELECT count(*) = :'adjacent'::boolean::integer AS found FROM findings()
 WHERE NOT intact AND context = 'buggy second' AND detail LIKE '2 bytes changed before the start of segment "buggy second", '
   'from offset -2 to -1 (its memory begins at 0): ab cd; last statements: %';
SELECT pgmemtrace.clear_shmem_registry();
SELECT count(write_to_segment('buggy second', -2, '\x0000')) >= 0 AS repaired WHERE :'adjacent';

-- A reserve of its own is guarded at both ends.
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy reserve', 1500, 48);
SELECT write_to_segment('buggy reserve', 1548, '\x00');
SELECT intact, below, guard_bytes, finding ->> 'context' AS context FROM pgmemtrace.check_shmem_sentinels()
 WHERE below = 'buggy reserve';
-- More in use than before: the guard would be overwritten rightly.
SELECT pgmemtrace.register_shmem_probe('buggy reserve', 1600);
SELECT write_to_segment('buggy reserve', 40, '\x01');
SELECT intact, above, guard_bytes, finding ->> 'context' AS context FROM pgmemtrace.check_shmem_sentinels()
 WHERE above = 'buggy reserve';
SELECT pgmemtrace.clear_shmem_registry();
SELECT write_to_segment('buggy reserve', 0, decode(repeat('00', 2048), 'hex'));

-- Statements are not quoted where that is not wanted.
SET pgmemtrace.statement_texts = off;
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy first');
SELECT write_to_segment('buggy first', 1000, '\x01') AS "secret";
SELECT detail LIKE '%secret%' AS quoted FROM findings() WHERE NOT intact;
RESET pgmemtrace.statement_texts;

-- The worker looks by itself.
SELECT pgmemtrace.clear_violations();
SELECT write_to_segment('buggy first', 1001, '\x01');
ALTER SYSTEM SET pgmemtrace.check_interval = '10ms';
SELECT pg_reload_conf();
SELECT wait_for('EXISTS (SELECT FROM pgmemtrace.violation_log WHERE rule = ''shmem_overrun'')');
ALTER SYSTEM RESET pgmemtrace.check_interval;
SELECT pg_reload_conf();
SELECT pgmemtrace.clear_shmem_registry();
SELECT write_to_segment('buggy first', 1000, decode(repeat('00', 24), 'hex'));
SELECT pgmemtrace.clear_violations();

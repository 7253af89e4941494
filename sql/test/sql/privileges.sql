-- Nothing for PUBLIC, reading for pgmemtrace_reader, control for who is granted it.
CREATE ROLE regress_nobody;
CREATE ROLE regress_reader IN ROLE pgmemtrace_reader;
CREATE ROLE regress_control;

SELECT oid::regprocedure FROM pg_proc
 WHERE pronamespace = 'pgmemtrace'::regnamespace AND has_function_privilege('regress_nobody', oid, 'EXECUTE');
SELECT oid::regclass FROM pg_class
 WHERE relnamespace = 'pgmemtrace'::regnamespace AND relkind IN ('r', 'v')
   AND has_table_privilege('regress_nobody', oid, 'SELECT, INSERT, UPDATE, DELETE');
SELECT has_schema_privilege('regress_nobody', 'pgmemtrace', 'USAGE'),
       has_type_privilege('regress_nobody', 'pgmemtrace.violation', 'USAGE');

SELECT oid::regprocedure AS reader_may FROM pg_proc
 WHERE pronamespace = 'pgmemtrace'::regnamespace AND has_function_privilege('regress_reader', oid, 'EXECUTE')
 ORDER BY oid::regprocedure::text;

SET ROLE regress_nobody;
SELECT pgmemtrace.watched();
SELECT count(*) FROM pgmemtrace.violation_log;
SET ROLE regress_reader;
SELECT pgmemtrace.watched();
SELECT count(*) FROM pgmemtrace.violation_log;
SELECT pgmemtrace.contexts(1);
SELECT pgmemtrace.begin();
SELECT pgmemtrace.log_violation('{"rule": "mine", "severity": "ERROR"}');
SELECT pgmemtrace.answer(1, 1, '{}', NULL);
DELETE FROM pgmemtrace.violation_log;
RESET ROLE;

-- Granted, it needs no other rights: those to see the allocations are the function's own.
GRANT USAGE ON SCHEMA pgmemtrace TO regress_control;
GRANT EXECUTE ON FUNCTION pgmemtrace.register_shmem_probe(text, bigint, bigint),
  pgmemtrace.clear_shmem_registry() TO regress_control;
SET ROLE regress_control;
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy first');
SELECT pgmemtrace.clear_shmem_registry();
SELECT current_user, count(*) FROM pg_get_shmem_allocations();
RESET ROLE;

DROP OWNED BY regress_control;
DROP ROLE regress_nobody, regress_reader, regress_control;

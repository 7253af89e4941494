-- The violation log: what goes in, comes out; nothing gets lost without being counted.

-- What is not a violation.
SELECT pgmemtrace.log_violation('[]');
SELECT pgmemtrace.log_violation('{}');
SELECT pgmemtrace.log_violation('{"rule": "context_leak"}');
SELECT pgmemtrace.log_violation('{"rule": "context_leak", "severity": "FATAL"}');
SELECT pgmemtrace.log_violation('{"rule": "context_leak", "severity": "INFO", "delta_bytes": "many"}');
SELECT pgmemtrace.log_violation('{"rule": "context_leak", "severity": "INFO", "time": "yesterday evening"}');
SELECT pgmemtrace.log_violation(jsonb_build_object('rule', repeat('x', 64), 'severity', 'INFO'));
\set VERBOSITY terse
SELECT pgmemtrace.log_violation(jsonb_build_object('rule', 'x', 'severity', 'INFO', 'detail', repeat('x', 20000)));
\set VERBOSITY default
SELECT buffered_bytes, buffer_bytes, lost FROM pgmemtrace.log_state();

-- A rolled back transaction takes no violation with it.
BEGIN;
SELECT pgmemtrace.log_violation('{"state": "raised", "time": "2026-01-02 03:04:05+00", "instance": "15/main",
  "pid": 99, "server_pid": 98, "backend_type": "client backend", "database": "shop", "user": "etl",
  "rule": "context_leak", "severity": "WARNING", "context": "PortalHoldContext",
  "path": "TopMemoryContext/TopPortalContext/PortalHoldContext", "ident": null, "phase": "utility",
  "before_bytes": 1, "after_bytes": 100001, "delta_bytes": 100000, "shape": "linear", "occurrences": 41,
  "query_id": -7, "query": "DECLARE \"c\" CURSOR", "stack": [{"module": "postgres", "function": "f", "offset": 1}],
  "module": "postgres", "segments": [{"handle": 8, "bytes": 4096}], "detail": "grows", "advice": "close it", "type": "violation"}');
ROLLBACK;
SELECT count(*) FROM pgmemtrace.violation_log;
SELECT pgmemtrace.flush_violations();
SET TimeZone = 'UTC';
\x
SELECT * FROM pgmemtrace.violation_log;
\x
RESET TimeZone;
SELECT pgmemtrace.flush_violations();

-- In their order; their time is now where they have none.
SELECT count(*) FROM generate_series(1, 1200) AS i, LATERAL pgmemtrace.log_violation(
  jsonb_build_object('rule', 'many', 'severity', 'INFO', 'occurrences', i)) AS logged WHERE logged;
SELECT pgmemtrace.flush_violations() >= 0 AS flushed;
SELECT count(*), bool_and(time <= now()) AS timed,
       array_agg(occurrences ORDER BY id) = array_agg(occurrences ORDER BY occurrences) AS ordered
  FROM pgmemtrace.violation_log WHERE rule = 'many';
SELECT buffered_bytes FROM pgmemtrace.log_state();

SELECT pgmemtrace.clear_violations();
SELECT count(*) FROM pgmemtrace.violation_log;

-- The table is locked: what does not fit is refused and counted, the rest waits.
SELECT lost AS lost_before FROM pgmemtrace.log_state() \gset
BEGIN;
LOCK TABLE pgmemtrace.violation_log IN SHARE MODE;
SELECT count(*) FILTER (WHERE logged) AS logged, count(*) FILTER (WHERE NOT logged) AS refused
  FROM generate_series(1, 1000) AS i, LATERAL pgmemtrace.log_violation(
    jsonb_build_object('rule', 'flood', 'severity', 'INFO', 'occurrences', i, 'detail', repeat('x', 1000))) AS logged \gset
SELECT :logged > 10 AS some_logged, :refused > 10 AS some_refused, :logged + :refused AS all_of_them,
       lost - :lost_before = :refused AS counted FROM pgmemtrace.log_state();
COMMIT;
SELECT pgmemtrace.flush_violations() >= 0 AS flushed;
SELECT count(*) = :logged AS all_there, max(occurrences) = :logged AS the_first_ones
  FROM pgmemtrace.violation_log WHERE rule = 'flood';

-- A row that the table never takes does not hold up the others.
SELECT lost AS lost_before FROM pgmemtrace.log_state() \gset
ALTER TABLE pgmemtrace.violation_log ADD CONSTRAINT picky CHECK (rule <> 'refused');
SELECT pgmemtrace.log_violation(jsonb_build_object('rule', rule, 'severity', 'INFO'))
  FROM (VALUES ('before'), ('refused'), ('after')) AS rules (rule);
SELECT pgmemtrace.flush_violations();
SELECT rule FROM pgmemtrace.violation_log WHERE rule IN ('before', 'refused', 'after') ORDER BY id;
SELECT lost - :lost_before AS lost FROM pgmemtrace.log_state();
ALTER TABLE pgmemtrace.violation_log DROP CONSTRAINT picky;

-- Without the extension in its database the worker says so, and keeps them.
ALTER EXTENSION pgmemtrace DROP FUNCTION pgmemtrace.store_violation(jsonb);
ALTER FUNCTION pgmemtrace.store_violation(jsonb) RENAME TO hidden;
SELECT pgmemtrace.log_violation('{"rule": "kept", "severity": "INFO"}');
SELECT pgmemtrace.flush_violations();
ALTER FUNCTION pgmemtrace.hidden(jsonb) RENAME TO store_violation;
ALTER EXTENSION pgmemtrace ADD FUNCTION pgmemtrace.store_violation(jsonb);
SELECT pgmemtrace.flush_violations();
SELECT pgmemtrace.clear_violations();

-- Memory is UTF-8: what a database of another encoding logs, reads right in the log.
CREATE DATABASE regress_latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C';
SELECT dblink_connect('latin1', format('host=%s port=%s dbname=regress_latin1 user=%s',
  current_setting('unix_socket_directories'), current_setting('port'), current_user));
SELECT dblink_exec('latin1', 'CREATE EXTENSION pgmemtrace');
SELECT dblink_exec('latin1', $$DO 'BEGIN PERFORM pgmemtrace.log_violation(
  jsonb_build_object(''rule'', ''foreign'', ''severity'', ''INFO'', ''detail'', chr(233))); END'$$);
SELECT dblink_disconnect('latin1');
SELECT pgmemtrace.flush_violations();
SELECT detail = chr(233) AS "é" FROM pgmemtrace.violation_log WHERE rule = 'foreign';
DROP DATABASE regress_latin1;
SELECT pgmemtrace.clear_violations();

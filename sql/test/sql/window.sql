-- Test windows: what is asked of the daemon, and how its answer reads.

-- Bad input is found before anybody is asked.
SELECT pgmemtrace.end();
SELECT pgmemtrace.begin(repeat('x', 64));
SELECT pgmemtrace.begin('%', '[]');
SELECT pgmemtrace.begin('%', '{"track_shmen": true}');
SELECT pgmemtrace.begin('%', '{"track_dsm": "yes"}');
SELECT pgmemtrace.begin('%', '{"allowed_contexts": "ExprContext"}');
SELECT pgmemtrace.begin('%', '{"allowed_contexts": ["ExprContext", 1]}');
SELECT pgmemtrace.begin('%', '{"allowed_contexts": {"a": "b"}}');
\set VERBOSITY terse
SELECT pgmemtrace.begin('%', jsonb_build_object('allowed_contexts', array_agg(repeat('x', 60))))
  FROM generate_series(1, 100);
\set VERBOSITY default

SELECT open_session();
SELECT in_session('SELECT watch(1)::text');
SELECT in_session('SET pgmemtrace.min_leak_bytes = 1000');

SELECT session_asks($$SELECT pgmemtrace.begin('Buggy "%"',
  '{"track_dsm": false, "allowed_contexts": ["ExprContext"]}')$$);
SELECT kind, request - 'backend_pid' AS request FROM pgmemtrace.requests();
SELECT daemon_answers(NULL);
SELECT * FROM session_got();
-- One at a time.
SELECT dblink_send_query('session', 'SELECT pgmemtrace.begin()');
SELECT * FROM session_got();

SELECT session_asks($$SELECT (rule, severity, context, delta_bytes, module, detail)::text FROM pgmemtrace.end()$$);
SELECT kind, request - 'backend_pid' AS request FROM pgmemtrace.requests();
SELECT daemon_answers('{"violations": [
  {"rule": "context_leak", "severity": "WARNING", "context": "buggy leak", "delta_bytes": 81920,
   "module": "pgmemtrace_buggy.so", "detail": "10 contexts", "a key of later versions": 1},
  {"rule": "dsm_leak", "severity": "WARNING"}]}');
SELECT * FROM session_got();
SELECT dblink_send_query('session', 'SELECT pgmemtrace.end()::text');
SELECT * FROM session_got();

-- An end that fails ends the window all the same.
SELECT session_asks('SELECT pgmemtrace.begin()');
SELECT request - 'backend_pid' AS request FROM pgmemtrace.requests();
SELECT daemon_answers('{}');
SELECT * FROM session_got();
SELECT session_asks('SELECT pgmemtrace.end()::text');
SELECT daemon_answers(NULL, 'the window is unknown: was the daemon restarted?');
SELECT * FROM session_got();
SELECT session_asks('SELECT pgmemtrace.begin()');
SELECT daemon_answers('{}');
SELECT * FROM session_got();

-- An overrun of shared memory within the window is the window's, one before is not.
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy first');
SELECT write_to_segment('buggy first', 1002, '\x01');
SELECT count(*) FROM pgmemtrace.check_shmem_sentinels() WHERE finding IS NOT NULL;
SELECT session_asks('SELECT (rule, severity, context)::text FROM pgmemtrace.end()');
SELECT daemon_answers('{"violations": []}');
SELECT * FROM session_got();
SELECT session_asks('SELECT pgmemtrace.begin()');
SELECT daemon_answers('{}');
SELECT * FROM session_got();
SELECT session_asks('SELECT (rule, severity, context)::text FROM pgmemtrace.end()');
SELECT daemon_answers('{"violations": []}');
SELECT * FROM session_got();
SELECT write_to_segment('buggy first', 1002, '\x00');
SELECT pgmemtrace.clear_shmem_registry();
SELECT write_to_segment('buggy first', 1000, decode(repeat('00', 24), 'hex'));
SELECT pgmemtrace.clear_violations();
SELECT dblink_disconnect('session');

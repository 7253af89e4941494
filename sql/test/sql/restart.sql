-- What a restart keeps, and a crash does not.
SELECT setting AS bin FROM pg_config WHERE name = 'BINDIR' \gset
\setenv BIN :bin
SELECT current_setting('data_directory') AS data \gset
\setenv DATA :data

-- What is in memory is written before the server ends.
SELECT pgmemtrace.log_violation('{"rule": "before the restart", "severity": "INFO"}');
SELECT count(*) FROM pgmemtrace.violation_log;
\! "$BIN/pg_ctl" -D "$DATA" -m fast -w -s -l "$DATA/restarted.log" restart
\c
SELECT rule FROM pgmemtrace.violation_log;
SELECT buffered_bytes, written, lost FROM pgmemtrace.log_state();

-- After a crash memory is empty, guards and tracked handles too, and all of it works.
SELECT pgmemtrace.log_violation('{"rule": "lost in the crash", "severity": "INFO"}');
SELECT guard_bytes_above FROM pgmemtrace.register_shmem_probe('buggy first');
SELECT pgmemtrace.track_dsm_handle(make_dsm(100, true)) >= 100 AS tracked;
SELECT open_session();
SELECT in_session('SELECT pg_backend_pid()') AS pid \gset
\setenv VICTIM :pid
\! kill -9 "$VICTIM"
\! for i in $(seq 600); do [ "$("$BIN/psql" -XAtqc 'SELECT buffered_bytes FROM pgmemtrace.log_state()' postgres 2>&1)" = 0 ] && break; sleep 0.1; done
\c
SELECT count(*) FROM pgmemtrace.check_shmem_sentinels();
SELECT count(*) FROM pgmemtrace.dsm_tracking();
SELECT pgmemtrace.log_violation('{"rule": "after the crash", "severity": "INFO"}');
SELECT pgmemtrace.flush_violations();
SELECT rule FROM pgmemtrace.violation_log ORDER BY id;

-- Without shared_preload_libraries there is no memory to share, and each function says so.
ALTER SYSTEM SET shared_preload_libraries = 'pgmemtrace_buggy';
\! "$BIN/pg_ctl" -D "$DATA" -m fast -w -s -l "$DATA/restarted.log" restart
\c
SELECT pgmemtrace.begin();
SELECT * FROM pgmemtrace.contexts(1);
SELECT * FROM pgmemtrace.requests();
SELECT pgmemtrace.answer(1, 1, '{}', NULL);
SELECT pgmemtrace.log_violation('{"rule": "lost", "severity": "INFO"}');
SELECT pgmemtrace.flush_violations();
SELECT * FROM pgmemtrace.log_state();
SELECT * FROM pgmemtrace.register_shmem_probe('Buffer Blocks');
SELECT * FROM pgmemtrace.check_shmem_sentinels();
SELECT pgmemtrace.clear_shmem_registry();
SELECT pgmemtrace.track_dsm_handle(1);
SELECT * FROM pgmemtrace.dsm_tracking();
SELECT pgmemtrace.clear_dsm_tracking();
SELECT count(*) FROM pgmemtrace.violation_log;

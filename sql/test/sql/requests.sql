-- How the extension and the daemon talk; this session is the daemon.

-- Nobody watches: at once, and with what to do.
SELECT pgmemtrace.watched();
SELECT pgmemtrace.begin();
SELECT * FROM pgmemtrace.contexts(pg_backend_pid());
SELECT count(*) FROM pgmemtrace.requests();

-- The cheapest place for a probe.
SELECT marker_begins_with_nop();

-- Watched is a process that the kernel counted the probe in.
SELECT open_session();
SELECT in_session('SELECT watch(1)::text');
SELECT in_session('SELECT pgmemtrace.watched()'), pgmemtrace.watched();

-- Asked, seen, answered.
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT kind, request - 'backend_pid' AS request, request ->> 'backend_pid' = backend_pid::text AS says_who,
       request_id > 0 AS has_id, asked_at <= now() AS asked_before FROM pgmemtrace.requests();
SELECT daemon_answers('{"contexts": [], "age_seconds": 1}');
SELECT * FROM session_got();
SELECT count(*) FROM pgmemtrace.requests();

-- An empty answer, and an error.
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT daemon_answers(NULL);
SELECT * FROM session_got();
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT daemon_answers(NULL, 'there is no process 4711 in this server');
SELECT * FROM session_got();

-- Refused, not failed: what was never asked, asked by another, answered, or is waited for no more.
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT pgmemtrace.answer(backend_pid, request_id + 1, '{}', NULL) AS never_asked,
       pgmemtrace.answer(backend_pid, 0, '{}', NULL) AS zero,
       pgmemtrace.answer(backend_pid, -1, '{}', NULL) AS negative,
       pgmemtrace.answer(backend_pid, NULL, '{}', NULL) AS without_id,
       pgmemtrace.answer(backend_pid + 1, request_id, '{}', NULL) AS by_another,
       pgmemtrace.answer(backend_pid, request_id - 1, '{}', NULL) AS one_before
  FROM pgmemtrace.requests();
SELECT backend_pid, request_id FROM pgmemtrace.requests() \gset
SELECT pgmemtrace.answer(:backend_pid, :request_id, '{}', NULL),
       pgmemtrace.answer(:backend_pid, :request_id, '{}', NULL) IN ('answered already', 'too late') AS once;
SELECT * FROM session_got();
SELECT pgmemtrace.answer(:backend_pid, :request_id, '{}', NULL);

-- Nobody answers.
SELECT in_session('SET pgmemtrace.ack_timeout = 700');
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT backend_pid, request_id FROM pgmemtrace.requests() \gset
SELECT * FROM session_got();
SELECT pgmemtrace.answer(:backend_pid, :request_id, '{}', NULL);
SELECT in_session('RESET pgmemtrace.ack_timeout');

-- It can be cancelled while it waits, and asked again.
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT dblink_cancel_query('session');
SELECT * FROM session_got();
SELECT count(*) FROM pgmemtrace.requests();
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT daemon_answers('"again"');
SELECT * FROM session_got();

-- Large, and too large: the daemon is told, and can still say so.
SELECT session_asks('SELECT length(pgmemtrace.request_contexts(4711)::text)');
SELECT daemon_answers(to_jsonb(repeat('x', 65 * 1024 * 1024)));
SELECT daemon_answers(to_jsonb(repeat('x', 8 * 1024 * 1024)));
SELECT * FROM session_got();

-- 64 sessions can wait, one more is told so, and each gets its own answer.  No answer's memory is left
-- behind (some of the server's own may have come).
SELECT count(*) AS segments FROM pg_ls_dir('pg_dynshmem') \gset
SELECT count(open_session('s' || i)) FROM generate_series(1, 65) AS i;
SELECT count(*) FROM generate_series(1, 65) AS i, LATERAL dblink('s' || i, 'SELECT watch(1)::text') AS one (value text);
SELECT sum(dblink_send_query('s' || i, format('SELECT pgmemtrace.request_contexts(%s) = to_jsonb(%1$s)', i)))
  FROM generate_series(1, 64) AS i;
SELECT wait_for('count(*) = 64 FROM pgmemtrace.requests()');
\set VERBOSITY terse
SELECT * FROM dblink('s65', 'SELECT pgmemtrace.request_contexts(65)') AS one (value jsonb);
\set VERBOSITY default
SELECT pgmemtrace.answer(backend_pid, request_id, request -> 'pid', NULL) AS answered, count(*) FROM pgmemtrace.requests() GROUP BY 1;
SELECT right_one, count(*) FROM generate_series(1, 64) AS i, LATERAL dblink_get_result('s' || i) AS one (right_one boolean) GROUP BY 1;
SELECT count(dblink_disconnect('s' || i)) FROM generate_series(1, 65) AS i;
SELECT count(*) < :segments + 32 AS given_back FROM pg_ls_dir('pg_dynshmem');

-- Terminated while it waits, it leaves nothing behind.
SELECT session_asks('SELECT pgmemtrace.request_contexts(4711)');
SELECT backend_pid, request_id FROM pgmemtrace.requests() \gset
SELECT pg_terminate_backend(:backend_pid);
SELECT wait_for('NOT EXISTS (SELECT FROM pgmemtrace.requests())');
SELECT pgmemtrace.answer(:backend_pid, :request_id, '{}', NULL);
SELECT dblink_disconnect('session');

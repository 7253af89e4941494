-- contexts(): the daemon's rows, with the age of its snapshot.
SELECT open_session();
SELECT in_session('SELECT watch(1)::text');

SELECT session_asks('SELECT c::text FROM pgmemtrace.contexts(4711) AS c');
SELECT kind, request - 'backend_pid' AS request FROM pgmemtrace.requests();
SELECT daemon_answers('{"age_seconds": 2.5, "contexts": [
  {"name": "TopMemoryContext", "ident": null, "type": "AllocSet", "level": 1, "path": [1],
   "total_bytes": 97664, "total_nblocks": 5, "free_bytes": 13928, "free_chunks": 10, "used_bytes": 83736},
  {"name": "PortalContext", "ident": "c1", "type": "AllocSet", "level": 2, "path": [1, 2],
   "total_bytes": 1024, "total_nblocks": null, "free_bytes": null, "free_chunks": null, "used_bytes": null}]}');
SELECT * FROM session_got();

-- As many as a process with a large cache has.
SELECT session_asks('SELECT (count(*), sum(total_bytes))::text FROM pgmemtrace.contexts(4711)');
SELECT daemon_answers(jsonb_build_object('age_seconds', 0, 'contexts',
  (SELECT jsonb_agg(jsonb_build_object('name', 'index info', 'level', 3, 'path', ARRAY[1, 2, i], 'total_bytes', 2048))
     FROM generate_series(1, 20000) AS i)));
SELECT * FROM session_got();

SELECT session_asks('SELECT c::text FROM pgmemtrace.contexts(4711) AS c');
SELECT daemon_answers(NULL, 'there is no process 4711 in this server');
SELECT * FROM session_got();
SELECT dblink_disconnect('session');

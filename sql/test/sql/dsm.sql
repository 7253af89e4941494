-- DSM handles that somebody wants to follow.
SELECT pgmemtrace.track_dsm_handle(-1);
SELECT pgmemtrace.track_dsm_handle(0);
SELECT pgmemtrace.track_dsm_handle(4294967296);
SELECT pgmemtrace.track_dsm_handle(4294967295);
SELECT count(*) FROM pgmemtrace.dsm_tracking();

-- One that this very session has mapped.
SELECT make_dsm(100000, false) AS mine \gset
SELECT pgmemtrace.track_dsm_handle(:mine) >= 100000 AS large_enough;
-- Two of another session: one goes with it, one is pinned.
SELECT open_session();
SELECT in_session('SELECT make_dsm(65536, false)') AS unpinned, in_session('SELECT make_dsm(65536, true)') AS pinned \gset
SELECT pgmemtrace.track_dsm_handle(:unpinned) >= 65536 AS large_enough;
SELECT pgmemtrace.track_dsm_handle(:pinned) >= 65536 AS large_enough;
SELECT pgmemtrace.track_dsm_handle(:pinned) >= 65536 AS once_more;
SELECT CASE handle WHEN :mine THEN 'mine' WHEN :unpinned THEN 'unpinned' WHEN :pinned THEN 'pinned' END AS which,
       backend_pid = pg_backend_pid() AS by_me, tracked_at <= clock_timestamp() AS timed, size_bytes >= 65536 AS sized, alive
  FROM pgmemtrace.dsm_tracking() ORDER BY 1;

SELECT dblink_disconnect('session');
SELECT wait_for(format('NOT alive FROM pgmemtrace.dsm_tracking() WHERE handle = %s', :unpinned));
SELECT CASE handle WHEN :mine THEN 'mine' WHEN :unpinned THEN 'unpinned' WHEN :pinned THEN 'pinned' END AS which,
       size_bytes >= 65536 AS sized, alive FROM pgmemtrace.dsm_tracking() ORDER BY 1;
SELECT unpin_dsm(:pinned);
SELECT count(*) FILTER (WHERE alive) AS alive FROM pgmemtrace.dsm_tracking();

SELECT pgmemtrace.clear_dsm_tracking();
SELECT count(*) FROM pgmemtrace.dsm_tracking();

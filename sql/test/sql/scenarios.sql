-- Scenarios: what there is, and what is refused before anything runs.  What they find, a daemon
-- has to be there for (tests/runtime/scenario_test.cpp).
\set SHOW_CONTEXT never
SELECT name FROM pgmemtrace.scenarios ORDER BY name;
SELECT count(*) FROM pgmemtrace.scenarios WHERE description <> '';

SELECT pgmemtrace.run_scenario('no_such_scenario');
SELECT pgmemtrace.run_scenario(NULL);
SELECT pgmemtrace.run_scenario('tx_abort_loop', 0);
SELECT pgmemtrace.run_scenario('tx_abort_loop', -5);
SELECT pgmemtrace.run_scenario('tx_abort_loop', NULL);
SELECT pgmemtrace.run_scenario('tx_abort_loop', 10, '');
SELECT pgmemtrace.run_scenario('tx_abort_loop', 10, E' ;\n; ');
SELECT pgmemtrace.run_scenario('tx_abort_loop', 10, NULL);
SELECT pgmemtrace.run_scenario('growth_benchmark', 3);
SELECT pgmemtrace.run_scenario('tx_abort_loop', 10, 'SELECT 1', '', '{"sessions": 2}');
SELECT pgmemtrace.run_scenario('concurrent_backends', 10, 'SELECT 1', '', '{"sessions": 0}');
SELECT pgmemtrace.run_scenario('concurrent_backends', 10, 'SELECT 1', '', '{"sessions": 17}');
SELECT pgmemtrace.run_workload('SELECT 1', 'backwards');
SELECT pgmemtrace.run_workload('SELECT 1', 'committed', -1);
SELECT pgmemtrace.run_workload(NULL);
SELECT pgmemtrace.check_on_copy('oom_simulation', 0, 'SELECT 1');

-- Nobody watches: each of them says so, and leaves nothing behind.
DO $$
DECLARE
  scenario text;
BEGIN
  FOR scenario IN SELECT name FROM pgmemtrace.scenarios ORDER BY name LOOP
    BEGIN
      PERFORM pgmemtrace.run_scenario(scenario);
      RAISE NOTICE '% ran', scenario;
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
      RAISE NOTICE '%: %', scenario, sqlerrm;
    END;
  END LOOP;
END
$$;
SELECT count(*) FROM pgmemtrace.check_shmem_sentinels();
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'pgmemtrace workload';

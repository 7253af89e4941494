/* SPDX-License-Identifier: BSD-2-Clause */
/* pgmemtrace--1.0.sql - what SQL sees of the extension; docs/extension.md explains it. */

\echo Use "CREATE EXTENSION pgmemtrace" to load this file. \quit

-- Who may read: a role of the cluster, which outlives the extension and other databases may share.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pgmemtrace_reader') THEN
    CREATE ROLE pgmemtrace_reader NOLOGIN;
  END IF;
END
$$;

-- ---- violations ----

-- The keys of the daemon's JSON lines (docs/extension_protocol.md).
CREATE TYPE pgmemtrace.violation AS (
  state text,
  time timestamptz,
  instance text,
  pid integer,
  server_pid integer,
  backend_type text,
  database text,
  "user" text,
  rule text,
  severity text,
  context text,
  path text,
  ident text,
  phase text,
  before_bytes bigint,
  after_bytes bigint,
  delta_bytes bigint,
  shape text,
  occurrences bigint,
  query_id text,
  query text,
  stack jsonb,
  module text,
  segments jsonb,
  detail text,
  advice text
);

CREATE TABLE pgmemtrace.violation_log (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  LIKE pgmemtrace.violation
);
CREATE INDEX ON pgmemtrace.violation_log (time);
SELECT pg_catalog.pg_extension_config_dump('pgmemtrace.violation_log', '');
SELECT pg_catalog.pg_extension_config_dump('pgmemtrace.violation_log_id_seq', '');

-- The worker's, for each entry of the ring.
CREATE FUNCTION pgmemtrace.store_violation(violation jsonb) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO pgmemtrace.violation_log
    (state, time, instance, pid, server_pid, backend_type, database, "user", rule, severity, context,
     path, ident, phase, before_bytes, after_bytes, delta_bytes, shape, occurrences, query_id, query,
     stack, module, segments, detail, advice)
  SELECT (v).* FROM (SELECT jsonb_populate_record(NULL::pgmemtrace.violation, violation) AS v) AS one
$$;

CREATE FUNCTION pgmemtrace.append_violation(violation jsonb) RETURNS boolean
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgmt_append_violation';

-- False: the ring is full, and the violation is counted as lost.
CREATE FUNCTION pgmemtrace.log_violation(violation jsonb) RETURNS boolean
LANGUAGE plpgsql STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  checked pgmemtrace.violation;
BEGIN
  IF jsonb_typeof(violation) <> 'object' THEN
    RAISE EXCEPTION 'a violation must be a JSON object' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  checked := jsonb_populate_record(NULL::pgmemtrace.violation, violation);
  IF coalesce(checked.rule, '') = '' OR length(checked.rule) > 63 THEN
    RAISE EXCEPTION 'a violation must name its rule, in at most 63 characters'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF coalesce(checked.severity, '') NOT IN ('INFO', 'WARNING', 'ERROR') THEN
    RAISE EXCEPTION 'the severity of a violation must be INFO, WARNING or ERROR'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  checked.time := coalesce(checked.time, clock_timestamp());
  RETURN pgmemtrace.append_violation(jsonb_strip_nulls(to_jsonb(checked)));
END
$$;

CREATE FUNCTION pgmemtrace.flush_violations() RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_flush_violations';

CREATE FUNCTION pgmemtrace.clear_violations() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT pgmemtrace.flush_violations();
  DELETE FROM pgmemtrace.violation_log;
$$;

CREATE FUNCTION pgmemtrace.log_state(
  OUT buffered_bytes bigint, OUT buffer_bytes bigint, OUT written bigint, OUT lost bigint)
RETURNS record LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_log_state';

-- ---- the daemon ----

CREATE FUNCTION pgmemtrace.watched() RETURNS boolean
LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_watched';

CREATE FUNCTION pgmemtrace.requests(
  OUT request_id bigint, OUT backend_pid integer, OUT kind text, OUT request jsonb,
  OUT asked_at timestamptz)
RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_requests';

CREATE FUNCTION pgmemtrace.answer(backend_pid integer, request_id bigint, answer jsonb, error text)
RETURNS text LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_answer';

-- ---- test windows ----

CREATE FUNCTION pgmemtrace.begin(pattern text DEFAULT '', options jsonb DEFAULT NULL) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_begin_window';

CREATE FUNCTION pgmemtrace.end_window() RETURNS jsonb
LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_end_window';

CREATE FUNCTION pgmemtrace.end() RETURNS SETOF pgmemtrace.violation
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
  SELECT v.* FROM jsonb_populate_recordset(NULL::pgmemtrace.violation, pgmemtrace.end_window()) AS v
$$;

-- ---- scenarios ----

-- What this session has set; a new one has the rest by itself.
CREATE FUNCTION pgmemtrace.session_settings() RETURNS jsonb
LANGUAGE sql AS $$
  SELECT coalesce(pg_catalog.jsonb_object_agg(name, pg_catalog.current_setting(name)), '{}')
    FROM pg_catalog.pg_settings
   WHERE source IN ('client', 'session') AND context IN ('user', 'superuser')
     AND name NOT IN ('role', 'session_authorization') AND name NOT LIKE 'transaction\_%'
$$;

-- The reports of the sessions that ran it; docs/extension.md says what manners there are.
CREATE FUNCTION pgmemtrace.run_workload(
  workload text, manner text DEFAULT 'committed', warm_up integer DEFAULT 0,
  iterations integer DEFAULT 100, sessions integer DEFAULT 1, checkpoints boolean DEFAULT false,
  check_guards boolean DEFAULT false, pattern text DEFAULT '', options jsonb DEFAULT NULL,
  settings jsonb DEFAULT pgmemtrace.session_settings())
RETURNS jsonb LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_run_workload';

CREATE FUNCTION pgmemtrace.check_on_copy(scenario text, iterations integer, workload text)
RETURNS jsonb LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgmt_check_on_copy';

-- What there is to run, and how: rules says whose findings are reported, all if it is null.
CREATE FUNCTION pgmemtrace.scenario_plans()
RETURNS TABLE (name text, manner text, warm_up integer, rules text[], description text)
LANGUAGE sql IMMUTABLE AS $$
  VALUES
  ('growth_benchmark', 'committed', 10, NULL::text[],
   'Measures at log-spaced moments what grows with the executions, and whether linearly or worse'),
  ('tx_abort_loop', 'aborted', 10, NULL,
   'Rolls every execution back: what a transaction''s end should free, but does not if it fails'),
  ('wrong_context_probe', 'committed', 10, '{wrong_ctx_alloc}',
   'Looks for memory that lands in contexts that live too long, a few bytes each time'),
  ('context_reset_storm', 'one transaction', 10, NULL,
   'Runs everything in one transaction, and judges before it ends: what lives longer than its execution'),
  ('cursor_leak', 'cursors', 10, '{context_leak,ctx_bloat,wrong_ctx_alloc}',
   'Opens its queries as cursors, 32 at a time, reads one row and closes them'),
  ('cold_warm_cold', 'committed', 0, NULL,
   'A third in a new session, a third in the same, a third in another new one: is warm flat, and cold as cold as before?'),
  ('concurrent_backends', 'committed', 10, NULL,
   'Runs in several sessions at the same time; option sessions, 4 unless it is given, at most 16'),
  ('shmem_sentinel_probe', 'committed', 0, '{shmem_overrun}',
   'Checks the guards around shared memory after each execution; sets up all that fit if there are none'),
  ('dsm_lifecycle_check', 'committed', 0, '{dsm_leak}',
   'Looks for dynamic shared memory that an execution leaves'),
  ('use_after_reset', 'on a copy', 0, NULL,
   'On a disposable copy of the server, where a context''s memory is wiped when it is reset or deleted'),
  ('oom_simulation', 'on a copy', 0, NULL,
   'On a disposable copy of the server, where allocations fail, one execution after another')
$$;

CREATE VIEW pgmemtrace.scenarios AS
  SELECT name, description FROM pgmemtrace.scenario_plans();

-- Errors that are not the workload's.
CREATE FUNCTION pgmemtrace.require_reports(reports jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
  failed jsonb;
BEGIN
  SELECT r INTO failed FROM pg_catalog.jsonb_array_elements(reports) AS r WHERE r ? 'error' LIMIT 1;
  IF FOUND THEN
    IF failed ? 'hint' THEN
      RAISE EXCEPTION '%', failed ->> 'error' USING HINT = failed ->> 'hint';
    END IF;
    RAISE EXCEPTION '%', failed ->> 'error';
  END IF;
  IF (SELECT pg_catalog.bool_and(r ? 'ended') FROM pg_catalog.jsonb_array_elements(reports) AS r) THEN
    RAISE EXCEPTION 'the session of the workload ended before it could report'
      USING HINT = 'The server''s log says why. Before PostgreSQL 17 its role needs LOGIN.';
  END IF;
  RETURN reports;
END
$$;

-- Guards wherever there is room, for as long as a scenario runs; returns how many bytes.
CREATE FUNCTION pgmemtrace.guard_everything() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  segment text;
  bytes bigint := 0;
BEGIN
  FOR segment IN
    SELECT name FROM pg_catalog.pg_shmem_allocations
     WHERE name IS NOT NULL AND name <> '<anonymous>' AND name NOT LIKE 'pgmemtrace %'
       AND allocated_size > size
     ORDER BY off DESC -- extensions come last
  LOOP
    BEGIN
      SELECT bytes + guard_bytes_below + guard_bytes_above INTO bytes
        FROM pgmemtrace.register_shmem_probe(segment);
    EXCEPTION
      WHEN object_not_in_prerequisite_state OR configuration_limit_exceeded OR program_limit_exceeded THEN
        NULL; -- no room, or too much
      WHEN object_in_use THEN
        RAISE WARNING '%', sqlerrm; -- written to already
    END;
  END LOOP;
  RETURN bytes;
END
$$;

CREATE FUNCTION pgmemtrace.run_shmem_scenario(
  workload text, iterations integer, pattern text, options jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  reports jsonb;
  ours boolean := NOT EXISTS (SELECT FROM pgmemtrace.check_shmem_sentinels());
BEGIN
  IF ours AND pgmemtrace.guard_everything() = 0 THEN
    RAISE EXCEPTION 'there is no room for a guard beside any segment of shared memory'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  reports := pgmemtrace.run_workload(workload, 'committed', 0, iterations, 1, false, true, pattern, options);
  IF ours THEN
    PERFORM pgmemtrace.clear_shmem_registry();
  END IF;
  RETURN reports;
EXCEPTION WHEN OTHERS OR query_canceled THEN
  IF ours THEN
    PERFORM pgmemtrace.clear_shmem_registry();
  END IF;
  RAISE;
END
$$;

-- Cold, warm, and cold again.  What the second new session needs beyond the first is a finding.
CREATE FUNCTION pgmemtrace.run_cold_warm_cold(
  workload text, iterations integer, pattern text, options jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
  third integer := greatest(iterations / 3, 1);
  one jsonb := pgmemtrace.require_reports(
    pgmemtrace.run_workload(workload, 'committed', third, third, 1, false, false, pattern, options)) -> 0;
  other jsonb := pgmemtrace.require_reports(
    pgmemtrace.run_workload(workload, 'committed', third, 0)) -> 0;
  cold bigint := (one #>> '{warm,used_bytes}')::bigint - (one #>> '{start,used_bytes}')::bigint;
  cold_again bigint := (other #>> '{warm,used_bytes}')::bigint - (other #>> '{start,used_bytes}')::bigint;
  least_bytes bigint := greatest(
    pg_catalog.pg_size_bytes(pg_catalog.current_setting('pgmemtrace.bloat_min_bytes')), cold / 20);
BEGIN
  IF cold_again - cold >= least_bytes THEN
    one := pg_catalog.jsonb_set(one, '{violations,-1}', pg_catalog.jsonb_build_object(
      'rule', 'ctx_bloat', 'severity', 'WARNING', 'context', 'a new session', 'time', clock_timestamp(),
      'server_pid', other -> 'pid', 'before_bytes', cold, 'after_bytes', cold_again,
      'delta_bytes', cold_again - cold, 'shape', 'step',
      'detail', pg_catalog.format('the first %s executions take %s of a new session, and took %s of the one before',
                       third, pg_catalog.pg_size_pretty(cold_again), pg_catalog.pg_size_pretty(cold)),
      'advice', 'Something outside of the session grows, and each new one takes it over: catalogs, or shared memory.'),
      true);
  END IF;
  RETURN pg_catalog.jsonb_build_array(one, other || '{"judged": true}');
END
$$;

-- One sentence: what was run, how often, and what came of it.
CREATE FUNCTION pgmemtrace.describe_run(
  plan text, reports jsonb, executed bigint, failed bigint, findings integer) RETURNS text
LANGUAGE sql AS $$
  SELECT pg_catalog.format('%s executions in %s %s, %s; %s failed; ', executed,
           pg_catalog.jsonb_array_length(reports),
           CASE pg_catalog.jsonb_array_length(reports) WHEN 1 THEN 'session' ELSE 'sessions' END,
           CASE plan
             WHEN 'committed' THEN 'each in a transaction of its own'
             WHEN 'aborted' THEN 'each in a transaction that was rolled back'
             WHEN 'cursors' THEN 'queries as cursors'
             ELSE 'in one transaction'
           END, failed)
         || CASE WHEN findings IS NULL AND failed = executed THEN 'nothing was judged'
                 WHEN findings IS NULL THEN 'not judged, since the one transaction failed'
                 WHEN findings = 0 THEN 'nothing found'
                 WHEN findings = 1 THEN '1 violation'
                 ELSE findings || ' violations' END
$$;

CREATE FUNCTION pgmemtrace.run_scenario(
  scenario text, iterations integer DEFAULT 100, workload text DEFAULT 'SELECT 1',
  pattern text DEFAULT '', options jsonb DEFAULT NULL,
  OUT executed bigint, OUT failed bigint, OUT first_error text, OUT findings integer, OUT report text,
  OUT violations pgmemtrace.violation[], OUT measured jsonb)
RETURNS record LANGUAGE plpgsql AS $$
DECLARE
  plan record;
  window_options jsonb := nullif(options - 'sessions', '{}');
  sessions integer := 1;
  reports jsonb;
  gathered jsonb;
BEGIN
  SELECT * INTO plan FROM pgmemtrace.scenario_plans() WHERE name = scenario;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'unknown scenario: %', coalesce(scenario, 'NULL')
      USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT * FROM pgmemtrace.scenarios';
  END IF;
  IF iterations IS NULL OR iterations <= 0 THEN
    RAISE EXCEPTION 'iterations must be a positive integer' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF pg_catalog.btrim(coalesce(workload, ''), E' \t\n;') = '' THEN
    RAISE EXCEPTION 'the workload is empty' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF scenario = 'growth_benchmark' AND iterations < 4 THEN
    RAISE EXCEPTION 'growth_benchmark needs at least 4 iterations to tell a shape'
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF scenario = 'concurrent_backends' THEN
    sessions := coalesce((options ->> 'sessions')::integer, 4);
  ELSIF options ? 'sessions' THEN
    RAISE EXCEPTION 'option "sessions" is for concurrent_backends' USING ERRCODE = 'invalid_parameter_value';
  END IF;

  IF plan.manner = 'on a copy' THEN
    reports := pg_catalog.jsonb_build_array(pgmemtrace.check_on_copy(scenario, iterations, workload));
  ELSIF scenario = 'cold_warm_cold' THEN
    reports := pgmemtrace.run_cold_warm_cold(workload, iterations, pattern, window_options);
  ELSIF scenario = 'shmem_sentinel_probe' THEN
    reports := pgmemtrace.run_shmem_scenario(workload, iterations, pattern, window_options);
  ELSE
    reports := pgmemtrace.run_workload(workload, plan.manner, least(plan.warm_up, iterations), iterations,
                                       sessions, scenario = 'growth_benchmark', false, pattern, window_options);
  END IF;
  reports := pgmemtrace.require_reports(reports);

  SELECT coalesce(sum((r ->> 'executed')::bigint), 0), coalesce(sum((r ->> 'failed')::bigint), 0),
         min(r ->> 'first_error'),
         jsonb_agg(r - '{violations,judged,first_error,report,scenario,workload}'::text[])
    INTO executed, failed, first_error, measured
    FROM pg_catalog.jsonb_array_elements(reports) AS r;
  SELECT coalesce(jsonb_agg(CASE WHEN coalesce(v ->> 'query', '') = ''
                                 THEN v || pg_catalog.jsonb_build_object('query', left(workload, 1024))
                                 ELSE v END), '[]') INTO gathered
    FROM pg_catalog.jsonb_array_elements(reports) AS r, pg_catalog.jsonb_array_elements(r -> 'violations') AS v
   WHERE plan.rules IS NULL OR v ->> 'rule' = ANY (plan.rules);
  -- A session that was ended cannot say what by.
  SELECT gathered || coalesce(jsonb_agg(pg_catalog.jsonb_build_object(
           'rule', scenario, 'severity', 'ERROR', 'time', clock_timestamp(),
           'detail', 'a session of the workload ended before it could report; the server''s log says why')), '[]')
    INTO gathered
    FROM pg_catalog.jsonb_array_elements(reports) AS r WHERE r ? 'ended';
  violations := ARRAY(SELECT v FROM pg_catalog.jsonb_populate_recordset(NULL::pgmemtrace.violation, gathered) AS v);
  findings := cardinality(violations);
  -- Nothing found is no result where nothing was seen to run.
  IF failed = executed OR EXISTS (
    SELECT FROM pg_catalog.jsonb_array_elements(reports) AS r WHERE r ->> 'judged' = 'false') THEN
    findings := nullif(findings, 0);
  END IF;
  report := coalesce(reports #>> '{0,report}',
                     pgmemtrace.describe_run(plan.manner, reports, executed, failed, findings));
  IF failed > 0 AND failed = executed THEN
    RAISE WARNING 'every execution of the workload failed: %', first_error;
  END IF;
END
$$;

-- ---- contexts of any process ----

CREATE FUNCTION pgmemtrace.request_contexts(pid integer) RETURNS jsonb
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgmt_request_contexts';

-- The columns of pg_backend_memory_contexts of PostgreSQL 18, and the snapshot's age.
CREATE FUNCTION pgmemtrace.contexts(pid integer)
RETURNS TABLE (name text, ident text, type text, level integer, path integer[], total_bytes bigint,
               total_nblocks bigint, free_bytes bigint, free_chunks bigint, used_bytes bigint,
               age interval)
LANGUAGE sql STRICT SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.name, c.ident, c.type, c.level, c.path, c.total_bytes, c.total_nblocks, c.free_bytes,
         c.free_chunks, c.used_bytes,
         make_interval(secs => (answer ->> 'age_seconds')::double precision)
    FROM pgmemtrace.request_contexts(pid) AS answer,
         jsonb_to_recordset(answer -> 'contexts') AS c (
           name text, ident text, type text, level integer, path integer[], total_bytes bigint,
           total_nblocks bigint, free_bytes bigint, free_chunks bigint, used_bytes bigint)
$$;

-- ---- shared-memory sentinels ----

CREATE FUNCTION pgmemtrace.register_shmem_probe(
  segment text, used_bytes bigint DEFAULT NULL, used_offset bigint DEFAULT 0,
  OUT guard_bytes_below integer, OUT guard_bytes_above integer)
RETURNS record LANGUAGE c SET search_path = pg_catalog, pg_temp
AS 'MODULE_PATHNAME', 'pgmt_register_shmem_probe';

CREATE FUNCTION pgmemtrace.check_shmem_sentinels(
  OUT below text, OUT above text, OUT guard_bytes integer, OUT intact boolean,
  OUT found_at timestamptz, OUT finding jsonb)
RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_check_shmem_sentinels';

CREATE FUNCTION pgmemtrace.clear_shmem_registry() RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_clear_shmem_registry';

-- ---- DSM handles ----

CREATE FUNCTION pgmemtrace.track_dsm_handle(handle bigint, OUT size_bytes bigint)
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgmt_track_dsm_handle';

CREATE FUNCTION pgmemtrace.dsm_tracking(
  OUT handle bigint, OUT backend_pid integer, OUT tracked_at timestamptz, OUT size_bytes bigint,
  OUT alive boolean)
RETURNS SETOF record LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_dsm_tracking';

CREATE FUNCTION pgmemtrace.clear_dsm_tracking() RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'pgmt_clear_dsm_tracking';

-- ---- privileges: nothing for PUBLIC, reading for the reader, control for who is granted it ----

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgmemtrace FROM PUBLIC;
REVOKE ALL ON TYPE pgmemtrace.violation FROM PUBLIC;
GRANT USAGE ON SCHEMA pgmemtrace TO pgmemtrace_reader;
GRANT USAGE ON TYPE pgmemtrace.violation TO pgmemtrace_reader;
GRANT SELECT ON pgmemtrace.violation_log, pgmemtrace.scenarios TO pgmemtrace_reader;
GRANT EXECUTE ON FUNCTION
  pgmemtrace.watched(),
  pgmemtrace.log_state(),
  pgmemtrace.dsm_tracking(),
  pgmemtrace.check_shmem_sentinels(),
  pgmemtrace.contexts(integer),
  pgmemtrace.request_contexts(integer),
  -- What these are made of has to be granted, too, to who shall run scenarios.
  pgmemtrace.scenario_plans(),
  pgmemtrace.session_settings(),
  pgmemtrace.require_reports(jsonb),
  pgmemtrace.guard_everything(),
  pgmemtrace.run_shmem_scenario(text, integer, text, jsonb),
  pgmemtrace.run_cold_warm_cold(text, integer, text, jsonb),
  pgmemtrace.describe_run(text, jsonb, bigint, bigint, integer)
TO pgmemtrace_reader;

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
     stack, module, detail, advice)
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
GRANT SELECT ON pgmemtrace.violation_log TO pgmemtrace_reader;
GRANT EXECUTE ON FUNCTION
  pgmemtrace.watched(),
  pgmemtrace.log_state(),
  pgmemtrace.dsm_tracking(),
  pgmemtrace.check_shmem_sentinels(),
  pgmemtrace.contexts(integer),
  pgmemtrace.request_contexts(integer)
TO pgmemtrace_reader;

-- What the other tests need: the extensions, and a second session to play the daemon with.
CREATE EXTENSION pgmemtrace;
CREATE EXTENSION pgmemtrace_buggy;
CREATE EXTENSION dblink;

-- Until a condition holds; a test that never sees it fails.
CREATE FUNCTION wait_for(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  holds boolean;
BEGIN
  FOR i IN 1 .. 6000 LOOP
    EXECUTE 'SELECT ' || condition INTO holds;
    IF holds THEN
      RETURN 'it holds';
    END IF;
    PERFORM pg_sleep(0.01);
    PERFORM pg_stat_clear_snapshot();
  END LOOP;
  RETURN 'never: ' || condition;
END
$$;

-- The session that asks: a connection, named "session" where nothing else is said.
CREATE FUNCTION open_session(name text DEFAULT 'session') RETURNS text LANGUAGE sql AS $$
  SELECT dblink_connect(name, format('host=%s port=%s dbname=%s user=%s',
                                          current_setting('unix_socket_directories'),
                                     current_setting('port'), current_database(), current_user))
$$;
-- Now, and what it returns as one text.
CREATE FUNCTION in_session(statement text) RETURNS SETOF text LANGUAGE sql AS $$
  SELECT value FROM dblink('session', statement) AS one (value text)
$$;
-- Sent, not waited for.
CREATE FUNCTION session_asks(statement text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM dblink_send_query('session', statement);
  PERFORM wait_for('EXISTS (SELECT FROM pgmemtrace.requests())');
END
$$;
-- And what came of it, errors too.
CREATE FUNCTION session_got() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  hint text;
BEGIN
  BEGIN
    RETURN QUERY SELECT value FROM dblink_get_result('session') AS one (value text);
  EXCEPTION WHEN OTHERS OR query_canceled THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN NEXT 'ERROR: ' || sqlerrm;
    IF hint <> '' THEN
      RETURN NEXT 'HINT: ' || hint;
    END IF;
  END;
  PERFORM FROM dblink_get_result('session') AS one (value text);
END
$$;
-- What the daemon does: answers the one request that waits.
CREATE FUNCTION daemon_answers(answer jsonb, error text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
  SELECT pgmemtrace.answer(backend_pid, request_id, answer, error) FROM pgmemtrace.requests()
$$;

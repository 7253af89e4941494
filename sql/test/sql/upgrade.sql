-- Every version there is, updated to the newest, is what CREATE EXTENSION makes: what an update
-- script forgot is shown here.
CREATE DATABASE upgraded;
\c upgraded
SET client_min_messages = warning;

-- The extension as the catalogs have it, object by object; nothing in it depends on the order.
CREATE FUNCTION sorted(privileges aclitem[]) RETURNS text LANGUAGE sql AS $$
  SELECT ' ' || string_agg(one::text, ' ' ORDER BY one::text) FROM unnest(privileges) AS one
$$;
CREATE FUNCTION columns_of(relation oid) RETURNS text LANGUAGE sql AS $$
  SELECT ' ' || string_agg(format('%I %s %s %s', attname, format_type(atttypid, atttypmod), attnotnull, attidentity),
                           ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
$$;
CREATE FUNCTION extension_as_it_is() RETURNS TABLE (object text, definition text) LANGUAGE sql AS $$
  SELECT pg_describe_object(classid, objid, objsubid),
         concat((SELECT pg_get_functiondef(oid) || sorted(proacl) FROM pg_proc WHERE classid = 'pg_proc'::regclass AND oid = objid),
                (SELECT concat(columns_of(typrelid), sorted(typacl)) FROM pg_type WHERE classid = 'pg_type'::regclass AND oid = objid),
                (SELECT concat(columns_of(oid), sorted(relacl)) FROM pg_class WHERE classid = 'pg_class'::regclass AND oid = objid),
                (SELECT string_agg(pg_get_indexdef(indexrelid), ' ' ORDER BY indexrelid::regclass::text)
                   FROM pg_index WHERE classid = 'pg_class'::regclass AND indrelid = objid))
    FROM pg_depend JOIN pg_extension AS e ON refobjid = e.oid
   WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND extname = 'pgmemtrace'
  UNION ALL
  SELECT 'dump of ' || relation::regclass, '' FROM pg_extension, unnest(extconfig) AS relation WHERE extname = 'pgmemtrace'
  UNION ALL
  SELECT 'privileges on the schema', sorted(nspacl) FROM pg_namespace WHERE nspname = 'pgmemtrace'
$$;

CREATE EXTENSION pgmemtrace;
CREATE TABLE fresh AS SELECT * FROM extension_as_it_is();
DROP EXTENSION pgmemtrace;
CREATE FUNCTION differences() RETURNS SETOF text LANGUAGE sql AS $$
  SELECT object || CASE WHEN updated.definition IS NULL THEN ' is missing'
                        WHEN fresh.definition IS NULL THEN ' is left over' ELSE ' differs' END
    FROM fresh FULL JOIN extension_as_it_is() AS updated USING (object)
   WHERE fresh.definition IS DISTINCT FROM updated.definition ORDER BY 1
$$;
CREATE FUNCTION after_updates() RETURNS TABLE (since text, difference text) LANGUAGE plpgsql AS $$
BEGIN
  FOR since IN SELECT version FROM pg_available_extension_versions WHERE name = 'pgmemtrace' LOOP
    EXECUTE format('CREATE EXTENSION pgmemtrace VERSION %L', since);
    ALTER EXTENSION pgmemtrace UPDATE;
    RETURN QUERY SELECT since, differences();
    DROP EXTENSION pgmemtrace;
  END LOOP;
END
$$;
SELECT count(*) > 20 AS there_is_something_to_compare FROM fresh;
SELECT * FROM after_updates();

-- What would be seen: an update script that forgets a function, a privilege, an index, to drop a function.
CREATE EXTENSION pgmemtrace;
ALTER EXTENSION pgmemtrace DROP FUNCTION pgmemtrace.requests();
GRANT EXECUTE ON FUNCTION pgmemtrace.watched() TO PUBLIC;
DROP INDEX pgmemtrace.violation_log_time_idx;
CREATE FUNCTION pgmemtrace.removed() RETURNS void LANGUAGE sql AS '';
ALTER EXTENSION pgmemtrace ADD FUNCTION pgmemtrace.removed();
SELECT * FROM differences();

\c postgres
DROP DATABASE upgraded;

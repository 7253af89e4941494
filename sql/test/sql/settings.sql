-- Settings, and what they do not take.
SELECT name, context FROM pg_settings WHERE name LIKE 'pgmemtrace.%' ORDER BY name;
\set VERBOSITY sqlstate
SET pgmemtrace.ack_timeout = 0;
SET pgmemtrace.min_leak_bytes = -1;
\set VERBOSITY default
SET pgmemtrace.min_leak_bytes = '1MB';
SHOW pgmemtrace.min_leak_bytes;
SET pgmemtrace.database = 'other';
SET pgmemtrace.check_interval = '1s';

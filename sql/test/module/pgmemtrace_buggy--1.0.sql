/* SPDX-License-Identifier: BSD-2-Clause */
\echo Use "CREATE EXTENSION pgmemtrace_buggy" to load this file. \quit

CREATE FUNCTION watch(by integer) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_watch';
CREATE FUNCTION marker_begins_with_nop() RETURNS boolean
LANGUAGE c AS 'MODULE_PATHNAME', 'buggy_marker_begins_with_nop';

CREATE FUNCTION write_to_segment(segment text, at integer, bytes bytea) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_write_to_segment';
CREATE FUNCTION make_dsm(bytes integer, pinned boolean) RETURNS bigint
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_make_dsm';
CREATE FUNCTION unpin_dsm(handle bigint) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_unpin_dsm';
CREATE FUNCTION leak_context(bytes integer) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_leak_context';
CREATE FUNCTION leak_in_top(bytes integer) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_leak_in_top';
CREATE FUNCTION malloc_and_forget(bytes integer) RETURNS void
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_malloc_and_forget';
CREATE FUNCTION hold_pointer() RETURNS integer
LANGUAGE c AS 'MODULE_PATHNAME', 'buggy_hold_pointer';
CREATE FUNCTION hold_text() RETURNS text
LANGUAGE c AS 'MODULE_PATHNAME', 'buggy_hold_text';
CREATE FUNCTION unchecked_malloc(bytes integer) RETURNS integer
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'buggy_unchecked_malloc';

#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# check-layouts.sh - compares bpf/layouts/pgNN.h with the server headers of that major.
#
# The headers are those of postgresql-server-dev-NN on the host or in the folders of suites.sh;
# majors that neither has are named and skipped, none at all is a failure.  With CI in the
# environment so is a major that suites.sh knows and has not made.
#
# The private structs of aset.c, generation.c, slab.c and bump.c are in no header:
# tests/unit/attach_layout_test.cpp compares those with the servers' debug information.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
suites=$("$root/scripts/suites.sh" --list)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fields='
MemoryContextData type isReset allowInCritSection mem_allocated methods parent firstchild prevchild nextchild name ident reset_cbs
dlist_node prev next
dlist_head head
QueryDesc operation plannedstmt sourceText estate planstate already_executed totaltime
PlannedStmt type commandType queryId stmt_location stmt_len
Port database_name user_name
BackgroundWorker bgw_name bgw_type
PgBackendStatus st_activity_start_timestamp st_activity_raw'

fields_since_14='
PgBackendStatus st_query_id'

# A program that prints offset and size of each field, with the given includes.
program() {
  printf '%s\n' "$1" '#include <stddef.h>' '#include <stdio.h>' 'int main(void) {'
  echo "$2" | while read -r struct members; do
    for member in $members; do
      printf 'printf("%s.%s %%zu %%zu\\n", offsetof(struct %s, %s), sizeof(((struct %s *) 0)->%s));\n' \
        "$struct" "$member" "$struct" "$member" "$struct" "$member"
    done
  done
  echo 'return 0; }'
}

# libpq-be.h wants these; what they declare changes no field that is compared (pointers to it).
mkdir -p "$work/stubs/gssapi" "$work/stubs/openssl"
: >"$work/stubs/gssapi/gssapi_ext.h"
cat >"$work/stubs/gssapi/gssapi.h" <<'EOF'
typedef struct { size_t length; void *value; } gss_buffer_desc;
typedef void *gss_cred_id_t, *gss_ctx_id_t, *gss_name_t;
EOF
printf 'typedef struct ssl_st SSL; typedef struct x509_st X509;\n' >"$work/stubs/openssl/ssl.h"
: >"$work/stubs/openssl/err.h"

checked=0
failed=0
for layout in "$root"/bpf/layouts/pg*.h; do
  major=$(basename "$layout" .h)
  major=${major#pg}
  folder=$(echo "$suites" | sed -n "s/^$major //p")
  headers=/usr/include/postgresql/$major/server
  [ -d "$headers" ] || headers=$folder$headers
  if [ ! -d "$headers" ]; then
    echo "pg$major: skipped, no $headers"
    if [ -n "${CI:-}" ] && [ -n "$folder" ]; then failed=1; fi
    continue
  fi
  wanted=$fields
  status_header='#include "pgstat.h"'
  if [ "$major" -ge 14 ]; then
    wanted=$fields$fields_since_14
    status_header='#include "utils/backend_status.h"'
  fi
  program "#include \"$layout\"" "$wanted" >"$work/ours.c"
  program '#include "postgres.h"
#include "executor/execdesc.h"
#include "lib/ilist.h"
#include "libpq/libpq-be.h"
#include "nodes/memnodes.h"
#include "nodes/plannodes.h"
#include "postmaster/bgworker.h"
'"$status_header"'
#undef printf' "$wanted" >"$work/theirs.c"
  cc -w -o "$work/ours" "$work/ours.c"
  cc -w -I"$headers" -idirafter "$work/stubs" -o "$work/theirs" "$work/theirs.c"
  "$work/ours" >"$work/ours.txt"
  "$work/theirs" >"$work/theirs.txt"
  if diff -u "$work/theirs.txt" "$work/ours.txt"; then
    echo "pg$major: $(wc -l <"$work/ours.txt") fields agree with $headers"
  else
    echo "pg$major: differs from $headers" >&2
    failed=1
  fi
  checked=$((checked + 1))
done
[ "$checked" -gt 0 ] || { echo "no server headers found: install postgresql-server-dev-NN" >&2; exit 1; }
exit "$failed"

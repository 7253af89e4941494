#!/bin/sh
# SPDX-License-Identifier: BSD-2-Clause
# check-layouts.sh - compares bpf/layouts/pgNN.h with the server headers of that major.
#
# check-layouts.sh [SYSROOT]: with one, of the arm64 headers in that folder (made by arm64.sh),
# by compiling alone: nothing of arm64 is run.
#
# The headers are those of postgresql-server-dev-NN on the host or in the folders of suites.sh;
# majors that neither has are named and skipped, none at all is a failure.  With CI in the
# environment so is a major that suites.sh knows and has not made.
#
# The private structs of aset.c, generation.c, slab.c, bump.c, dynahash.c and dsm.c are in no header:
# tests/unit/attach_layout_test.cpp compares those with the servers' debug information.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
suites=$("$root/scripts/suites.sh" --list)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sysroot=${1-}

fields='
MemoryContextData type isReset allowInCritSection mem_allocated methods parent firstchild prevchild nextchild name ident reset_cbs
dlist_node prev next
dlist_head head
QueryDesc operation plannedstmt sourceText estate planstate already_executed totaltime
EState es_query_cxt
PlannedStmt type commandType queryId stmt_location stmt_len
Port sock database_name user_name
BackgroundWorker bgw_name bgw_type
HeapTupleData t_len
catcacheheader ch_caches ch_ntup
catcache id cc_nbuckets cc_bucket cc_ntup cc_nkeys cc_relname cc_reloid cc_indexoid cc_relisshared cc_next
catctup ct_magic hash_value cache_elem refcount dead negative tuple c_list my_cache
catclist cl_magic hash_value cache_elem refcount dead ordered nkeys n_members my_cache
CachedPlanSource magic gplan is_oneshot is_complete is_saved is_valid generation node
PgBackendStatus st_activity_start_timestamp st_activity_raw
PGShmemHeader magic creatorPID totalsize freeoffset dsm_control
Session segment'

fields_since_14='
PgBackendStatus st_query_id'

# Lists of a catalog cache hang in a hash table of their own since 16.3.
fields_until_16='
catcache cc_lists'
fields_since_16='
catcache cc_nlist cc_nlbuckets cc_lbucket'

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

# The same program for another machine: our values, asserted when it is compiled.
assertions() {
  printf '%s\n' "$1" '#include <stddef.h>'
  while read -r field offset size; do
    struct=${field%%.*}
    member=${field#*.}
    printf '_Static_assert(offsetof(struct %s, %s) == %s && sizeof(((struct %s *) 0)->%s) == %s, "%s");\n' \
      "$struct" "$member" "$offset" "$struct" "$member" "$size" "$field"
  done <"$2"
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
: >"$work/stubs/gssapi/gssapi_ext.h"

# Do the server's headers say what ours.txt says?  Uses the variables of the loop below.
theirs_agree() {
  if [ -n "$sysroot" ]; then
    assertions "$includes" "$work/ours.txt" >"$work/theirs.c"
    clang --target=aarch64-linux-gnu --sysroot="$sysroot" -w -fsyntax-only \
      -I"$headers" -idirafter "$work/stubs" "$work/theirs.c"
    return
  fi
  program "$includes" "$wanted" >"$work/theirs.c"
  cc -w -I"$headers" -idirafter "$work/stubs" -o "$work/theirs" "$work/theirs.c"
  "$work/theirs" >"$work/theirs.txt"
  diff -u "$work/theirs.txt" "$work/ours.txt"
}

checked=0
failed=0
for layout in "$root"/bpf/layouts/pg*.h; do
  major=$(basename "$layout" .h)
  major=${major#pg}
  folder=
  [ -n "$sysroot" ] || folder=$(echo "$suites" | sed -n "s/^$major //p")
  headers=$sysroot/usr/include/postgresql/$major/server
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
  [ "$major" -gt 16 ] || wanted=$wanted$fields_until_16
  [ "$major" -lt 16 ] || wanted=$wanted$fields_since_16
  program "#include \"$layout\"" "$wanted" >"$work/ours.c"
  includes='#include "postgres.h"
#include "access/session.h"
#include "executor/execdesc.h"
#include "lib/ilist.h"
#include "libpq/libpq-be.h"
#include "nodes/memnodes.h"
#include "nodes/plannodes.h"
#include "postmaster/bgworker.h"
#include "storage/pg_shmem.h"
#include "utils/catcache.h"
#include "utils/plancache.h"
'"$status_header"'
#undef printf'
  cc -w -o "$work/ours" "$work/ours.c"
  "$work/ours" >"$work/ours.txt"
  if theirs_agree; then
    echo "pg$major: $(wc -l <"$work/ours.txt") fields agree with $headers"
  else
    echo "pg$major: differs from $headers" >&2
    failed=1
  fi
  checked=$((checked + 1))
done
[ "$checked" -gt 0 ] || { echo "no server headers found: install postgresql-server-dev-NN" >&2; exit 1; }
exit "$failed"

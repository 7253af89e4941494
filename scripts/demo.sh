#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# demo.sh - pgmemtrace on a PostgreSQL of its own that loses memory in three ways at once.
#
# Installs and builds what is needed, starts a private server as user postgres, lets three
# sessions leak and two behave, watches for a while and removes everything that it started.
# The leaks are paced: tens of MB in all, and they end by themselves.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: sudo scripts/demo.sh [--keep] [--seconds N]

  --seconds N   how long to watch (30)
  --keep        leave server, sessions and pgmemtrace running, and say how to end them
END
}

seconds=30
keep=
while [[ $# -gt 0 ]]; do
  case $1 in
  --keep) keep=1 ;;
  --seconds) seconds=${2:-} && shift ;;
  --seconds=*) seconds=${1#*=} ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
  esac
  shift || true
done
[[ $seconds =~ ^[1-9][0-9]{0,5}$ ]] || { usage >&2 && exit 2; }
need_root "reading other processes' memory and placing probes" "scripts/demo.sh"

say "packages"
"$root/scripts/install-deps.sh" build server
say "build"
cd "$root"
if [[ ! -f build/release/build.ninja ]]; then
  # Without the tests and the libraries that they need.
  as_owner cmake --preset release --log-level=WARNING -DPGMT_TESTS=OFF >/dev/null
fi
as_owner cmake --build --preset release --target pgmemtrace
tool=$root/build/release/bin/pgmemtrace


# --- a private server ---

# shellcheck source=scripts/private_server.sh
. "$root/scripts/private_server.sh"
make_workplace demo
demo=$work
say "a private PostgreSQL $pg_major"
start_server data 5432
postmaster=$(postmaster_of data)
run_as_postgres "$pg_bin/psql" -qX -c 'CREATE DATABASE shop'
export PGDATABASE=shop
for role in reporting orm etl webshop; do
  run_as_postgres "$pg_bin/psql" -qX -c "CREATE ROLE $role LOGIN IN ROLE pg_read_all_data, pg_write_all_data"
done
run_as_postgres "$pg_bin/pgbench" -q -i -s 1 >"$demo/pgbench.log" 2>&1
note "postmaster $postmaster, in $demo"

# --- sessions ---

# The server sets the pace, by pg_sleep.  A connection whose SQL is at its end stays open, idle.
loop() {
  local i count=$1 format=$2
  for ((i = 1; i <= count; i++)); do printf '%s\n' "${format//@/$i}"; done
  echo 'SELECT pg_sleep(86400);'
}
loop 3000 "BEGIN;
DECLARE report_@ CURSOR WITH HOLD FOR SELECT g, repeat('x', 100) FROM generate_series(1, 40) g;
COMMIT;
SELECT pg_sleep(0.02);" >"$demo/reporting.sql"
loop 3000 "PREPARE q@ (int) AS SELECT abalance FROM pgbench_accounts WHERE aid = \$1 AND bid <> @;
EXECUTE q@ (@);
SELECT pg_sleep(0.02);" >"$demo/orm.sql"
loop 6000 "CREATE TEMP TABLE step_@ (a int, b text);
DROP TABLE step_@;
SELECT pg_sleep(0.01);" >"$demo/etl.sql"

say "sessions, each as the role of its name"
for role in reporting orm etl; do
  PGUSER=$role start "$pg_bin/psql" -qX -o /dev/null -f "$demo/$role.sql"
done
PGUSER=webshop start "$pg_bin/pgbench" -n -M prepared -c 2 -R 100 -T 86400
note "reporting   opens cursors WITH HOLD and never closes them        loses memory"
note "orm         prepares statements and never deallocates them       loses memory"
note "etl         creates and drops temporary tables in one session    loses memory"
note "webshop     pgbench, two sessions of ordinary work               is to stay silent"

# --- pgmemtrace ---

cd "$demo"
arguments=(--pid "$postmaster" --interval 2s --listen 127.0.0.1:0)
if [[ ! $keep ]]; then arguments+=(--duration "${seconds}s"); fi
say "pgmemtrace ${arguments[*]}"
if [[ $keep ]]; then
  setsid "$tool" "${arguments[@]}" </dev/null >"$demo/pgmemtrace.log" 2>&1 &
  tool_pid=$!
  tail -n +1 -F --pid="$tool_pid" "$demo/pgmemtrace.log" 2>/dev/null &
  tail_pid=$!
  address_in=$demo/pgmemtrace.log
else
  "$tool" "${arguments[@]}" </dev/null 2> >(tee "$demo/pgmemtrace.err" >&2) &
  tool_pid=$!
  address_in=$demo/pgmemtrace.err
fi
started+=("$tool_pid")

# A trap runs at once during wait, and only afterwards during a sleep.
watch_for() {
  local i
  for ((i = 0; i < $1; i++)); do
    kill -0 "$tool_pid" 2>/dev/null || return 0
    sleep 1 &
    wait $!
  done
}
address() { grep -shom 1 'http://[^ ]*/metrics' "$address_in" || true; }

watch_for $((seconds - seconds / 4))
url=$(address)
if [[ $url ]]; then curl --silent --noproxy '*' --max-time 10 "$url" >"$demo/metrics" || true; fi
if [[ $keep ]]; then
  watch_for $((seconds / 4))
  kill "$tail_pid" 2>/dev/null || true
fi
status=0
if [[ ! $keep ]] || ! kill -0 "$tool_pid" 2>/dev/null; then wait "$tool_pid" || status=$?; fi
if [[ $status -ne 0 ]]; then die "pgmemtrace ended with status $status"; fi

say "a few of the metrics, as Prometheus saw them at ${url:-no address}"
if [[ -s $demo/metrics ]]; then
  for metric in context_total_bytes violations_active backend_max_total_bytes estimated_overhead_ratio; do
    # Biggest first; zeros say nothing here.
    awk -v metric="pgmemtrace_$metric" '
      index($0, metric "{") == 1 || $1 == metric { if ($NF != 0) print $NF "\t    " $0 }' \
      "$demo/metrics" | sort -gr | cut -f 2- | sed -n '1,4p'
  done
else
  warn "nothing came from /metrics"
fi

if [[ ! $keep ]]; then
  say "done: server, sessions and $demo are removed"
  exit 0
fi

{
  printf '#!/bin/bash\n# Ends the demo and removes its folder.\ndemo=%q\n' "$demo"
  printf 'for pid in %s; do\n' "${started[*]}"
  # shellcheck disable=SC2016
  printf '  if [[ /proc/$pid/cwd -ef $demo ]]; then kill "$pid"; fi\ndone\n'
  # shellcheck disable=SC2016
  printf 'setpriv --reuid postgres --regid postgres --init-groups %q -D "$demo/data" -m immediate stop\n' "$pg_bin/pg_ctl"
  # shellcheck disable=SC2016
  printf 'rm -rf -- "$demo"\n'
} >"$demo/end"
chmod 755 "$demo/end"
trap - EXIT
say "left running"
note "psql:      psql -h $demo -U postgres shop"
note "output:    tail -F $demo/pgmemtrace.log"
if [[ $url ]]; then note "metrics:   curl $url"; fi
note "to end it: sudo $demo/end"

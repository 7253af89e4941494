#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# soak.sh - pgmemtrace for minutes on two busy servers of its own; ends with a verdict.
#
# Fifty clients do what clients do: ordinary and prepared statements, PL/pgSQL, temporary tables,
# cursors, errors, and connections that last for one statement.  Servers, clients and folder are
# removed at the end.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: sudo scripts/soak.sh [--seconds N] [-- OPTION...]

  --seconds N   how long the load lasts, 30 at least (600)
  OPTION...     for pgmemtrace, instead of --max-overhead off

Exit status: 0 if everything passed, 1 if not.
END
}

seconds=600
options=(--max-overhead off)
while [[ $# -gt 0 ]]; do
  case $1 in
  --seconds) seconds=${2:-} && shift ;;
  --seconds=*) seconds=${1#*=} ;;
  --) shift && options=("$@") && break ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
  esac
  shift || true
done
[[ $seconds =~ ^[1-9][0-9]{1,5}$ && $seconds -ge 30 ]] || { usage >&2 && exit 2; }
need_root "reading other processes' memory and placing probes" "scripts/soak.sh"

say "packages and build"
"$root/scripts/install-deps.sh" build server
build release pgmemtrace
tool=$root/build/release/bin/pgmemtrace

# shellcheck source=scripts/private_server.sh
. "$root/scripts/private_server.sh"
make_workplace soak
ports=([1]=5432 [2]=5433)

say "two servers"
for i in 1 2; do
  start_server "soak$i" "${ports[i]}" "cluster_name = 'soak$i'" "max_connections = 60"
  run_as_postgres "$pg_bin/pgbench" -p "${ports[i]}" -q -i -s 2 >"$work/pgbench.log" 2>&1 ||
    { cat "$work/pgbench.log" >&2 && die "fill the tables"; }
done


# --- pgmemtrace ---

arguments=(--pid all --interval 2s --listen 127.0.0.1:0 --format json "${options[@]}")
say "pgmemtrace ${arguments[*]}"
(cd "$work" && exec "$tool" "${arguments[@]}" </dev/null >"$work/out" 2>"$work/err") &
daemon=$!
started+=("$daemon")
runs() { kill -0 "$daemon" 2>/dev/null; }
for ((i = 0; i < 300; i++)); do
  if grep -q '"type":"status"' "$work/out" || ! runs; then break; fi
  sleep 0.1
done
url=$(grep -om 1 'http://[^ ]*/metrics' "$work/err" || true)
[[ $url ]] || { cat "$work/err" >&2 && die "start pgmemtrace"; }
metrics() { curl --silent --noproxy '*' --max-time 10 "$url" || true; }
# value_of NAME FILE: of a metric without labels, or the sum over them.
value_of() { awk -v name="pgmemtrace_$1" '$1 == name || index($1, name "{") == 1 { sum += $NF } END { print sum + 0 }' "$2"; }

# What the kernel holds for a process, by its descriptors: "link 12", "prog 34".
held_by() {
  sed -n 's/^\(link\|prog\)_id:[[:space:]]*/\1 /p' /proc/"$1"/fdinfo/* 2>/dev/null | sort -u
}
# still_there FILE: which of these the kernel has now.
still_there() {
  local kind id
  while read -r kind id; do
    if bpftool "$kind" show id "$id" >/dev/null 2>&1; then echo "$kind $id"; fi
  done <"$1"
}
held_by "$daemon" >"$work/held"


# --- the load ---

cat >"$work/plpgsql.sql" <<'END'
DO $$ DECLARE n int; BEGIN FOR i IN 1..20 LOOP SELECT count(*) INTO n FROM pgbench_branches WHERE bid = i; END LOOP; END $$;
END
cat >"$work/caught.sql" <<'END'
DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
END
cat >"$work/temp.sql" <<'END'
CREATE TEMP TABLE soak_temp (id int, name text) ON COMMIT DROP \; INSERT INTO soak_temp SELECT g, md5(g::text) FROM generate_series(1, 50) g \; SELECT count(*) FROM soak_temp;
END
cat >"$work/cursor.sql" <<'END'
BEGIN;
DECLARE soaked CURSOR FOR SELECT * FROM pgbench_accounts ORDER BY abalance LIMIT 500;
FETCH 100 FROM soaked;
FETCH 100 FROM soaked;
CLOSE soaked;
COMMIT;
END
cat >"$work/notify.sql" <<'END'
LISTEN soak;
NOTIFY soak, 'soaked';
UNLISTEN soak;
END
cat >"$work/one.sql" <<'END'
SELECT count(*) FROM pgbench_tellers;
END
# What goes wrong on purpose, in psql: pgbench gives up at the first error.
cat >"$work/errors.sql" <<'END'
SELECT 1 / 0;
SELECT * FROM no_such_table;
BEGIN;
INSERT INTO pgbench_branches VALUES (1, 0, '');
SELECT 'in a transaction that failed';
ROLLBACK;
SET statement_timeout = '20ms';
SELECT pg_sleep(10);
RESET statement_timeout;
END
provoked='division by zero|relation "no_such_table" does not exist|duplicate key value|current transaction is aborted|canceling statement due to statement timeout'

say "fifty clients for $seconds s"
began=$SECONDS
bench() { start nice -n 5 "$pg_bin/pgbench" -n -T "$seconds" "$@"; }
errors() {
  # shellcheck disable=SC2016 # for the inner shell
  start nice -n 5 bash -c 'while ((SECONDS < $3)); do "$1" -qX -p "$2" -o /dev/null -f errors.sql; done' \
    errors "$pg_bin/psql" "$1" "$seconds"
}
for i in 1 2; do
  port=${ports[i]}
  bench -p "$port" -M prepared -c 8
  bench -p "$port" -M simple -c 4 -S
  bench -p "$port" -M extended -c 7 -f "$work/plpgsql.sql" -f "$work/caught.sql" -f "$work/cursor.sql" -f "$work/notify.sql"
  bench -p "$port" -M simple -c 2 -f "$work/temp.sql"
  bench -p "$port" -C -c 2 -f "$work/one.sql"
  errors "$port"
  errors "$port"
done

# A line each second: seconds since the load began, anonymous memory in kB, open files.
while runs && ((SECONDS - began < seconds)); do
  printf '%d %d %d\n' $((SECONDS - began)) \
    "$(awk '$1 == "RssAnon:" { print $2 }' "/proc/$daemon/status" || echo 0)" \
    "$(find "/proc/$daemon/fd" -mindepth 1 2>/dev/null | wc -l)" >>"$work/samples"
  sleep 1 &
  wait $!
done
# The clients end by themselves; their servers' processes a little later.
for pid in "${started[@]}"; do
  if [[ $pid != "$daemon" ]]; then wait "$pid" || true; fi
done
sleep 5
metrics >"$work/metrics"


# --- the verdict ---

say "verdict"
failed=0
# verdict WHAT CONDITION-STATUS DETAIL
verdict() {
  if [[ $2 -eq 0 ]]; then
    printf 'PASS  %s%s\n' "$1" "${3:+: $3}"
  else
    printf 'FAIL  %s%s\n' "$1" "${3:+: $3}"
    failed=1
  fi
}
holds() { if "$@"; then echo 0; else echo 1; fi; }

statements=$(value_of 'probe_hits_total' "$work/metrics")
verdict "it saw the load" "$(holds [ "$statements" -gt $((seconds * 100)) ])" "$statements hits"
verdict "nothing lost" "$(holds [ "$(value_of events_lost_total "$work/metrics")" = 0 ])" \
  "$(sed -n 's/^pgmemtrace_events_lost_total{reason="\(.*\)"} /\1 /p' "$work/metrics" | paste -sd ,)"

# The median of a column of the samples between two shares of the time.
median() {
  awk -v column="$1" -v from="$2" -v to="$3" -v seconds="$seconds" \
    '$1 >= from * seconds && $1 <= to * seconds { print $column }' "$work/samples" |
    sort -n | awk '{ v[NR] = $1 } END { print NR ? v[int((NR + 1) / 2)] : 0 }'
}
# After warm-up: as many histories, names and buffers as it will ever have.
early=$(median 2 0.3 0.5)
late=$(median 2 0.8 1)
verdict "its memory does not grow" "$(holds [ "$late" -gt 0 -a "$late" -le $((early + early / 20 + 1024)) ])" \
  "$(median 2 0 0.1) kB at first, $early kB after warm-up, $late kB at the end"
verdict "its open files do not grow" "$(holds [ "$(median 3 0.8 1)" -le $(($(median 3 0.3 0.5) + 2)) ])" \
  "$(median 3 0.3 0.5), then $(median 3 0.8 1)"
slots=$(sed -n 's/^pgmemtrace_map_entries{map="processes"} //p' "$work/metrics")
verdict "slots of processes that ended are free" "$(holds [ "${slots:-999}" -lt 100 ])" "$slots in use"

status=none
if runs; then kill -INT "$daemon"; fi
wait "$daemon" && status=0 || status=$?
verdict "it ran to the end and ended cleanly" "$(holds [ "$status" = 0 ])" "exit status $status"
complaints=$(grep -vc '^metrics on ' "$work/err" || true)
verdict "it had nothing to complain of" "$(holds [ "$complaints" = 0 ])" "$(grep -v '^metrics on ' "$work/err" | head -n 1)"

verdict "it had probes" "$(holds grep -q '^link' "$work/held")" "$(sort "$work/held" | cut -d' ' -f1 | uniq -c | paste -sd ' ' | tr -s ' ')"
for ((i = 0; i < 100; i++)); do
  still_there "$work/held" >"$work/left"
  if [[ ! -s $work/left ]]; then break; fi
  sleep 0.1
done
verdict "no probe is left" "$(holds [ ! -s "$work/left" ])" "$(paste -sd , "$work/left")"

for i in 1 2; do
  log=$work/soak$i.log
  verdict "soak$i: no crash, no refused client" \
    "$(holds [ "$(grep -cE 'PANIC:|FATAL:|terminated by signal|all server processes terminated' "$log")" = 0 ])" \
    "$(grep -m 1 -E 'PANIC:|FATAL:|terminated by signal' "$log" || true)"
  verdict "soak$i: no error but the provoked ones" \
    "$(holds [ "$(grep 'ERROR:' "$log" | grep -cvE "$provoked")" = 0 ])" \
    "$(grep -c 'ERROR:' "$log") provoked; $(grep 'ERROR:' "$log" | grep -m 1 -vE "$provoked" || true)"
  sound=$(run_as_postgres "$pg_bin/psql" -p "${ports[i]}" -qXAt -c \
    'SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)' || true)
  verdict "soak$i: serves, and its books are balanced" "$(holds [ "$sound" = t ])"
done

# Temporary tables in a long session do fill its caches: that alarm is right.
grep '"state":"raised"' "$work/out" | grep '"instance":"soak' |
  sed 's/.*"pid":\([0-9]*\).*"rule":"\([^"]*\)".*"context":"\([^"]*\)".*"detail":"\([^"]*\)".*/\2 pid \1: \3, \4/' >"$work/alarms" || true
verdict "no alarm but of caches that temporary tables fill" \
  "$(holds [ "$(grep -vc '^cache_growth ' "$work/alarms")" = 0 ])" \
  "$(wc -l <"$work/alarms") of these; $(grep -m 1 -v '^cache_growth ' "$work/alarms" || true)"

note "sweeps $(value_of sweeps_total "$work/metrics"), of them incomplete $(value_of incomplete_snapshots_total "$work/metrics")"
if [[ $failed -ne 0 ]]; then
  printf '\nFAIL\n'
  exit 1
fi
printf '\nPASS\n'

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# regress.sh - the extension's SQL tests on one major of PostgreSQL: pg_regress with a server of its
# own, on a copy of that PostgreSQL that has the extension (copy_postgres.sh).
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: sudo scripts/regress.sh [MAJOR]

Without a major: the host's PostgreSQL.  Others come from the folders of scripts/suites.sh.
  PGMT_REGRESS_RESULTS   a folder that is made: what the tests printed, to be compared with or
                         copied to sql/test/expected

Exit status 77: not tested, for want of root or of that PostgreSQL; a failure where CI asked.
END
}

major=
for argument in "$@"; do
  case $argument in
  -h | --help) usage && exit 0 ;;
  [0-9]*) major=$argument ;;
  *) usage >&2 && exit 2 ;;
  esac
done

not_tested() {
  echo "NOT TESTED: $1"
  if [[ ${CI:-} || ${PGMEMTRACE_REQUIRE_RUNTIME:-} ]]; then exit 1; fi
  exit 77
}

is_root || not_tested "the extension, which needs root to start a server as user postgres"
folder=
if [[ $major ]]; then
  folder=$("$root/scripts/suites.sh" --list | sed -n "s/^$major //p")
  [[ $folder ]] || die "no suite has PostgreSQL $major" "scripts/suites.sh --list"
else
  major=$("$root/scripts/install-deps.sh" --list server | sed -n 's/^postgresql-//p')
fi
[[ -x $folder/usr/lib/postgresql/$major/bin/postgres && -e $folder/usr/include/postgresql/$major/server/postgres.h ]] ||
  not_tested "PostgreSQL $major with its headers is not in ${folder:-/usr}"

# `work` is the folder's view of it, what chroot takes; "$folder$work" is ours.
work=$(mktemp -d "$folder/tmp/pgmt-regress.XXXXXX")
work=${work#"$folder"}
bin=$work/lib/postgresql/$major/bin

cleanup() {
  local pid_file=$folder$work/sql/tmp_check/data/postmaster.pid pid
  if [[ -f $pid_file ]]; then # pg_regress did not get to its end
    pid=$(head -n 1 "$pid_file")
    kill -QUIT "$pid" 2>/dev/null || true
  fi
  rm -rf --one-file-system -- "$folder$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

chmod 755 "$folder$work"
"$root/scripts/copy_postgres.sh" "$folder" "$major" "$work"
# The kernel counts in bytes of the file alone (sql/marker.c).
read -r _ _ _ _ _ _ section _ < <(readelf --dyn-syms --wide "$folder$work/sql/pgmemtrace.so" | grep -w pgmemtrace_watchers)
readelf --section-headers --wide "$folder$work/sql/pgmemtrace.so" | grep -qE "\[ *$section\] .* PROGBITS .* WA " ||
  die "pgmemtrace_watchers is not in a writable section of the file"
# What would call on from a hook would stand in all call stacks (sql/statements.c).
frames=$(objdump -d --no-show-raw-insn "$folder$work/sql/statements.o" |
  awk '/<(executor_start|process_utility)>:/ { hook = 1 } /^$/ { hook = 0 } hook && /call/ && !/<remember/')
if [[ $frames ]]; then die "the hooks of sql/statements.c have frames of their own: $frames"; fi
read -ra arguments < <(make -s PG_CONFIG="$folder$work/pg_config" -C "$folder$work/sql" print-regress)

# In the folder pids and users are its own: by name, and looked up in there.
chroot "${folder:-/}" chown -R postgres "$work/sql"
status=0
# shellcheck disable=SC2016
chroot --userspec=postgres "${folder:-/}" env -i PATH=/usr/bin:/bin LANG=C.UTF-8 sh -c 'cd "$1" && shift && exec "$@"' sh \
  "$work/sql" "$work/lib/postgresql/$major/lib/pgxs/src/test/regress/pg_regress" --bindir="$bin" \
  "${arguments[@]}" || status=1
if [[ $status -ne 0 ]]; then
  if [[ -s $folder$work/sql/regression.diffs ]]; then
    cat "$folder$work/sql/regression.diffs"
  else
    tail -n 50 "$folder$work"/sql/log/*
  fi
fi
if [[ ${PGMT_REGRESS_RESULTS:-} ]]; then cp -r "$folder$work/sql/results" "$PGMT_REGRESS_RESULTS"; fi
[[ $status -eq 0 ]]

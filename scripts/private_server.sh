# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash disable=SC2154
# private_server.sh - throwaway PostgreSQL servers and what runs against them, for the demo and
# the soak.
#
# Sourced after common.sh, by root.  make_workplace comes first: it sets `work`, the folder in
# which everything lies, and removes it, with all that was started, when the script ends.

pg_major=$("$root/scripts/install-deps.sh" --list server | sed -n 's/^postgresql-//p')
pg_bin=/usr/lib/postgresql/$pg_major/bin
started=() # pids of ours, in the order in which they were started
servers=() # data directories

# Everything of ours has `work` as working directory: that is how a pid is known to be ours still.
as_postgres() { exec setpriv --reuid postgres --regid postgres --init-groups env -C "$work" "$@"; }
run_as_postgres() { (as_postgres "$@"); }
is_ours() { [[ /proc/$1/cwd -ef $work ]]; }

end_all() {
  local i pid data
  trap '' INT TERM
  for ((i = ${#started[@]} - 1; i >= 0; i--)); do
    pid=${started[i]}
    if is_ours "$pid"; then kill "$pid" 2>/dev/null || true; fi
    wait "$pid" 2>/dev/null || true
  done
  for data in "${servers[@]}"; do
    if [[ -f $data/postmaster.pid ]]; then
      run_as_postgres "$pg_bin/pg_ctl" -D "$data" -m immediate -s stop || true
    fi
  done
  rm -rf -- "$work"
}

# make_workplace NAME
make_workplace() {
  work=$(mktemp -d "/tmp/pgmemtrace-$1.XXXXXX")
  chmod 755 "$work"
  chown postgres: "$work"
  trap end_all EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # Not the files that psql and pgbench would find in a home folder, nor our caller's settings.
  local name
  while read -r name; do unset "$name"; done < <(compgen -e PG)
  export PGHOST=$work PGUSER=postgres PGDATABASE=postgres
}

# start_server NAME PORT [SETTING...]: data in $work/NAME, socket in $work, log in $work/NAME.log.
start_server() {
  local name=$1 port=$2 data=$work/$1
  shift 2
  run_as_postgres "$pg_bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync \
    >"$work/initdb.log" 2>&1 || { cat "$work/initdb.log" >&2 && die "run initdb"; }
  printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$work'" "port = $port" \
    'fsync = off' "$@" >>"$data/postgresql.conf"
  servers+=("$data")
  run_as_postgres "$pg_bin/pg_ctl" -D "$data" -l "$work/$name.log" -s -w start ||
    { cat "$work/$name.log" >&2 && die "start PostgreSQL"; }
}
postmaster_of() { head -n 1 "$work/$1/postmaster.pid"; }

# start COMMAND...: as postgres, in the background, until end_all.
start() {
  as_postgres "$@" </dev/null >>"$work/sessions.log" 2>&1 &
  started+=("$!")
}

#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# suites.sh - folders of other Debian suites, each with a PostgreSQL that the host does not have.
#
# For tests on every major that Debian carries: PostgreSQL's own programs and contrib modules,
# and the headers to build against.  Made once and kept; a folder that is there is whole, since
# it is made under another name and renamed at the end.  Starts no service, creates no cluster.
# Tests keep what they write under the folder's /tmp.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# major codename: what scripts to start with, PostgreSQL's major, debootstrap's name.
suites=(
  "13 bullseye"
  "17 trixie"
  "18 forky"
)
cache=${PGMT_SUITES:-/var/cache/pgmemtrace/suites}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

usage() {
  cat <<END
usage: sudo scripts/suites.sh [--list] [CODENAME...]

Without a name: all of them.  --list prints "MAJOR FOLDER", makes nothing, and needs no root.

  PGMT_SUITES   where the folders are kept (now: $cache)
  PGMT_MIRROR   a Debian mirror, where the machine's own sources name none
END
}

list_only=
wanted=()
for argument in "$@"; do
  case $argument in
  --list) list_only=1 ;;
  -h | --help) usage && exit 0 ;;
  -*) usage >&2 && exit 2 ;;
  *) wanted+=("$argument") ;;
  esac
done

# selected: "MAJOR CODENAME" of each suite that was asked for.
selected() {
  local suite
  for suite in "${suites[@]}"; do
    if [[ ${#wanted[@]} -eq 0 || " ${wanted[*]} " == *" ${suite#* } "* ]]; then echo "$suite"; fi
  done
}
for name in "${wanted[@]}"; do
  if ! printf '%s\n' "${suites[@]#* }" | grep -qxF -- "$name"; then
    die "no suite \"$name\"" "one of: ${suites[*]#* }"
  fi
done

if [[ $list_only ]]; then
  while read -r major codename; do echo "$major $cache/$codename"; done < <(selected)
  exit 0
fi

# Debian's pool carries every suite that is not archived yet.
mirror() {
  local base=${PGMT_MIRROR:-}
  # shellcheck disable=SC1091
  if [[ -z $base ]]; then read -r base _ < <(. /etc/os-release && distribution_sources "$VERSION_CODENAME") || true; fi
  echo "${base%/}" # some mirrors answer 400 to "//"
}

# make_folder MAJOR CODENAME FOLDER
make_folder() {
  local major=$1 codename=$2 folder=$3 recipe=$2
  # The recipes of all suites of this century are one file, and a new suite may not have its name yet.
  if [[ ! -e /usr/share/debootstrap/scripts/$codename ]]; then recipe=sid; fi
  # What is mounted on the way is seen by nobody else and goes with the process, interrupted or not.
  unshare --mount debootstrap --variant=minbase --keyring="$keyring" "$codename" "$folder" "$base" \
    "/usr/share/debootstrap/scripts/$recipe" || return

  # Debian's two switches: packages ask before they start a service, or create a cluster.
  printf '#!/bin/sh\nexit 101\n' >"$folder/usr/sbin/policy-rc.d"
  chmod 755 "$folder/usr/sbin/policy-rc.d"
  mkdir -p "$folder/etc/postgresql-common/createcluster.d"
  printf 'create_main_cluster = false\n' >"$folder/etc/postgresql-common/createcluster.d/pgmemtrace.conf"

  # shellcheck disable=SC2016
  local in_folder=(env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 unshare --mount sh -ec
    'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"' "$folder")
  # A mirror that stands still for a week is past the date in a testing suite's signed index.  For
  # programs to be tested any day's version will do, and debootstrap takes it, too.
  "${in_folder[@]}" apt-get -q -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false update || return
  "${in_folder[@]}" apt-get -q -o Dpkg::Use-Pty=0 --yes --no-install-recommends install "postgresql-$major" || return
  # Unpacked, not installed: it depends on a whole LLVM, and only its headers and PGXS are of use.
  # shellcheck disable=SC2016
  "${in_folder[@]}" sh -ec 'cd /var/cache/apt/archives && apt-get -q download "$1" && dpkg-deb -x "$1"_*.deb / && apt-get clean' \
    unpack "postgresql-server-dev-$major" || return
  [[ -x $folder/usr/lib/postgresql/$major/bin/postgres && -e $folder/usr/include/postgresql/$major/server/postgres.h ]] ||
    return
  # Servers in the folder run without mounts of their own: POSIX shared memory is a folder there.
  install -d -m 1777 "$folder/dev/shm"
}

failed=()
base=
while read -r major codename; do
  folder=$cache/$codename
  if [[ -d $folder ]]; then
    note "PostgreSQL $major: $folder"
    continue
  fi
  need_root "making $folder" "scripts/suites.sh $*"
  if [[ -z $base ]]; then base=$(mirror); fi
  if [[ -z $base ]]; then
    die "no Debian mirror among the sources in /etc/apt" "name one: PGMT_MIRROR=URL scripts/suites.sh"
  fi
  mkdir -p "$cache"
  say "PostgreSQL $major from $codename"
  log=$cache/$codename.log
  exec {lock}>"$cache/$codename.lock"
  flock "$lock" # another run may be making it
  if [[ ! -d $folder ]]; then
    rm -rf --one-file-system -- "$folder.new"
    if make_folder "$major" "$codename" "$folder.new" >"$log" 2>&1 </dev/null; then
      mv -- "$folder.new" "$folder"
    else
      tail -n 20 "$log" >&2
      warn "no folder for $codename: the whole log is $log"
      failed+=("$codename")
    fi
  fi
  exec {lock}>&-
  if [[ -d $folder ]]; then note "made $folder"; fi
done < <(selected)

if [[ ${#failed[@]} -gt 0 ]]; then
  die "could not make: ${failed[*]}" \
    "an archived suite has left most mirrors (PGMT_MIRROR names another); a signature that cannot be checked wants a newer debian-archive-keyring"
fi

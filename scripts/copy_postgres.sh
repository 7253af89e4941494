#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# copy_postgres.sh - a copy of a PostgreSQL, with sql/, its buggy extension and the twin of that built and
# installed.
#
# PostgreSQL finds its files from where its programs lie, so a copy under /tmp is an installation
# that nobody else uses, and the one it was taken from stays as it is.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: scripts/copy_postgres.sh FOLDER MAJOR DIRECTORY

FOLDER: "" for the host, or one of scripts/suites.sh.  DIRECTORY is there and empty, and named as it
is seen from FOLDER; the programs are then in DIRECTORY/lib/postgresql/MAJOR/bin.
END
}

[[ $# -eq 3 ]] || { usage >&2 && exit 2; }
folder=${1%/} major=$2 work=$3
bin=$work/lib/postgresql/$major/bin

mkdir -p "$folder$work"/{lib,share}/postgresql
cp -a "$folder/usr/lib/postgresql/$major" "$folder$work/lib/postgresql/"
cp -a "$folder/usr/share/postgresql/$major" "$folder$work/share/postgresql/"
ln -s "$folder/usr/include" "$folder$work/include"
mkdir "$folder$work/bpf"
cp -a "$root/sql" "$folder$work/"
cp -a "$root/bpf/layouts" "$folder$work/bpf/"
chown -R --no-dereference --reference="$root" "$folder$work"/{sql,bpf}

# The copy's pg_config, as seen from here.  Debian's of 13 says /usr from wherever it runs.
cat >"$folder$work/pg_config" <<END
#!/bin/sh
chroot "${folder:-/}" "$bin/pg_config" "\$@" | sed "s#^/usr/#$work/#; s#^/#$folder/#"
END
chmod 755 "$folder$work/pg_config"
for directory in --pkglibdir --sharedir; do
  case $("$folder$work/pg_config" $directory) in
  "$folder$work"/*) ;;
  *) die "pg_config $directory leads out of $folder$work" ;;
  esac
done
# Without a warning that only younger compilers know, and with what a younger C library declares.
echo 'extern __SIZE_TYPE__ strlcpy(char *, const char *, __SIZE_TYPE__);' >"$folder$work/younger.h"
cflags="$("$folder$work/pg_config" --cflags | sed 's/-Wmissing-variable-declarations//') -Werror"
if [[ $folder ]]; then cflags+=" -include $folder$work/younger.h"; fi
pgxs=(make -s -j2 PG_CONFIG="$folder$work/pg_config" with_llvm=no CFLAGS="$cflags")
for part in sql sql/test/module; do
  "${pgxs[@]}" -C "$folder$work/$part" clean >/dev/null # what somebody built in the checkout
  "${pgxs[@]}" -C "$folder$work/$part" install >/dev/null
done

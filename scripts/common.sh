# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
# common.sh - what the scripts of this folder share: messages, apt's sources, and who builds.
#
# Sourced, never run.  Sets `root` to the checkout.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# The jobs that need it start with `cd "$root"`; scripts may be called from anywhere.
export root

say() { printf '\n==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# die WHAT [HINT]
die() {
  printf 'error: %s\n' "$1" >&2
  if [[ $# -gt 1 ]]; then printf 'hint: %s\n' "$2" >&2; fi
  exit 3
}

is_root() { [[ $EUID -eq 0 ]]; }

need_root() { is_root || die "$1 needs root" "run: sudo $2"; }

# Under sudo the checkout belongs to somebody else: what is built stays theirs, so that they
# can go on without sudo.
as_owner() {
  local owner group home
  owner=$(stat -c %u "$root")
  if ! is_root || [[ $owner -eq 0 ]]; then
    "$@"
    return
  fi
  group=$(stat -c %g "$root")
  home=$(getent passwd "$owner" | cut -d: -f6)
  if [[ -d $root/build ]]; then chown -R --no-dereference "$owner:$group" "$root/build"; fi
  setpriv --reuid "$owner" --regid "$group" --clear-groups env HOME="${home:-/}" "$@"
}

# The distribution's own sources for one suite: "base-url entry", entry as FILE:NUMBER.
# Others may carry suites of the same name; the origin is known once the lists are there.
distribution_sources() {
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(CREATED_BY)|$(REPO_URI)|$(SOURCESENTRY)' |
    awk -F '|' -v suite="$1" 'tolower($1) ~ /^(debian|debian backports|ubuntu)$/ && $2 == suite &&
                              $3 == "main" && $4 == "Packages" && $5 !~ /^cdrom:/ { print $5, $6 }' |
    sort -u
}

# build PRESET [TARGET...]
build() {
  local preset=$1 targets=()
  shift
  if [[ $# -gt 0 ]]; then targets=(--target "$@"); fi
  cd "$root" || return
  # Every time: the demo may have configured it without tests.  A warning of a compiler that we have
  # not seen is no reason to refuse a user the program.
  as_owner cmake --preset "$preset" --log-level=WARNING -DPGMT_TESTS=ON -DPGMT_WERROR="${CI:+ON}" >/dev/null || return
  as_owner cmake --build --preset "$preset" "${targets[@]}"
}

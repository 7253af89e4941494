#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# arm64.sh - what of arm64 can be checked on an x86-64 machine: layouts, build, unit tests.
#
# Debian's arm64 packages are unpacked into a folder of their own, by an apt that has its own
# state: the machine's architectures, lists and packages stay as they are.  Starts no service.
# docs/arm64.md says what this shows and what it does not.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# Elsewhere if told; cmake/arm64.toolchain.cmake reads it, too.
export PGMT_ARM64=${PGMT_ARM64:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/pgmemtrace/arm64}

usage() {
  cat <<END
usage: scripts/arm64.sh [PART...]

  sysroot   Debian's arm64 libraries and server headers, once
  layouts   the structs against the arm64 server headers, by compiling
  build     the kernel half and the daemon, cross-compiled, with the tests of the planner
  unit      these tests under qemu-user, and does the daemon start

Without a part: all of them, in this order.  Needs clang, lld and a Debian mirror.

  PGMT_ARM64   where the packages are kept (now: $PGMT_ARM64)
END
}

parts=()
for argument in "$@"; do
  case $argument in
  sysroot | layouts | build | unit) parts+=("$argument") ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
  esac
done
if [[ ${#parts[@]} -eq 0 ]]; then parts=(sysroot layouts build unit); fi
wants() { [[ " ${parts[*]} " == *" $1 "* ]]; }

# scripts/install-deps.sh, for another architecture: what the daemon and its tests link.
libraries=(
  libc6-dev libstdc++-12-dev libcapstone-dev libcap-ng-dev zlib1g-dev libcli11-dev
  prometheus-cpp-dev nlohmann-json3-dev libspdlog-dev libfmt-dev libpq-dev libgtest-dev
  libgmock-dev
)
newer=(libbpf-dev libbpf1 libelf-dev libelf1 libdw-dev libdw1 linux-libc-dev) # from backports
servers=(13:bullseye 15:bookworm 17:trixie 18:forky) # whose headers are compared

# apt with a state of its own, for one architecture.
private_apt() {
  local command=$1
  shift
  APT_CONFIG=$PGMT_ARM64/apt/apt.conf "$command" "$@"
}

prepare_apt() {
  local apt=$PGMT_ARM64/apt mirror suite
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(CREATED_BY)|$(REPO_URI)' |
    awk -F '|' '$1 == "Debian" && $2 == "main" && $3 == "Packages" { print $4; exit }')
  [[ $mirror ]] || die "find a Debian mirror: none of the sources in /etc/apt is one"
  mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,sources}
  : >"$apt/state/status"
  for suite in bookworm bookworm-backports bullseye trixie forky; do
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' \
      "$mirror" "$suite" /usr/share/keyrings/debian-archive-keyring.gpg
  done >"$apt/sources/debian.sources"
  cat >"$apt/apt.conf" <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Default-Release "bookworm";
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
END
  private_apt apt-get update -q >"$PGMT_ARM64/log" 2>&1 ||
    die "apt-get update for arm64 failed" "read $PGMT_ARM64/log"
}

# Under another name until it is whole.
make_sysroot() {
  local new=$PGMT_ARM64/sysroot.new server deb
  if [[ -d $PGMT_ARM64/sysroot ]]; then return; fi
  say "arm64 packages, into $PGMT_ARM64"
  mkdir -p "$PGMT_ARM64"
  prepare_apt
  rm -rf -- "$new" "$PGMT_ARM64/headers"
  mkdir -p "$new" "$PGMT_ARM64"/{headers,tools}
  private_apt apt-get install -q --yes --download-only --no-install-recommends \
    "${libraries[@]}" "${newer[@]/%//bookworm-backports}" >>"$PGMT_ARM64/log" 2>&1 ||
    die "arm64 packages cannot be had" "read $PGMT_ARM64/log"
  for deb in "$PGMT_ARM64"/apt/cache/archives/*.deb; do dpkg-deb --extract "$deb" "$new"; done
  cd "$PGMT_ARM64/headers"
  for server in "${servers[@]}"; do
    private_apt apt-get download -q "postgresql-server-dev-${server%:*}/${server#*:}" >>"$PGMT_ARM64/log" 2>&1
  done
  for deb in *.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory "$new" ./usr/include/postgresql
  done
  cd "$PGMT_ARM64/tools"
  apt-get download -q qemu-user-static >>"$PGMT_ARM64/log" 2>&1 # the machine's own architecture
  dpkg-deb --extract qemu-user-static_*.deb .
  mv -- "$new" "$PGMT_ARM64/sysroot"
}

check_layouts() {
  say "layouts, against the arm64 server headers"
  "$root/scripts/check-layouts.sh" "$PGMT_ARM64/sysroot"
}

build_arm64() {
  say "build for arm64"
  cd "$root"
  cmake --preset arm64 --log-level=WARNING >/dev/null
  cmake --build --preset arm64 --target pgmemtrace planner_test
}

run_tests() {
  local emulator=("$PGMT_ARM64/tools/usr/bin/qemu-aarch64-static" -L "$PGMT_ARM64/sysroot")
  say "unit tests under qemu-user"
  "${emulator[@]}" "$root/build/arm64/bin/planner_test" --gtest_brief=1
  "${emulator[@]}" "$root/build/arm64/bin/pgmemtrace" --version
}

for tool in clang ld.lld; do
  command -v "$tool" >/dev/null || die "$tool is not installed" "sudo apt install clang lld"
done
make_sysroot
if wants layouts; then check_layouts; fi
if wants build; then build_arm64; fi
if wants unit; then run_tests; fi

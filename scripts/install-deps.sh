#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# install-deps.sh - the packages that pgmemtrace is built, shown and tested with.
#
# Debian 12 and 13, Ubuntu 24.04.  Does nothing, quickly, when all is there.  Starts no service
# and creates no PostgreSQL cluster: the packages of both would, and on a machine that observes
# another server nobody asked for that.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: sudo scripts/install-deps.sh [--list] [GROUP...]

  build    compilers, libraries and tools that build the program
  server   PostgreSQL from the distribution
  test     server, and what the tests and checks run
  bench    what the benchmarks compare with
  all      all of these

Without a group: build test.  --list prints the packages and installs nothing.
END
}

# shellcheck disable=SC1091
. /etc/os-release
case "${ID:-}:${VERSION_ID:-}" in
debian:12) pg_major=15 ;;
debian:13) pg_major=17 ;;
ubuntu:24.04) pg_major=16 ;;
*)
  die "install packages on ${PRETTY_NAME:-an unknown system}: not one of Debian 12, Debian 13, Ubuntu 24.04" \
    "scripts/install-deps.sh --list all, read on Debian 12 or 13, names what is needed" ;;
esac

build=(
  cmake ninja-build ccache pkgconf g++
  clang llvm                       # the kernel half; llvm-objcopy for the layouts
  libbpf-dev bpftool               # loading it; its skeleton
  libelf-dev libdw-dev zlib1g-dev  # ELF files and symbols
  libcapstone-dev                  # decoding instructions, for the probe planner
  libcli11-dev prometheus-cpp-dev nlohmann-json3-dev libspdlog-dev libfmt-dev
  libcap-ng-dev libpq-dev
  libprotobuf-dev protobuf-compiler # pprof reports
)
server=("postgresql-$pg_major") # the contrib modules are in it
test=(
  "${server[@]}" "postgresql-server-dev-$pg_major" make # the extension
  debootstrap # folders of other suites, for their PostgreSQL
  libgtest-dev libgmock-dev libclang-rt-dev
  valgrind # ms_print reads our massif files
  prometheus curl jq # the real Prometheus scrapes the daemon; promtool checks what it reads
  clang-format clang-tidy shellcheck
)
bench=("${server[@]}" libbenchmark-dev bpftrace valgrind jq)
# Debian 12 carries libbpf 1.1.  The four depend on one another's versions, so they come
# together from backports.
backports=(libbpf-dev bpftool libelf-dev libdw-dev)
libbpf_at_least=1.3

if [[ $ID == ubuntu ]] && ! apt-cache show bpftool >/dev/null 2>&1; then
  # There it was part of the kernel's tools at first.
  build=("${build[@]/#bpftool/linux-tools-generic}")
fi

if [[ $ID == debian ]]; then
  test+=(chromium) # report's page, as a reader sees it; Ubuntu has it as a snap alone
fi

# --- what is wanted, and what of it is missing ---

list_only=
wanted=()
for argument in "$@"; do
  case $argument in
  build) wanted+=("${build[@]}") ;;
  server) wanted+=("${server[@]}") ;;
  test) wanted+=("${test[@]}") ;;
  bench) wanted+=("${bench[@]}") ;;
  all) wanted+=("${build[@]}" "${test[@]}" "${bench[@]}") ;;
  --list) list_only=1 ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
  esac
done
if [[ ${#wanted[@]} -eq 0 ]]; then wanted=("${build[@]}" "${test[@]}"); fi
mapfile -t wanted < <(printf '%s\n' "${wanted[@]}" | sort -u)
if [[ $list_only ]]; then
  printf '%s\n' "${wanted[@]}"
  exit 0
fi

installed() { [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]; }
is_wanted() { printf '%s\n' "${wanted[@]}" | grep -qxF -- "$1"; }

libbpf_is_old() {
  local version
  version=$(dpkg-query -W -f '${Version}' libbpf-dev 2>/dev/null) || return 0
  dpkg --compare-versions "${version#*:}" lt "$libbpf_at_least"
}

missing=()
for package in "${wanted[@]}"; do
  installed "$package" || missing+=("$package")
done
from_backports=()
if [[ $ID:$VERSION_ID == debian:12 ]] && is_wanted libbpf-dev; then
  for package in "${backports[@]}"; do
    if libbpf_is_old || ! installed "$package"; then from_backports+=("$package"); fi
  done
  # All four or none: a part of them would not install.
  if [[ ${#from_backports[@]} -gt 0 ]]; then from_backports=("${backports[@]}"); fi
fi
if [[ ${#missing[@]} -eq 0 && ${#from_backports[@]} -eq 0 ]]; then
  echo "packages: all ${#wanted[@]} are installed"
  exit 0
fi
say "packages to install: ${missing[*]}"
if [[ ${#from_backports[@]} -gt 0 ]]; then
  note "from ${VERSION_CODENAME}-backports (libbpf >= $libbpf_at_least): ${from_backports[*]}"
fi
need_root "installing packages" "scripts/install-deps.sh $*"

# --- package lists ---

export DEBIAN_FRONTEND=noninteractive
scratch=$(mktemp -d)
cleanup=()
on_exit() {
  local command
  for command in "${cleanup[@]}"; do $command; done
  rm -rf -- "$scratch"
}
trap on_exit EXIT

# Third parties' sources may be out of reach: that is not our business.  The distribution's may not.
update_lists() {
  local status=0 base
  apt-get update "$@" >"$scratch/update" 2>&1 || status=$?
  while read -r base _; do
    if grep -E '^(Err:|W: Failed|E: )' "$scratch/update" | grep -qF -- "${base%/}"; then
      cat "$scratch/update" >&2
      die "apt-get update: $base cannot be read" "check /etc/apt and the network, then run this again"
    fi
  done < <(distribution_sources "$VERSION_CODENAME")
  if [[ -z $(distribution_sources "$VERSION_CODENAME") ]]; then
    cat "$scratch/update" >&2
    die "apt-get update: none of the sources in /etc/apt carries ${PRETTY_NAME}"
  fi
  if [[ $status -ne 0 ]] || grep -q '^Err:' "$scratch/update"; then
    note "some other source could not be read; going on without it"
  fi
}

# The Signed-By of a source, with the lines that continue it; nothing if it has none.
signed_by() {
  local file=${1%:*} number=${1##*:}
  case $file in
  *.sources)
    awk -v stanza="$number" '
      /^#/ { next }
      /^[[:space:]]*$/ { if (seen) { n++; seen = 0 } next }
      { seen = 1 }
      /^[^[:space:]]/ { inside = 0 }
      n + 1 == stanza && tolower($1) == "signed-by:" { inside = 1 }
      inside { print }' "$file" ;;
  *)
    sed -n "${number}s/.*[[ ]signed-by=\([^] ]*\).*/Signed-By: \1/p" "$file" ;;
  esac
}

add_backports() {
  local suite=${VERSION_CODENAME}-backports file=/etc/apt/sources.list.d/pgmemtrace-backports.sources
  local base entry
  if [[ -n $(distribution_sources "$suite") ]]; then return; fi
  read -r base entry < <(distribution_sources "$VERSION_CODENAME")
  {
    printf '# Written by pgmemtrace'\''s scripts/install-deps.sh, for libbpf >= %s.\n' "$libbpf_at_least"
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$base" "$suite"
    signed_by "$entry"
  } >"$file"
  note "added $file"
  # Only this one, and without dropping the lists of the others.
  update_lists -o Dir::Etc::sourcelist="$file" -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0
  if [[ -z $(distribution_sources "$suite") ]]; then
    rm -f -- "$file"
    cat "$scratch/update" >&2
    die "no $suite beside $base" "add a source for $suite to /etc/apt and run this again"
  fi
}

# --- no service, no cluster ---

# Debian's switch: packages ask this program before they start a service.
hold_services() {
  local policy=/usr/sbin/policy-rc.d
  if [[ -e $policy || -L $policy ]]; then
    mv -- "$policy" "$scratch/policy-rc.d"
    cleanup+=("mv -f -- $scratch/policy-rc.d $policy")
  else
    cleanup+=("rm -f -- $policy")
  fi
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
}

hold_main_cluster() {
  local folder=/etc/postgresql-common/createcluster.d
  mkdir -p "$folder" # postgresql-common reads it, and does not always bring it
  printf 'create_main_cluster = false\n' >"$folder/pgmemtrace-install.conf"
  cleanup=("rm -f -- $folder/pgmemtrace-install.conf" "${cleanup[@]}")
}

say "package lists"
update_lists
if [[ ${#from_backports[@]} -gt 0 ]]; then add_backports; fi

disable_prometheus=
if is_wanted prometheus && ! installed prometheus; then
  note "prometheus: its service will be neither started nor enabled"
  disable_prometheus=1
fi
if is_wanted "postgresql-$pg_major" && ! installed "postgresql-$pg_major"; then
  note "postgresql-$pg_major: no cluster will be created"
  hold_main_cluster
fi
hold_services

say "installing"
install=(apt-get install --yes --no-install-recommends -o Dpkg::Use-Pty=0 -q)
if [[ ${#from_backports[@]} -gt 0 ]]; then
  "${install[@]}" -t "${VERSION_CODENAME}-backports" "${from_backports[@]}"
fi
rest=()
for package in "${missing[@]}"; do
  installed "$package" || rest+=("$package")
done
if [[ ${#rest[@]} -gt 0 ]]; then "${install[@]}" "${rest[@]}"; fi
if [[ $disable_prometheus ]]; then
  # Where there is no systemd, in a container, the package enables it all the same.
  systemctl --quiet disable prometheus.service 2>/dev/null ||
    rm -f /etc/systemd/system/multi-user.target.wants/prometheus.service
fi

# Ubuntu's /usr/sbin/bpftool looks for the tools of the running kernel and fails on any other.
if is_wanted linux-tools-generic && ! bpftool version >/dev/null 2>&1; then
  newest=$(find /usr/lib/linux-tools* -name bpftool -print 2>/dev/null | sort -V | tail -n 1)
  if [[ -z $newest ]]; then die "no bpftool in linux-tools-generic"; fi
  ln -sf -- "$newest" /usr/local/sbin/bpftool
  note "/usr/local/sbin/bpftool -> $newest"
fi
say "packages: all ${#wanted[@]} are installed"

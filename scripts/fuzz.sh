#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# fuzz.sh - builds the fuzzers and runs each for a while; a table of what they did.
#
# They begin with the inputs in tests/fuzz/corpus/, and with seeds made from this machine's own
# binaries.  What they find on the way to more code is kept in build/fuzz/corpus/, for the next run;
# what makes them fail in build/fuzz/findings/.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: scripts/fuzz.sh [--seconds N] [--tree DIR] [FUZZER...]

  --seconds N   how long each runs (60)
  --tree DIR    runs those of this build folder and builds nothing (build/fuzz, which it builds)
  --list        the fuzzers, and nothing else

Without a FUZZER: all of them.  Exit status 1 if one found something: the input is named, and
  build/fuzz/bin/fuzz_NAME INPUT
shows it again.
END
}

cd "$root"
all=()
for source in tests/fuzz/*_fuzzer.cpp; do
  name=${source##*/}
  all+=("${name%_fuzzer.cpp}")
done

seconds=60
tree=
names=()
while [[ $# -gt 0 ]]; do
  case $1 in
  --seconds)
    if [[ ! ${2:-} =~ ^[1-9][0-9]*$ ]]; then usage >&2 && exit 2; fi
    seconds=$2
    shift
    ;;
  --tree)
    tree=${2:-}
    if [[ ! -d $tree/bin ]]; then die "$tree/bin: no such folder"; fi
    shift
    ;;
  --list) printf '%s\n' "${all[@]}" && exit 0 ;;
  -h | --help) usage && exit 0 ;;
  *)
    if [[ " ${all[*]} " != *" $1 "* ]]; then usage >&2 && exit 2; fi
    names+=("$1")
    ;;
  esac
  shift
done
if [[ ${#names[@]} -eq 0 ]]; then names=("${all[@]}"); fi

if [[ ! $tree ]]; then
  tree=build/fuzz
  say "build: fuzz"
  build fuzz
fi

# How large an input may get: what grows without reaching more is slow for nothing.
longest() {
  case $1 in
  elf | layout) echo 16384 ;;
  sinks) echo 4096 ;;
  *) echo 2048 ;;
  esac
}

# fuzz NAME: its log on stdout.
fuzz() {
  local name=$1 corpus=$tree/corpus/$1 begin=()
  as_owner mkdir -p "$corpus" "$tree/findings/$name"
  for directory in "tests/fuzz/corpus/$name" "$tree/seeds/$name"; do
    if [[ -d $directory ]]; then begin+=("$directory"); fi
  done
  # len_control=0: long inputs from the start, or a minute would be spent on short ones.
  as_owner "$tree/bin/fuzz_$name" -max_total_time="$seconds" -max_len="$(longest "$name")" -len_control=0 -timeout=10 \
    -rss_limit_mb=1024 -malloc_limit_mb=256 -print_final_stats=1 -verbosity=1 \
    -artifact_prefix="$tree/findings/$name/" "$corpus" "${begin[@]}" 2>&1
}

# A number that libFuzzer printed last: "cov" of its status lines, or one of its final statistics.
last_number() {
  sed -nE "s/.*$1:? +([0-9]+).*/\1/p" "$2" | tail -n 1
}

logs=$(mktemp -d)
trap 'rm -rf -- "$logs"' EXIT
findings=()
table=$(printf '%-10s %10s %8s %8s  %s' fuzzer runs branches inputs verdict)
for name in "${names[@]}"; do
  say "fuzz: $name, $seconds s"
  verdict=clean
  if ! fuzz "$name" >"$logs/$name"; then
    grep -vE '^(#[0-9]+|INFO:|\s*NEW_FUNC)' "$logs/$name" | head -n 60 || true
    input=$(sed -n 's/.*Test unit written to //p' "$logs/$name" | tail -n 1)
    verdict="FOUND ${input:-something; no input was kept}"
    findings+=("$name")
  fi
  table+=$'\n'$(printf '%-10s %10s %8s %8s  %s' "$name" \
    "$(last_number stat::number_of_executed_units "$logs/$name")" "$(last_number cov "$logs/$name")" \
    "$(find "$tree/corpus/$name" -type f | wc -l)" "$verdict")
done

say "fuzzers, $seconds s each"
printf '%s\n' "$table"
if [[ ${#findings[@]} -gt 0 ]]; then
  printf '\nFOUND by: %s\n' "${findings[*]}"
  exit 1
fi

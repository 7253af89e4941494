#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# test.sh - installs, builds, and runs every test; what each runner says last stands at the end.
#
# A part that fails does not keep the others from running.  With CI=true in the environment a
# test that has to be skipped, for want of root say, is a failure.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
usage: sudo scripts/test.sh [PART...]

  layouts   the structs that we read, against the server headers of every major at hand
  unit      no root, no kernel, no server
  asan      unit, under AddressSanitizer and UndefinedBehaviorSanitizer
  runtime   root: real probes on real servers
  cases     root: workloads with a known verdict, and a table of hits, misses, false alarms
  regress   root: the extension's SQL tests, on every major at hand
  fuzz      each fuzzer for ten seconds (scripts/fuzz.sh: for longer)

Without a part: all of them.
END
}

all_parts=(layouts unit asan runtime cases regress fuzz)
parts=()
for argument in "$@"; do
  case $argument in
  layouts | unit | asan | runtime | cases | regress | fuzz) parts+=("$argument") ;;
  -h | --help) usage && exit 0 ;;
  *) usage >&2 && exit 2 ;;
  esac
done
asked_for=("${parts[@]}")
if [[ ${#parts[@]} -eq 0 ]]; then parts=("${all_parts[@]}"); fi
wants() { [[ " ${parts[*]} " == *" $1 "* ]]; }

cd "$root"
ci=${CI:-}
if [[ $ci == false || $ci == 0 ]]; then ci=; fi
if [[ $ci ]]; then
  export PGMEMTRACE_REQUIRE_RUNTIME=1
else
  unset CI # gtest fixtures ask whether it is there
fi

logs=$(mktemp -d)
trap 'rm -rf -- "$logs"' EXIT
failed=()
summary=()

# Sets `took`: seconds since its last call.
took=0 lap_began=0
lap() { took=$((SECONDS - lap_began)) lap_began=$SECONDS; }

# verdict PART STATUS LOG: keeps ctest's closing lines for the end.
verdict() {
  local part=$1 status=$2 log=$3 closing line word=passed
  if [[ $status -ne 0 ]]; then
    failed+=("$part")
    word=FAILED
  fi
  closing=$(grep -E '^([0-9]+% tests passed|No tests were found|Total Test time|pg[0-9]+: |[[:space:]]+[0-9]+ - .*\((Failed|Not Run|Timeout|Skipped|SEGFAULT|Subprocess aborted).*\))' "$log" || true)
  lap
  summary+=("$(printf '%-8s %s, %s s' "$part" "$word" "$took")")
  while read -r line; do summary+=("         $line"); done <<<"$closing"
}

# How many tests of a label a build has.
count_tests() {
  ctest --test-dir "build/$1" -N -L "^$2\$" | sed -n 's/^Total Tests: //p'
}

# run_part PART PRESET LABEL [optional]
run_part() {
  local part=$1 preset=$2 label=$3 optional=${4:-} status=0
  local run=(ctest --test-dir "build/$preset" -L "^$label\$" --output-on-failure --no-tests=error)
  wants "$part" || return 0
  if [[ $optional && $(count_tests "$preset" "$label") == 0 ]]; then
    if [[ " ${asked_for[*]} " == *" $part "* ]]; then die "there are no $part tests yet"; fi
    summary+=("$(printf '%-8s none yet' "$part")")
    return 0
  fi
  say "$part tests"
  case $part in
  unit | asan | fuzz) as_owner "${run[@]}" --parallel "$(nproc)" ;; # no root where none is needed
  runtime | cases) "${run[@]}" --parallel 2 ;; # what may not share the machine is RUN_SERIAL
  *) "${run[@]}" ;;
  esac 2>&1 | tee "$logs/$part" || status=1
  verdict "$part" "$status" "$logs/$part"
}

if is_root; then
  scripts/install-deps.sh build test
  # Not to be made: CI's tests on those majors fail, others are skipped.
  if wants layouts || wants runtime || wants cases || wants regress; then scripts/suites.sh || warn "going on without the suites above"; fi
else
  scripts/install-deps.sh build test || warn "not root: going on with what is installed"
  if [[ $ci ]]; then die "CI asked for every test, and some need root"; fi
fi

lap
summary+=("$(printf '%-8s %s s' install "$took")")

# A build that fails is a failure of its own; what was built is tested all the same.
try_build() {
  local word=built
  build "$@" || { word=FAILED && failed+=("build of $1"); }
  lap
  summary+=("$(printf '%-8s %s, %s s' "$1" "$word" "$took")")
}

if wants layouts; then
  say "layouts"
  status=0
  scripts/check-layouts.sh 2>&1 | tee "$logs/layouts" || status=1
  verdict layouts "$status" "$logs/layouts"
fi
if wants unit || wants runtime || wants cases || wants regress; then
  say "build: release"
  try_build release
fi
sanitized=()
if wants asan; then sanitized+=(unit_tests); fi
if wants fuzz; then sanitized+=(fuzzers); fi
if [[ ${#sanitized[@]} -gt 0 ]]; then
  say "build: ${sanitized[*]}, with sanitizers"
  try_build asan "${sanitized[@]}"
fi

run_part unit release unit
run_part asan asan unit
run_part runtime release runtime
run_part cases release cases optional
run_part regress release regress
run_part fuzz asan fuzz

say "summary"
printf '%s\n' "${summary[@]}"
if [[ ${#failed[@]} -gt 0 ]]; then
  printf '\nFAILED: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nall passed\n'

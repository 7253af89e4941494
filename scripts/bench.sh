#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
# bench.sh - what each level costs a server, what a sweep costs, and the daemon itself.
#
# Wants a quiet machine.  Figures come in pairs of off and on within one run; compare them with
# each other, not with those of another run.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

if [[ ! -x build/release/bin/overhead_bench || ! -x build/release/bin/sweep_bench ]]; then
  cmake --preset release
  cmake --build --preset release --target overhead_bench sweep_bench
fi
build/release/bin/sweep_bench
exec build/release/bin/overhead_bench "$@"

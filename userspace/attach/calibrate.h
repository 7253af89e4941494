// SPDX-License-Identifier: BSD-2-Clause
// calibrate.h - what one probe hit costs on this machine, measured at start-up.
#pragma once

#include "util/result.h"

namespace pgmemtrace {

struct Calibration {
  double emulated_seconds = 0; // one hit of an empty program on an emulated instruction
  double stepped_seconds = 0;  // on a single-stepped one
  // The same behind a send, by the kernel's tracepoint (bpf/answer.bpf.h); 0: it has none.
  double send_seconds = 0;
};

// Probes two private functions of our own executable and calls them in tight loops, paired
// with loops over the same code unprobed; then sends to ourselves, with and without the
// tracepoint.  Takes about 80 ms, 30 of them to detach.  A tight
// loop has hot caches: callers multiply by kColdFactor.  Needs what the real probes need:
// CAP_BPF and CAP_PERFMON.
Result<Calibration> calibrate();

// A busy server's caches are cold: 0.45 us in the loop, 0.6 to 0.9 us there
// (facts/uprobe_costs.md).
inline constexpr double kColdFactor = 2.0;

} // namespace pgmemtrace

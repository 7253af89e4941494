// SPDX-License-Identifier: BSD-2-Clause
// growth_shape.h - whether what a test window found goes on growing, and how fast.
//
// A window compares two moments, so that what is filled once and for all looks like a leak to it.
// With moments in between, log-spaced over the executions of a workload, the two can be told
// apart:
//
//   used  .      ____________      filled once: dropped
//   used  .   .·˙                  linear: the later half grows as fast as the earlier one
//   used  .  .·'                   superlinear: more than 1.5 times as fast, one severity up
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "rules/violation.h"
#include "snapshot/snapshot.h"

namespace pgmemtrace {

struct GrowthPoint {
  std::uint32_t executions = 0; // since the window began
  std::shared_ptr<const ProcessSnapshot> snapshot;
};

// Of `found` what grew in the later half of `points`, too, with its shape and rates.  Findings
// without a context, such as segments of shared memory, stay as they are.  `points`: the window's
// begin, the moments between and its end; with fewer than three nothing can be told, and all stays.
std::vector<Violation> keep_growing(std::vector<Violation> found,
                                    std::span<const GrowthPoint> points);

} // namespace pgmemtrace

// SPDX-License-Identifier: BSD-2-Clause
// status.h - the whole of a snapshot in a few numbers, once per interval.
//
// Console and JSON both print it.  Time is that of the snapshots, so tests need no clock.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

struct Status {
  std::size_t contexts = 0;
  std::uint64_t total_bytes = 0; // of all contexts of all processes
  std::uint64_t used_bytes = 0;
  std::uint64_t private_bytes = 0;
  std::size_t incomplete = 0; // processes whose sums are a lower bound
  std::size_t dsm_segments = 0;
  std::uint64_t dsm_bytes = 0;
  std::shared_ptr<const ProcessSnapshot> biggest; // null without processes
  std::shared_ptr<const ProcessSnapshot>
      fastest; // grew most since the last status; null: none grew
  std::uint64_t fastest_bytes = 0;
  std::map<std::string, std::uint64_t> new_losses; // events and reads lost since the last status
};

class StatusTracker {
public:
  explicit StatusTracker(std::chrono::nanoseconds interval) : interval_(interval) {}

  // nullopt until about `interval` has passed since the last one; the first snapshot gives one.
  std::optional<Status> due(const Snapshot &snapshot);

private:
  void note_growth(const Snapshot &snapshot, Status &status);
  void note_losses(const Health &health, Status &status);

  std::chrono::nanoseconds interval_;
  std::optional<Clock::time_point> last_;
  std::map<ProcessId, std::uint64_t> totals_; // at the last status
  std::map<std::string, std::uint64_t> losses_;
};

} // namespace pgmemtrace

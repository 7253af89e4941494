// SPDX-License-Identifier: BSD-2-Clause
// close_looks.h - which processes have the starts and ends of their statements probed.
//
// It decides, the pipeline attaches.  Most sessions of a busy server repeat themselves: what their
// long-lived contexts hold stays as it is, and there is nothing that a statement could be blamed
// for.  Settle tells that, without a trap; only who grows for longer than its caches take to fill
// is worth two traps per statement.
#pragma once

#include <chrono>
#include <map>
#include <set>
#include <vector>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

class CloseLooks {
public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  struct Options {
    std::size_t at_a_time = 32;                      // where more grow, these speak for all
    Duration after = std::chrono::seconds(1);        // of growth ...
    Duration gap = std::chrono::seconds(3);          // ... without a longer pause
    Duration for_another = std::chrono::seconds(20); // once it is over
  };

  CloseLooks() = default;
  explicit CloseLooks(Options options) : options_(options) {}

  // The kernel half has seen its long-lived contexts grow.
  void grew(const ProcessId &process, Time now);
  // Those that are to have their starts probed; a copy: who turns out to be gone is forgotten.
  std::set<ProcessId> wanted() const { return wanted_; }
  // Those that no longer are: they have stopped growing.
  std::vector<ProcessId> over(Time now);
  // The process is gone, or cannot be probed.
  void forget(const ProcessId &process);

private:
  struct Growth {
    Time since, last;
  };

  Options options_;
  std::map<ProcessId, Growth> growing_;
  std::set<ProcessId> wanted_;
};

} // namespace pgmemtrace

// SPDX-License-Identifier: BSD-2-Clause
// escalation.h - which suspects get level block for a while, so that their code can be named.
//
// It decides, the pipeline attaches.  A suspect is a process of which a context is reported, at
// a level that does not say which code made it grow.  Few at a time, each for a while, and not the
// same one again soon: breakpoints in one process are cheap for all others, but not for it.
#pragma once

#include <chrono>
#include <map>
#include <span>
#include <vector>

#include "rules/violation.h"

namespace pgmemtrace {

class Escalation {
public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  struct Options {
    bool on = false;
    std::size_t at_a_time = 4;
    Duration look_for = std::chrono::minutes(1);
    Duration again_after = std::chrono::minutes(10);
  };

  explicit Escalation(Options options) : options_(options) {}

  // Processes to raise now, because of violations that were raised or updated.
  std::vector<ProcessId> raise(std::span<const Violation> changes, Time now);
  // Those whose time is up.
  std::vector<ProcessId> lower(Time now);
  // The process is gone.
  void forget(const ProcessId &process) { raised_.erase(process); }

private:
  struct Raised {
    Time since;
    bool looking = true;
  };

  Options options_;
  std::map<ProcessId, Raised> raised_;
};

} // namespace pgmemtrace

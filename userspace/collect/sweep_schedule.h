// SPDX-License-Identifier: BSD-2-Clause
// sweep_schedule.h - which process is swept when.
//
// Every process is swept each interval.  One that works is swept sooner: growth is judged
// over points, and a statement's memory is gone when it ends.  The gap is short while much
// changes and widens while little does, so that the points of a growing process lie about
// evenly on the logarithm of its size.  What is beyond the interval is paid from a budget of
// CPU time (`extra_share` of one core), most overdue first.
#pragma once

#include <chrono>
#include <map>
#include <vector>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

class SweepSchedule {
public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;

  struct Options {
    Duration interval = std::chrono::seconds(10);
    // Between two sweeps of a working process: at first, and when it hardly changes.
    Duration shortest = std::chrono::milliseconds(50);
    Duration steady = std::chrono::seconds(1);
    double extra_share = 0.02; // of one core, for sweeps before the interval is over
  };

  explicit SweepSchedule(Options options);

  void add(const ProcessId &process, Time now); // due at once
  void remove(const ProcessId &process);
  // It works: executes statements, uses CPU.
  void active(const ProcessId &process);
  // It was seen to grow: more than a sweep later would see.
  void growing(const ProcessId &process);
  // The processes to sweep now, in order.
  std::vector<ProcessId> due(Time now);
  // What a sweep found, compared with the last one.
  enum class Found { the_same, a_change, growth };
  // A sweep was done and took this much CPU.
  void swept(const ProcessId &process, Time now, Duration cpu, Found found);

private:
  struct Entry {
    Time last{};      // begin of the last sweep
    Duration gap{0};  // to the next one
    Duration work{0}; // the gap while it works
    bool first = true;
  };
  Time due_at(const Entry &entry) const
  {
    return entry.first ? entry.last : entry.last + entry.gap;
  }
  bool regular(const Entry &entry, Time now) const
  {
    return entry.first || now - entry.last >= options_.interval;
  }

  Options options_;
  std::map<ProcessId, Entry> entries_;
  Duration budget_; // may go below zero
  Time budget_at_{};
};

} // namespace pgmemtrace

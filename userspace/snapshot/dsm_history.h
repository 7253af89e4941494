// SPDX-License-Identifier: BSD-2-Clause
// dsm_history.h - how one server's dynamic shared memory developed, in bounded space.
//
// Segments are known by their handle: PostgreSQL draws it at random, so that another one with
// the same handle is next to impossible.  For each state that a healthy segment leaves again, the
// looks in a row that found it in that state are counted.  It does not judge: rules/dsm_leak.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "snapshot/dsm.h"
#include "snapshot/history.h"

namespace pgmemtrace {

struct DsmSegmentHistory {
  DsmSegment now;
  // Looks in a row at which ...
  std::uint32_t left_behind = 0;    // one process alone had it, outside of any transaction
  std::uint32_t orphaned = 0;       // nobody had it, and it was pinned
  std::uint32_t abandoned = 0;      // more had it than there are processes that do
  std::uint64_t first_requests = 0; // of its only holder, when that one was first seen alone
};

struct DsmPoint {
  HistoryTime time;
  std::uint64_t bytes = 0;
};

class DsmHistory final {
public:
  // Looks at one server, in the order of their time; an older one is ignored.
  void push(const DsmSnapshot &snapshot);

  const ProcessIdentity &postmaster() const { return postmaster_; }
  Clock::time_point taken_at() const { return taken_at_; }
  std::uint64_t looks() const { return looks_; }
  const std::map<std::uint32_t, DsmSegmentHistory> &segments() const { return segments_; }
  // Pieces of areas that outlive statements: pinned, and of no process that is in a transaction.
  std::span<const DsmPoint> area_bytes() const { return area_bytes_; }

private:
  void add_point(const DsmSnapshot &snapshot);

  ProcessIdentity postmaster_;
  Clock::time_point taken_at_;
  std::chrono::steady_clock::time_point first_moment_, moment_;
  std::uint64_t looks_ = 0;
  std::map<std::uint32_t, DsmSegmentHistory> segments_; // by handle
  std::vector<DsmPoint> area_bytes_;
};

} // namespace pgmemtrace

// SPDX-License-Identifier: BSD-2-Clause
// dsm.h - the dynamic shared memory of one server, as plain values.
//
//   control segment --> DsmSegment: handle, attachments, pinned
//   dsm_segment_list of each process --> DsmMapping: who has it, and until when
//   kernel half --> DsmOrigin: who created it, in which query, through which code
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "snapshot/snapshot.h"

namespace pgmemtrace {

struct DsmMapping {
  ProcessIdentity process;
  bool pinned = false;  // until the process detaches or ends; else until its resource owner goes
  bool idle = false;    // the process was outside a transaction when we looked
  bool session = false; // core's own for the session (access/session.h): parallel query makes it
  std::uint64_t requests = 0; // of the process, when we looked; 0: not counted
};

// dsm_create() as the kernel half saw it.
struct DsmOrigin {
  Clock::time_point time;
  ProcessId process;         // it may be gone
  std::uint32_t request = 0; // of the process, as DsmMapping::requests counts: their lower half
  std::uint64_t bytes = 0;
  std::string query; // first 1,024 bytes; empty if there was none
  std::uint64_t query_id = 0;
  std::vector<std::uint64_t> stack; // addresses, innermost first; empty: not captured
};

struct DsmSegment {
  std::uint32_t handle = 0;
  std::uint32_t attachments = 0; // as the control segment counts
  bool pinned = false;           // dsm_pin_segment(): stays though nobody has it
  bool in_main = false;          // a part of main shared memory (min_dynamic_shared_memory)
  bool seen = false;             // somebody could look inside, now or before: `area` is known
  bool area = false;             // a piece of a DSA area, which frees it
  bool registered = false;       // the DSM registry (17 and newer) knows its name
  bool settled = false;          // nobody attached or detached while we looked
  std::uint64_t bytes = 0;       // 0: not known
  std::vector<DsmMapping> mappings;
  std::optional<DsmOrigin> origin;
};

struct DsmSnapshot {
  ProcessIdentity postmaster;
  Clock::time_point taken_at;
  std::chrono::steady_clock::time_point moment;
  std::vector<DsmSegment> segments; // in the order of the control segment
  bool everybody = false;           // every process of the server was looked at
  bool complete = true;             // false: there are more segments or mappings than we take
};

// Of all segments whose size is known.
std::uint64_t total_bytes(const DsmSnapshot &dsm);

} // namespace pgmemtrace

// SPDX-License-Identifier: BSD-2-Clause
// dsm_areas.h - what segments of dynamic shared memory hold: pieces of DSA areas, and in them the
// names of segments.
//
// An area (PostgreSQL utils/mmgr/dsa.c) pins its segments and frees them itself: that nobody has
// one of them is no fault.  The DSM registry (storage/ipc/dsm_registry.c, 17 and newer) keeps
// what is named in a hash table in an area: such a segment will be attached again.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "collect/dsm_files.h"
#include "snapshot/dsm.h"

namespace pgmemtrace {

// dsa.c, the beginning of dsa_segment_header; the same in 13 to 18.
struct AreaHeader {
  std::uint32_t magic;
  std::uint32_t unused;
  std::uint64_t usable_pages;
  std::uint64_t size;
};

// The handles that areas may have, but for what the number of a piece adds to them.
class AreaHandles {
public:
  void add(std::uint32_t handle) { without_piece_.insert(handle / kMaxPieces); }
  // Is this the beginning of a segment of so many bytes that is a piece of such an area?
  bool has_piece(const AreaHeader &header, std::uint64_t bytes) const;

private:
  static constexpr std::uint32_t kMaxPieces = 1024;    // dsa.c, DSA_MAX_SEGMENTS
  std::unordered_set<std::uint32_t> without_piece_{0}; // areas in main shared memory have no handle
};

// Which of `segments`, by handle, have an entry in this piece of an area.  `budget`: bytes that may
// be read.
std::vector<std::uint32_t>
find_registered(const DsmFile &area,
                const std::unordered_map<std::uint32_t, const DsmSegment *> &segments,
                std::uint64_t &budget);

} // namespace pgmemtrace
